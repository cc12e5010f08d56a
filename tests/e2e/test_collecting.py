"""Outcomes that are collected through a whole gateway, from tasks with known answers, for a route to learn from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import anyio
import openai
import pytest
from aiohttp import web
from anyio import to_thread

from conformance.gateway import ROOT, Plan
from gateway.app.routing import routing_embedder
from gateway.audit.reader import Filter, Tail
from gateway.routing.collecting import kept_in
from gateway.routing.outcomes import embedded
from gateway.routing.tables import Judged
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, as_process, interlock, new_key, prepare, rules
from tests.routing.worlds import prompts
from tests.servers.models import Say, chat, error, serving

pytestmark = pytest.mark.anyio

CATALOGUE: Final = """
[models."weak/small"]
[models."strong/large"]
[routes.auto]
weak = "weak/small"
strong = "strong/large"
quality = 0.9
"""
RULES: Final = """
accepts_truncated if input.action.name == "model.call"

allow if input.subject.id != ""

deny contains {"code": "no_large", "message": "the large one is not for you", "public": true} if {
	input.subject.id == "user:poor"
	input.resource.id == "strong/large"
}

obligation contains {"type": "budget", "properties": {"scope": "subject", "name": "day", "calls": 3}} if {
	input.action.name == "model.call"
	input.subject.id == "user:short"
}

obligation contains {"type": "cache", "properties": {"mode": "exact", "ttl_s": 600}} if {
	input.action.name == "model.call"
}
"""
GREETINGS: Final = tuple([f"Write a friendly greeting, letter {number}" for number in range(4)])
TOKENS: Final = 30
"""Of one answer of the providers."""


@dataclass
class Answering:
    """A provider of one model that is right unless what it is asked begins with `fails`."""

    fails: str = "nothing"
    refuse: str = "nothing"
    """What begins so is answered with `status`."""
    status: int = 429
    seen: list[str] = field(default_factory=list)
    stops_at: int = 0
    """The answer to this one of all requests does not come before `released`."""
    stopped: anyio.Event = field(default_factory=anyio.Event)
    released: anyio.Event = field(default_factory=anyio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Chat completions."""
        text = str((await request.json())["messages"][-1]["content"])
        self.seen.append(text)
        if len(self.seen) == self.stops_at:
            self.stopped.set()
            with anyio.move_on_after(30):
                await self.released.wait()
        if text.startswith(self.refuse):
            return web.json_response(error("some_error", anthropic=False), status=self.status)
        return web.json_response(chat(Say(text="Wrong" if text.startswith(self.fails) else "It is RIGHT")))


@dataclass
class World:
    """A gateway as a process, its two providers, and the key files of those who ask."""

    place: Place
    weak: Answering
    strong: Answering
    running: ExitStack

    @property
    def file(self) -> Path:
        """The prompts whose answers are known."""
        return self.place.directory / "known.jsonl"

    @property
    def kept(self) -> Path:
        """Where outcomes go."""
        return self.place.state / "routing" / "auto.outcomes.jsonl"

    def write(self, texts: Sequence[str]) -> None:
        """Those prompts; `right` is the right answer to each."""
        self.file.write_text("".join(json.dumps({"prompt": text, "expect": "right$"}) + "\n" for text in texts))

    def lines(self) -> list[dict[str, Any]]:
        """What was kept."""
        return [json.loads(line) for line in self.kept.read_bytes().splitlines()]

    def words(self, *more: str, who: str = "ana") -> list[str]:
        """The command line."""
        key = str(self.place.directory / who)
        return ["models", "collect", str(self.file), "--url", self.place.url, "--key-file", key, *more]

    async def collect(self, *more: str, who: str = "ana") -> subprocess.CompletedProcess[str]:
        """Run it."""
        return await self.interlock(*self.words(*more, who=who))

    async def interlock(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Any command."""
        return await to_thread.run_sync(lambda: interlock(self.place, *words, timeout_s=300))

    @property
    def asked(self) -> tuple[int, int]:
        """How often each provider was."""
        return len(self.weak.seen), len(self.strong.seen)


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
async def there(tmp_path: Path, running: ExitStack) -> AsyncIterator[World]:
    weak, strong = Answering(fails="Add"), Answering()
    async with (
        serving(weak.answer, "/v1/chat/completions") as weak_url,
        serving(strong.answer, "/v1/chat/completions") as strong_url,
    ):
        upstreams = {"weak": {"type": "openai", "url": weak_url}, "strong": {"type": "openai", "url": strong_url}}
        place = prepare(tmp_path, Plan(upstreams, {"policy": rules(tmp_path, all=RULES)}))
        (tmp_path / "models.toml").write_text(CATALOGUE)
        for name in ("ana", "poor", "short"):
            (tmp_path / name).write_text(await new_key(place, name))
        await to_thread.run_sync(lambda: running.enter_context(as_process(place)))
        yield World(place, weak, strong, running)


async def test_what_is_collected_calibrates_the_route_and_the_next_call_goes_by_it(there: World) -> None:
    texts = prompts(300)
    there.write([text for text, _ in texts])
    await an_earlier_run(there, texts[:270])

    done = await there.collect()
    taught = await there.interlock("models", "calibrate", "--json")

    assert done.returncode == 0, done.stderr
    assert "auto: 30 prompts answered by weak/small and strong/large, with 1800 tokens" in done.stdout
    assert "next: `interlock models calibrate --route auto`" in done.stdout
    assert "30 of 300 prompts are to be asked" in done.stderr
    assert "\ncollect: 20 of 30 prompts" in done.stderr
    assert taught.returncode == 0, taught.stderr
    assert json.loads(taught.stdout)["outcomes"] == 300
    assert json.loads(taught.stdout)["apgr"] > 0.7
    async with openai.AsyncOpenAI(base_url=f"{there.place.url}/v1", api_key=key(there), max_retries=0) as client:
        hard = await eventually(lambda: routed(client, "Add the matrix of 5 and 7 to 1001", "why=gain"), within_s=60)
        easy = await routed(client, "Write a friendly greeting to Ann and Bert, letter 1001", "why=no_gain")
    assert "tier=strong" in hard
    assert "tier=weak" in easy


async def an_earlier_run(there: World, texts: Sequence[tuple[str, bool]]) -> None:
    """What it would have kept: the weak model gets sums wrong."""
    embedder = await to_thread.run_sync(routing_embedder)
    rows = [Judged(text, float(not hard), 1.0) for text, hard in texts]
    there.kept.parent.mkdir(parents=True, exist_ok=True)
    with kept_in(there.kept, embedder.name, ("weak/small", "strong/large")) as kept:
        for outcome in await embedded(rows, embedder):
            kept.append(outcome)


def key(there: World) -> str:
    """That of user:ana."""
    return (there.place.directory / "ana").read_text()


async def routed(client: openai.AsyncOpenAI, text: str, why: str) -> str:
    """What the gateway says of a routed call, if that is why."""
    raw = await client.chat.completions.with_raw_response.create(
        model="auto",
        messages=[{"role": "user", "content": text}],
        user=uuid4().hex,  # an answer that was given before says why it was given then
    )
    head = raw.headers["x-interlock-route"]
    return head if f"{why};" in head else ""


async def test_each_prompt_is_asked_of_both_models_by_name_under_policy_and_no_text_is_kept(there: World) -> None:
    there.write([*GREETINGS[:2], "Add 4 and 5", GREETINGS[0]])

    done = await there.collect("--json")

    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    counted = {name: told[name] for name in ("asked", "both", "only_strong", "only_weak", "neither", "left_out")}
    assert counted == {"asked": 3, "both": 2, "only_strong": 1, "only_weak": 0, "neither": 0, "left_out": 0}
    assert told["tokens"] == 6 * TOKENS
    assert told["missing"] == {"outcomes": 297, "only_strong": 19}
    assert [(line["weak"], line["strong"], line["task"]) for line in there.lines()] == [
        (1.0, 1.0, "chat"), (1.0, 1.0, "chat"), (0.0, 1.0, "chat"),
    ]  # fmt: skip
    assert there.lines()[0]["models"] == ["weak/small", "strong/large"]
    assert there.kept.stat().st_mode & 0o777 == 0o600
    assert b"greeting" not in there.kept.read_bytes()
    records = [json.loads(each) for each in Tail(there.place.state / "audit", Filter(action="model.call")).last(20)]
    assert sorted(each["resource"]["id"] for each in records) == ["strong/large"] * 3 + ["weak/small"] * 3
    assert {each["identity"]["subject"]["id"] for each in records} == {"user:ana"}


async def test_answers_that_the_gateway_keeps_are_not_taken_for_those_of_the_models_now(there: World) -> None:
    there.write(GREETINGS[:1])
    out = there.place.directory / "other.jsonl"

    await there.collect()
    again = await there.collect("--out", str(out))

    assert again.returncode == 0, again.stderr
    assert there.asked == (2, 2)
    assert len(out.read_bytes().splitlines()) == 1
    assert f"are needed for `interlock models calibrate {out} --route auto`" in again.stdout


async def test_a_run_that_is_interrupted_keeps_what_it_had_and_the_next_one_asks_only_the_rest(there: World) -> None:
    there.write(GREETINGS)
    there.strong.stops_at = 3
    env = {**os.environ, "PYTHONPATH": str(ROOT), "INTERLOCK_CONFIG": str(there.place.config)}
    process = await anyio.open_process(
        [sys.executable, "-m", "gateway", *there.words()], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with anyio.fail_after(60):
        async with process:
            await there.strong.stopped.wait()
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            said = b"".join([chunk async for chunk in process.stderr])
    there.strong.released.set()
    before = there.lines()

    done = await there.collect()

    assert process.returncode == 130
    assert b"2 outcomes are kept; the same command goes on from there" in said
    assert b"Traceback" not in said
    assert len(before) == 2
    assert there.lines()[:2] == before
    assert len(there.lines()) == 4
    assert "2 of 4 prompts are to be asked" in done.stderr
    assert there.weak.seen.count(GREETINGS[0]) == 1
    assert there.weak.seen.count(GREETINGS[3]) == 1


@pytest.mark.parametrize("status", [429, 503, 400])
async def test_a_prompt_that_a_model_cannot_be_asked_is_left_out_and_asked_again_by_the_next_run(
    there: World, status: int
) -> None:
    there.write([GREETINGS[0], "Tell me", GREETINGS[1]])
    there.strong.refuse, there.strong.status = "Tell", status

    done = await there.collect()
    there.strong.refuse = "nothing"
    again = await there.collect("--json")

    assert done.returncode == 1
    assert "line 2 is left out: strong/large: " in done.stderr
    assert "neither 0; left out 1" in done.stdout
    assert "next: this command again for those that were left out; 298 more outcomes (300 in all)" in done.stdout
    assert json.loads(again.stdout)["asked"] == 1
    assert again.returncode == 0, again.stderr
    assert len(there.lines()) == 3


async def test_where_one_model_is_denied_the_other_one_is_not_paid_for_and_it_ends_soon(there: World) -> None:
    there.write([f"{GREETINGS[0]}{number}" for number in range(30)])

    done = await there.collect(who="poor")

    assert done.returncode == 1
    assert "line 1 is left out: strong/large: " in done.stderr
    assert "10 prompts in a row could not be asked" in done.stderr
    assert there.asked == (1, 0)
    assert there.lines() == []


async def test_what_the_budget_of_the_operator_has_no_room_for_is_left_out(there: World) -> None:
    there.write(GREETINGS[:3])

    done = await there.collect("--json", who="short")

    assert json.loads(done.stdout)["asked"] == 1
    assert json.loads(done.stdout)["left_out"] == 2
    assert "line 2 is left out: strong/large: " in done.stderr
    assert "budget" in done.stderr


async def test_a_gateway_that_is_gone_is_said_once_and_what_was_kept_stays(there: World) -> None:
    there.write(GREETINGS[:1])
    await there.collect()
    there.write(GREETINGS)
    await to_thread.run_sync(there.running.close)

    done = await there.collect()

    assert done.returncode == 2
    assert f"error: no gateway answers at {there.place.url}" in done.stderr
    assert "1 outcomes are kept" in done.stderr
    assert "left out" not in done.stderr
    assert len(there.lines()) == 1
