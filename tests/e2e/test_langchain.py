"""langchain asks models of both vendors' providers through a gateway, well and badly."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import pytest
from anyio import to_thread

from conformance.gateway import ROOT, Plan, Table
from tests.e2e.place import in_process, new_key, prepare, rules
from tests.peers.environment import peers_python
from tests.servers.models import SECRET, Mode, Say, provider

POLICY: Final = 'allow if input.action.name in {"model.call", "model.list"}\n'
MODES: Final[tuple[Mode, ...]] = ("ok", "429", "500", "slow", "garbage", "cut", "error")
CALLING: Final = Say(text="", calls=(("call_1", "clock", '{"zone":"UTC"}'),), stop="tools")
LONG: Final = Say(text="word " * 40)
TEXT: Final = "Hello there, world."
STATUSES: Final[Mapping[str, int]] = {"429": 429, "500": 503, "slow": 504, "garbage": 502}
"""What the vendors' clients are told of each failure, whole or streamed."""


@asynccontextmanager
async def stubs() -> AsyncIterator[Mapping[str, Table]]:
    """A provider for each way to fare, behind an upstream for each vendor's API."""
    sections: dict[str, Table] = {}
    async with AsyncExitStack() as stack:
        for mode in (*MODES, "tools"):
            say = CALLING if mode == "tools" else Say() if mode == "ok" else LONG
            _, url = await stack.enter_async_context(provider(say, "ok" if mode == "tools" else mode))  # type: ignore[arg-type]
            more: Table = {"url": url, "timeout_s": 2}
            sections |= {f"openai-{mode}": {"type": "openai", **more}, f"claude-{mode}": {"type": "anthropic", **more}}
        yield sections


@pytest.fixture(scope="module")
async def told(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What langchain was told, by all of it."""
    python = await to_thread.run_sync(peers_python)
    async with stubs() as sections:
        directory = tmp_path_factory.mktemp("gateway")
        place = prepare(directory, Plan(sections, {"policy": rules(directory, all=POLICY)}))
        key = await new_key(place, "ana", "developer")
        command = [python, str(ROOT / "tests" / "peers" / "langchain_models.py"), place.url, key]

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

        async with in_process(place):
            done = await to_thread.run_sync(run)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout
    answers: Mapping[str, Any] = json.loads(done.stdout)
    return answers


pytestmark = [pytest.mark.slow, pytest.mark.anyio]


async def test_it_chats_streams_and_calls_tools_in_every_api_of_either_provider(told: Mapping[str, Any]) -> None:
    assert len(told["asked"]) == 6
    for way, fared in told["asked"].items():
        assert (way, fared["invoked"], fared["streamed"]) == (way, TEXT, TEXT)
        assert fared["called"] == ["clock", {"zone": "UTC"}]
        assert fared["used"] == [21, 9]


async def test_it_gets_vectors_and_their_limit(told: Mapping[str, Any]) -> None:
    assert told["embedded"] == [2, 2]
    assert (told["limited"]["status"], told["limited"]["wait"]) == (429, "17")


@pytest.mark.parametrize("mode", STATUSES)
async def test_a_provider_that_fails_is_the_vendor_s_own_error(told: Mapping[str, Any], mode: str) -> None:
    for way, fared in told["asked"].items():
        for answer in fared["failed"][mode]:
            assert answer.get("status") == STATUSES[mode], (way, answer)
            assert (answer["wait"] == "17") is (mode == "429"), (way, answer)


@pytest.mark.parametrize("mode", ["cut", "error"])
async def test_a_stream_that_breaks_is_no_answer(told: Mapping[str, Any], mode: str) -> None:
    for way, fared in told["asked"].items():
        whole, streamed = fared["failed"][mode]
        assert whole == {"said": LONG.text}, way
        assert "error" in streamed, (way, streamed)


async def test_a_model_that_nobody_has_is_named(told: Mapping[str, Any]) -> None:
    assert told["refused"]["status"] == 404
    assert "does not exist or is not visible" in told["refused"]["words"]
