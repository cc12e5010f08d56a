"""Routes of a whole gateway: OpenAI's own client on one side, two providers that fail as they are told on the other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from anyio import to_thread
from openai.types.chat import ChatCompletionMessageParam

from conformance.gateway import Plan
from gateway.audit.reader import Filter, Tail
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, in_process, interlock, new_key, prepare, rules
from tests.servers.launch import http_server
from tests.servers.models import MODEL, Provider, Say, provider, serving

pytestmark = pytest.mark.anyio

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi there"}]

CATALOGUE = f"""
sampling = ""

[models."weak/small"]
model = "{MODEL}"
usd_per_mtok_in = 1.0
usd_per_mtok_out = 10.0
context_tokens = 2000
lacks = ["tools"]

[models."broken/one"]
usd_per_mtok_in = 1.0
usd_per_mtok_out = 10.0

[models."strong/large"]
model = "{MODEL}"
usd_per_mtok_in = 10.0
usd_per_mtok_out = 100.0
context_tokens = 100000
max_output_tokens = 4096

[routes.auto]
weak = "weak/small"
strong = "strong/large"
quality = 0.9
retries = 0

[routes.auto-broken]
weak = "weak/small"
strong = "broken/one"
retries = 0

[routes.auto-safe]
weak = "weak/small"
strong = "strong/large"
fallbacks = ["echo/echo"]
retries = 0
cooldown_s = 600
"""

RULES = """
accepts_truncated if input.action.name == "model.call"

allow if input.subject.id != ""

deny contains {"code": "no_large", "message": "the large one is not for you", "public": true} if {
	input.subject.id == "user:poor"
	input.resource.id == "strong/large"
}

hold contains {"approvers": "group:finance", "title": "ask the large one"} if {
	input.subject.id == "user:held"
	input.resource.id == "strong/large"
}

obligation contains {"type": "budget", "properties": {"scope": "subject", "name": "day", "usd": 1, "calls": 100}} if {
	input.action.name == "model.call"
	input.subject.id == "user:ana"
}

obligation contains {"type": "cache", "properties": {"mode": "exact", "ttl_s": 600}} if {
	input.action.name == "model.call"
	"cached" in input.subject.properties.roles
}

obligation contains {"type": "model", "properties": {"models": ["weak/*", "echo/*"]}} if {
	input.resource.id == "auto:best"
	input.subject.id == "user:narrow"
}

obligation contains {"type": "model", "properties": {"stream": false}} if {
	input.action.name == "model.call"
	input.subject.id == "user:whole"
}
"""


@dataclass
class World:
    """The gateway and its two providers."""

    place: Place
    weak: Provider
    strong: Provider

    @asynccontextmanager
    async def client(self, name: str, *roles: str) -> AsyncIterator[openai.AsyncOpenAI]:
        """OpenAI's client for somebody, which does not try again by itself."""
        key = await new_key(self.place, name, *roles)
        async with openai.AsyncOpenAI(
            base_url=f"{self.place.url}/v1", api_key=key, max_retries=0, timeout=20
        ) as client:
            await eventually(lambda: known(client), within_s=30)
            yield client

    @property
    def asked(self) -> tuple[int, int]:
        """How often the weak and the strong provider were asked."""
        return len(self.weak.seen), len(self.strong.seen)

    def records(self, action: str = "model.call") -> list[Mapping[str, Any]]:
        """What the audit log holds by now, oldest first."""
        return [json.loads(body) for body in Tail(self.place.state / "audit", Filter(action=action)).last(80)]


async def known(client: openai.AsyncOpenAI) -> bool:
    """Whether the gateway has noticed the key."""
    try:
        await client.models.list()
    except openai.AuthenticationError:
        return False
    return True


async def broken(request: web.Request) -> web.StreamResponse:
    """A stream that is cut before its first event."""
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    assert request.transport is not None
    request.transport.abort()
    return answer


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[World]:
    async with (
        provider(Say(text="weak says")) as (weak, weak_url),
        provider(Say(text="strong says")) as (strong, url),
        serving(broken, "/v1/chat/completions") as broken_url,
    ):
        upstreams: Mapping[str, Mapping[str, object]] = {
            "weak": {"type": "openai", "url": weak_url, "timeout_s": 1},
            "strong": {"type": "openai", "url": url, "timeout_s": 1},
            "broken": {"type": "openai", "url": broken_url, "timeout_s": 1},
            "echo": {"type": "echo"},
        }
        place = prepare(tmp_path, Plan(upstreams, {"policy": rules(tmp_path, all=RULES)}))
        (tmp_path / "models.toml").write_text(CATALOGUE)
        async with in_process(place):
            yield World(place, weak, strong)


async def said(client: openai.AsyncOpenAI, model: str, **more: Any) -> tuple[str, Mapping[str, str]]:
    """The answer and the head of the response."""
    raw = await client.chat.completions.with_raw_response.create(model=model, messages=HI, **more)
    return str(raw.parse().choices[0].message.content), dict(raw.headers)


async def streamed(client: openai.AsyncOpenAI, model: str, **more: Any) -> tuple[str, Mapping[str, str]]:
    """The same, from a stream."""
    raw = await client.chat.completions.with_raw_response.create(model=model, messages=HI, stream=True, **more)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in raw.parse() if chunk.choices])
    return text, dict(raw.headers)


async def noted(there: World, count: int = 1) -> Sequence[Mapping[str, Any]]:
    """The notes of the routed calls, once there are so many."""

    async def look() -> list[Mapping[str, Any]]:
        notes = [json.loads(each["notes"]) for each in there.records() if "notes" in each]
        found = [each["route"] for each in notes if "route" in each]
        return found if len(found) >= count else []

    found: list[Mapping[str, Any]] = await eventually(look, within_s=30)
    return found


async def test_a_route_says_which_model_answers_and_why_in_the_head_of_either_answer(there: World) -> None:
    async with there.client("bo") as client:
        cheap, head = await said(client, "auto:cheap")
        best, best_head = await said(client, "auto:best")
        text, stream_head = await streamed(client, "auto:cheap")

    assert (cheap, best, text) == ("weak says", "strong says", "weak says")
    assert head["x-interlock-model"] == stream_head["x-interlock-model"] == "weak/small"
    assert best_head["x-interlock-model"] == "strong/large"
    assert 'auto; model="weak/small"; tier=weak; why=asked' in head["x-interlock-route"]
    assert "tier=strong; why=asked" in best_head["x-interlock-route"]
    assert "tier=weak" in stream_head["x-interlock-route"]
    assert head["x-interlock-route"].endswith("tries=1")
    assert stream_head["x-interlock-route"] == head["x-interlock-route"]


async def test_an_answer_that_policy_wants_whole_says_why_as_well_when_it_becomes_a_stream(there: World) -> None:
    async with there.client("whole") as client:
        text, head = await streamed(client, "auto:cheap")

    assert text == "weak says"
    assert "stream" not in there.weak.body
    assert head["x-interlock-model"] == "weak/small"
    assert "tier=weak; why=asked" in head["x-interlock-route"]


async def test_canaries_are_asked_anew_even_where_answers_are_kept(there: World) -> None:
    file = there.place.directory / "key"
    file.write_text(await new_key(there.place, "ana", "cached"))
    canaries = there.place.directory / "canaries.jsonl"
    canaries.write_text('{"prompt": "Who are you?", "expect": "weak"}\n\n')
    words = ("models", "canary", str(canaries), "--url", there.place.url, "--key-file", str(file))
    async with there.client("bo"):  # by then the gateway knows the keys
        done = [await to_thread.run_sync(lambda: interlock(there.place, *words)) for _ in range(2)]

    assert ["1 of 1 canaries pass" in each.stdout for each in done] == [True, True], done
    assert there.asked == (2, 0)


@pytest.mark.parametrize("mode", ["429", "500", "slow", "404", "garbage"])
async def test_where_the_chosen_model_fails_the_other_one_answers(there: World, mode: Any) -> None:
    there.strong.mode = mode

    async with there.client("bo") as client:
        whole, head = await said(client, "auto:best")
        there.strong.mode = mode
        text, _ = await streamed(client, "auto:best")

    assert (whole, text) == ("weak says", "weak says")
    assert "tier=weak; why=asked" in head["x-interlock-route"]
    note = (await noted(there))[0]
    assert note["tries"][0]["model"] == "strong/large"
    assert note["tries"][0]["outcome"] != "ok"
    assert note["tries"][-1]["model"] == "weak/small"


async def test_a_stream_that_breaks_before_its_first_event_is_begun_anew_elsewhere_and_charged_once(
    there: World,
) -> None:
    async with there.client("ana") as client:
        text, head = await streamed(client, "auto-broken:best")

    assert text == "weak says"
    assert head["x-interlock-model"] == "weak/small"
    budgets = await charged(there)
    assert budgets["usd"] == pytest.approx(21e-6 + 9e-5, abs=1e-9)


async def test_a_stream_that_breaks_after_its_first_event_is_not_begun_anew(there: World) -> None:
    there.strong.mode = "cut"

    async with there.client("bo") as client:
        with pytest.raises(openai.APIError):
            await streamed(client, "auto:best")

    assert there.asked == (0, 1)


async def charged(there: World) -> Mapping[str, float]:
    """What user:ana has spent, as the command line shows it."""
    key = await new_key(there.place, "ana")
    file = there.place.directory / "key"
    file.write_text(key)

    async def look() -> Mapping[str, float] | None:
        words = ("budgets", "list", "--json", "--url", there.place.url, "--key-file", str(file))
        done = await to_thread.run_sync(lambda: interlock(there.place, *words))
        listed = json.loads(done.stdout)["budgets"] if done.returncode == 0 else []
        return listed[0]["spent"] if listed and not listed[0]["held"].get("usd") else None

    found: Mapping[str, float] | None = await eventually(look, within_s=30)
    assert found is not None
    return found


async def test_what_several_attempts_cost_is_charged_once(there: World) -> None:
    there.strong.mode = "500"

    async with there.client("ana") as client:
        await said(client, "auto:best")

    spent = await charged(there)
    assert spent["usd"] == pytest.approx((16 * 1 + 5 * 1 + 9 * 10) / 1e6, abs=1e-9)
    assert spent["tokens"] == 30


async def test_a_model_that_policy_denies_is_passed_over_and_one_that_it_holds_is_told(there: World) -> None:
    async with there.client("poor") as poor, there.client("held") as held, there.client("narrow") as narrow:
        text, head = await said(poor, "auto:best")
        narrowed, _ = await said(narrow, "auto:best")
        with pytest.raises(openai.ConflictError, match=r"hold|wait|approv"):
            await said(held, "auto:best")

    assert text == narrowed == "weak says"
    assert "large" not in head["x-interlock-route"]
    assert there.asked == (2, 0)
    outcomes = {each["outcome"] for note in await noted(there, 3) for each in note["tries"]}
    assert {"policy_denied", "ok", "approval_pending"} <= outcomes


async def test_what_the_weak_model_cannot_take_goes_to_the_strong_one(there: World) -> None:
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    long: list[ChatCompletionMessageParam] = [{"role": "user", "content": "word " * 4_000}]
    endless: list[ChatCompletionMessageParam] = [{"role": "user", "content": "word " * 100_000}]

    async with there.client("bo") as client:
        text, _ = await said(client, "auto:cheap", tools=tools)
        answer = await client.chat.completions.create(model="auto:cheap", messages=long)
        with pytest.raises(openai.BadRequestError, match="holds at most") as refused:
            await client.chat.completions.create(model="auto:cheap", messages=endless)

    assert text == answer.choices[0].message.content == "strong says"
    assert refused.value.code == "context_length_exceeded"


async def test_a_provider_that_keeps_failing_is_left_alone(there: World) -> None:
    there.strong.mode = "500"

    async with there.client("bo") as client:
        for _ in range(5):
            await said(client, "auto-safe:best")

    assert there.asked == (5, 3)


async def test_where_nobody_answers_the_caller_is_told_what_was_tried(there: World) -> None:
    there.strong.mode, there.weak.mode = "500", "429"

    async with there.client("bo") as client:
        with pytest.raises(openai.InternalServerError, match=r"strong/large: upstream_unavailable; weak/small: quota"):
            await said(client, "auto:best")
        text, head = await said(client, "auto-safe:best")

    assert text == "Hi there"
    assert "tier=fallback" in head["x-interlock-route"]


@pytest.mark.parametrize("way", [said, streamed], ids=["whole", "stream"])
async def test_an_answer_is_given_again_to_the_same_caller_alone_and_costs_nothing(there: World, way: Any) -> None:
    async with there.client("ana", "cached") as ana, there.client("bo", "cached") as bo, there.client("cy") as cy:
        first, head = await way(ana, "auto:cheap")
        again, again_head = await way(ana, "auto:cheap")
        spent = await charged(there)
        other, other_head = await way(bo, "auto:cheap")
        await way(cy, "auto:cheap")
        await way(cy, "auto:cheap")
        await way(ana, "auto:cheap", temperature=0.5)

    assert first == again == other == "weak says"
    assert "x-interlock-cache" not in head
    assert again_head["x-interlock-cache"].startswith("hit; mode=exact; age_s=")
    assert "x-interlock-cache" not in other_head
    assert there.asked == (5, 0)
    assert spent["tokens"] == 30


async def test_a_kill_switch_of_one_provider_leaves_the_route_to_the_other(there: World) -> None:
    key = await new_key(there.place, "root", "operator")
    file = there.place.directory / "key"
    file.write_text(key)
    words = (
        "kill",
        "set",
        "upstream",
        "strong",
        "--reason",
        "it leaks",
        "--url",
        there.place.url,
        "--key-file",
        str(file),
    )

    async with there.client("bo") as client:
        done = await to_thread.run_sync(lambda: interlock(there.place, *words))
        assert done.returncode == 0, done.stdout + done.stderr
        text, head = await said(client, "auto:best")

    assert text == "weak says"
    assert there.asked == (1, 0)
    assert "tier=weak" in head["x-interlock-route"]


async def test_the_report_sets_what_was_paid_against_always_the_strong_model(there: World) -> None:
    async with there.client("bo") as client:
        for model in ("auto:cheap", "auto:cheap", "auto:cheap", "auto:best"):
            await said(client, model)
    await noted(there, 4)

    done = await to_thread.run_sync(lambda: interlock(there.place, "models", "report", "--json"))
    report = json.loads(done.stdout)
    in_words = await to_thread.run_sync(lambda: interlock(there.place, "models", "report"))

    (route,) = report["routes"]
    assert (route["route"], route["calls"], route["strong_calls"]) == ("auto", 4, 1)
    one = (16 * 1 + 5 * 1 + 9 * 10) / 1e6
    assert route["usd"] == pytest.approx(3 * one + 10 * one)
    assert route["strong_usd"] == pytest.approx(4 * 10 * one)
    assert in_words.returncode == 0
    assert "of what the strong model alone would have cost" in in_words.stdout


ASKING_RULES = """
allow if input.subject.id != ""
"""


@pytest.mark.parametrize("sampling", ["auto:cheap", ""])
async def test_a_question_of_a_legacy_server_for_its_clients_model_is_answered_by_a_route(
    tmp_path: Path, sampling: str
) -> None:
    """By the client, as before, where models.toml names no model: this one has none."""
    async with provider(Say(text="weak says")) as (weak, weak_url):
        with http_server("legacy_asker", tmp_path) as asker:
            upstreams = {"weak": {"type": "openai", "url": weak_url}, "one": {"url": asker.url}}
            place = prepare(tmp_path, Plan(upstreams, {"policy": rules(tmp_path, all=ASKING_RULES)}))
            (tmp_path / "models.toml").write_text(
                f'sampling = "{sampling}"\n[routes.auto]\nweak = "weak/m"\nstrong = "weak/n"\n'
            )
            key = await new_key(place, "ana")
            async with in_process(place), place.caller(key) as ana:
                told = await ana.call("one__ask_model", {"prompt": "say something"})

    assert len(weak.seen) == (1 if sampling else 0)
    if sampling:
        assert not told.failed, told.message
        assert "weak says" in told.text
        assert weak.body["messages"][-1]["role"] == "user"
    else:
        assert told.failed
