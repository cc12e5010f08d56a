"""litellm as one more way to reach providers: its real code, against a provider on loopback; slow to import."""

from __future__ import annotations

import gc
import gzip
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from typing import Any

import anyio
import pytest
from aiohttp import web

from adapters.models.litellm import litellm_upstream, load_litellm
from adapters.models.prices import PriceList, litellm_prices
from adapters.models.terms import Terms
from adapters.models.upstream import ModelUpstream
from gateway.errors import InvalidCall, PolicyDenied, QuotaExceeded, UpstreamUnavailable
from gateway.models import Price, Tokens
from tests.fakes import FakeRelay
from tests.models.front import ask, authorized
from tests.models.kits import KITS
from tests.servers.models import PATHS, SECRET, Mode, Say, chat, chat_frames, frame, provider, serving

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
TOOL = ("call_a", "get_weather", '{"city": "Paris"}')


OURS = (("Authorization", "Bearer sk-ours"), ("X-Team", "blue"))


@asynccontextmanager
async def running(url: str, headers: tuple[tuple[str, str], ...] = OURS) -> AsyncIterator[ModelUpstream]:
    if find_spec("litellm") is None:  # importing it here would not be how the gateway does it
        pytest.skip("litellm is not installed")
    upstream = litellm_upstream(Terms("p", url, headers=headers, timeout_s=60.0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upstream.run)
        yield upstream
        tasks.cancel_scope.cancel()


async def tried(api: str, body: dict[str, Any], say: Say | None = None, mode: Mode = "ok") -> tuple[Any, Any]:
    with anyio.fail_after(120):
        async with provider(say, mode) as (state, url), running(url) as upstream:
            return await ask_patiently(upstream, api, body), state


async def ask_patiently(upstream: ModelUpstream, api: str, body: dict[str, Any]) -> Any:
    return await ask(upstream, api, body, name="openai/gpt-4o-mini", within_s=100)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.api)
async def test_every_api_reaches_a_provider_through_litellm(kit: Any, stream: bool) -> None:
    asked, state = await tried(kit.api, {**kit.body(), "stream": stream}, Say(text="Looking.", calls=(TOOL,)))
    assert asked.error is None
    assert state.body["model"] == "gpt-4o-mini"
    assert state.seen[-1].headers["Authorization"] == "Bearer sk-ours"
    assert state.seen[-1].headers["x-team"] == "blue"
    said = str(asked.events) if stream else str(asked.answer)
    assert "get_weather" in said
    assert asked.result.usage.tokens == 30


async def test_a_limit_of_the_provider_is_told_without_its_words() -> None:
    asked, _ = await tried("chat.completions", KITS[0].body(), mode="429")
    assert isinstance(asked.error, QuotaExceeded)
    assert SECRET not in str(asked.error)
    asked, _ = await tried("chat.completions", KITS[0].body(), mode="500")
    assert isinstance(asked.error, UpstreamUnavailable)


@pytest.mark.parametrize("name", ["api_base", "mock_response", "fallbacks", "custom_llm_provider", "extra_headers"])
async def test_a_caller_cannot_reach_litellm_s_own_parameters(name: str) -> None:
    asked = await ask(litellm_upstream(Terms("p")), "chat.completions", {**KITS[0].body(), name: "http://evil"})
    assert isinstance(asked.error, InvalidCall)
    assert str(asked.error).startswith(name)


@pytest.mark.parametrize(("model", "path"), [("openai/gpt-4o", ""), ("anthropic/claude-3-5-haiku-20241022", "/v1")])
async def test_a_redirect_gets_neither_the_key_nor_the_prompt(model: str, path: str) -> None:
    async with provider() as (elsewhere, target):

        async def redirect(_: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"location": f"{target}/messages"})

        async with serving(redirect, *PATHS) as url, running(url.removesuffix(path)) as upstream:
            asked = await ask(upstream, "chat.completions", KITS[0].body(), name=model, within_s=100)

    assert isinstance(asked.error, UpstreamUnavailable)
    assert elsewhere.seen == []


@pytest.mark.parametrize(
    "model", ["anthropic/claude-x", "ollama/x", "gemini/gemini-2.5-pro", "bedrock/us.amazon.nova-lite-v1:0"]
)
async def test_an_image_that_a_caller_names_is_not_fetched(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[str] = []

    async def picture(request: web.Request) -> web.StreamResponse:
        asked_for.append(request.path)
        return web.Response(body=b"\x89PNG\r\n\x1a\n", content_type="image/png")

    async with (
        serving(picture, "/v1/x.png", method="GET") as elsewhere,
        provider() as (state, url),
        running(url.removesuffix("/v1")) as upstream,
    ):
        host = elsewhere.removeprefix("http://").removesuffix("/v1")
        monkeypatch.setattr(load_litellm(), "user_url_allowed_hosts", [host])  # as any host of the world is
        seen = {"type": "image_url", "image_url": {"url": f"{elsewhere}/x.png"}}
        body = {"model": "m", "messages": [{"role": "user", "content": [seen]}]}
        asked = await ask(upstream, "chat.completions", body, name=model, within_s=100)

    assert asked_for == []
    assert type(asked.error) is InvalidCall
    assert "as data" in str(asked.error)
    assert state.seen == []


async def test_what_is_packed_is_not_unpacked() -> None:
    async def packed(_: web.Request) -> web.StreamResponse:
        body = gzip.compress(json.dumps(chat(Say())).encode())
        return web.Response(body=body, content_type="application/json", headers={"content-encoding": "gzip"})

    async with serving(packed, *PATHS) as url, running(url) as upstream:
        asked = await ask_patiently(upstream, "chat.completions", KITS[0].body())

    assert isinstance(asked.error, UpstreamUnavailable)


async def test_a_call_that_a_connection_loses_is_not_made_again() -> None:
    asked_for: list[str] = []

    async def lose(request: web.Request) -> web.StreamResponse:
        asked_for.append(request.path)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with serving(lose, *PATHS) as url, running(url.removesuffix("/v1")) as upstream:
        asked = await ask(upstream, "chat.completions", KITS[0].body(), name="anthropic/claude-x", within_s=100)

    assert isinstance(asked.error, UpstreamUnavailable)
    assert asked_for == ["/v1/messages"]


async def test_a_caller_that_leaves_ends_the_stream_at_the_provider() -> None:
    left = anyio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        (_, first), (name, data), *_ = chat_frames(Say(), {})
        await answer.write(frame("", first))
        with suppress(ConnectionError):
            while True:
                await answer.write(frame(name, data))
                await anyio.wait_all_tasks_blocked()
        left.set()
        return answer

    relay = FakeRelay()
    relay.refuse_events = PolicyDenied("not this")
    call = authorized("chat.completions", {**KITS[0].body(), "stream": True}, name="openai/gpt-4o")
    gc.disable()  # it is not to be the one who closes it
    try:
        async with serving(endless, *PATHS) as url, running(url) as upstream:
            with anyio.fail_after(100), pytest.raises(PolicyDenied):
                await upstream.execute(call, relay)
            with anyio.fail_after(10):
                await left.wait()
    finally:
        gc.enable()


async def test_an_upstream_that_ends_leaves_the_calls_of_others_alone() -> None:
    asked: list[Any] = []

    async def call() -> None:
        asked.append(await ask_patiently(one, "chat.completions", {**KITS[0].body(), "stream": True}))

    async with provider(mode="silent") as (state, url), running(url) as one, anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        with anyio.fail_after(100):
            while not state.seen:
                await anyio.wait_all_tasks_blocked()
            async with running(url) as other:
                await ask(other, "embeddings", {"model": "m", "input": ["a"]}, name="openai/e", within_s=100)
            state.mode = "ok"
            again = await ask_patiently(one, "chat.completions", KITS[0].body())
            state.released.set()

    assert again.error is None
    assert asked[0].events[-1]["choices"][0]["finish_reason"] == "stop"  # it went on until its provider ended it


async def test_a_server_that_was_given_no_key_is_not_sent_the_environment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")

    async with provider() as (state, url), running(url, ()) as upstream:
        asked = await ask_patiently(upstream, "chat.completions", KITS[0].body())

    assert asked.error is None
    assert "sk-of-the-environment" not in str(state.seen[-1].headers)


async def test_embeddings_reach_a_provider_through_litellm() -> None:
    asked, _ = await tried("embeddings", {"model": "m", "input": ["a"], "encoding_format": "float"})
    assert asked.error is None
    assert asked.answer["data"][0]["embedding"] == [0.5, -0.25]


def test_prices_are_known_without_importing_litellm() -> None:
    prices = litellm_prices()
    known = prices.find("gpt-4o")
    assert known is not None
    priority = Price(4_250_000_000, 17_000_000_000, 2_125_000_000)
    assert known.price == Price(2_500_000_000, 10_000_000_000, 1_250_000_000, services=(("priority", priority),))
    assert (known.context_tokens, known.max_output_tokens, known.provider) == (128_000, 16_384, "openai")
    assert known.price is not None
    assert known.price.cost(Tokens(input=1_000, output=10, cached=400)) == 600 * 2_500 + 400 * 1_250 + 10 * 10_000
    assert prices.price("no such model") is None
    assert PriceList({}).find("gpt-4o") is None


def test_a_model_that_the_list_gives_away_has_no_price_that_is_known() -> None:
    prices = litellm_prices()
    known = prices.find("gigachat/GigaChat-2-Max")
    assert known is not None
    assert known.context_tokens > 0
    assert prices.price("gigachat/GigaChat-2-Max") is None
    half = PriceList({"e": {"input_cost_per_token": 1e-7, "output_cost_per_token": 0.0}})
    assert half.price("e") == Price(100_000_000)


def test_litellm_is_loaded_without_a_word_to_the_network() -> None:
    words = (
        "import socket, sys\n"
        "from adapters.models.litellm import load_litellm\n"
        "asked = []\n"
        "def heard(name, args):\n"
        "    if name in ('socket.connect', 'socket.getaddrinfo'): asked.append(args)\n"
        "sys.addaudithook(heard)\n"
        "module = load_litellm()\n"
        "sys.exit(str(asked) if asked or module.telemetry or module.callbacks else 0)\n"
    )
    if find_spec("litellm") is None:
        pytest.skip("litellm is not installed")
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == done.stdout == b""


def test_what_the_first_calls_need_is_imported_together_with_litellm() -> None:
    words = (
        "import sys; from adapters.models.litellm import load_litellm; load_litellm();"
        "sys.exit(not {'openai.resources.chat.completions', 'tiktoken_ext.openai_public'} <= set(sys.modules))"
    )
    if find_spec("litellm") is None:
        pytest.skip("litellm is not installed")
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()


def test_the_adapters_import_litellm_only_when_it_is_used() -> None:
    words = "import sys, adapters.models.litellm, adapters.models.prices as p; p.litellm_prices();"
    done = subprocess.run(
        [sys.executable, "-c", f"{words} sys.exit('litellm' in sys.modules)"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
