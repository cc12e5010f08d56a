"""What a route decides by, what it says of it, and what it learns from answers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest

from gateway import codec
from gateway.errors import InvalidCall, PolicyDenied, UpstreamTimeout
from gateway.models import ProviderRefused, read_answer
from gateway.pipeline import Pipeline
from gateway.ports import Relay
from gateway.routing.guard import QualityGuard
from gateway.routing.judging import Heard, asked_in, signals_of
from gateway.routing.reporting import in_words, report_of
from gateway.routing.tasks import task_of_text
from gateway.telemetry.spans import Leg, spans_of
from gateway.types import Authorized, Call, FrozenDict, Identity, Obligation, Reason, Result, freeze
from tests.fakes import ANA, FakeExchange, FakeIdentifier, permit_for
from tests.routing_calls.world import World, answer_of, said

pytestmark = pytest.mark.anyio

PREFERRED = {
    "auto": 0.9, "auto:quality=0.5": 0.5, "auto:cheap": 0.0, "auto:cheap,quality=0.7": 0.7, "auto:best": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(("name", "quality"), PREFERRED.items())
async def test_what_the_caller_prefers_is_the_quality_that_is_asked_for(name: str, quality: float) -> None:
    world = World()

    await world.ask(name)

    assert world.router.asked == [("Hi", quality)]


async def test_fast_is_the_model_that_answered_sooner() -> None:
    world = World()

    async def slow(authorized: Authorized, relay: Relay) -> Result:
        world.clock.now += 3
        return Result(codec.dumps(answer_of("slow")))

    world.small.steps = [slow]
    first = await world.ask("auto:fast")
    await world.ask("auto:best")

    assert (said(first), said(await world.ask("auto:fast"))) == ("slow", "large says")


REFUSED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "another preference": ("auto:pretty", {}),
    "what one provider keeps": ("auto", {"previous_response_id": "r1"}),
}


@pytest.mark.parametrize(("name", "more"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_no_route_can_do_is_said(name: str, more: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidCall):
        await World().ask(name, **more)


async def test_vectors_are_of_one_model() -> None:
    world = World()
    params = cast("FrozenDict", freeze({"model": "auto", "input": "x"}))
    call = Call("c1", "model.call", "embeddings", world.resolve("auto"), params, "model")

    with pytest.raises(InvalidCall, match="vectors of two models cannot be compared"):
        await world.pipeline.handle(call, ANA, world.exchange)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "required": ["a"]}}}
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]
NEEDS: Mapping[str, tuple[Mapping[str, object], Mapping[str, Any]]] = {
    "tools": ({"lacks": ["tools"]}, {"tools": [TOOL]}),
    "a form": ({"lacks": ["json_schema"]}, {"response_format": SCHEMA}),
    "pictures": ({"lacks": ["images"]}, {"messages": PICTURE}),
    "room": ({"context_tokens": 40}, {"text": "word " * 50}),
    "room for the answer": ({"context_tokens": 100}, {"max_tokens": 99}),
    "long answers": ({"max_output_tokens": 50}, {"max_tokens": 51}),
}


@pytest.mark.parametrize(("facts", "asked"), NEEDS.values(), ids=NEEDS.keys())
async def test_what_a_model_cannot_take_goes_to_one_that_can(
    facts: Mapping[str, object], asked: Mapping[str, Any]
) -> None:
    world = World(catalog={"small": dict(facts)})
    params = {"model": "auto:cheap", "messages": [{"role": "user", "content": asked.get("text", "Hi")}], **asked}
    params.pop("text", None)
    call = Call(
        "c1", "model.call", "chat.completions", world.resolve("auto:cheap"), cast("FrozenDict", freeze(params)), "model"
    )

    result = await world.pipeline.handle(call, ANA, world.exchange)

    assert said(result) == "large says"


async def test_what_fits_no_model_is_refused_in_words_that_clients_know() -> None:
    world = World(catalog={name: {"context_tokens": 40} for name in ("small", "large", "spare")})

    with pytest.raises(ProviderRefused, match="small/one holds at most 40 tokens") as refused:
        await world.ask(text="word " * 50)

    assert refused.value.too_long


async def test_a_model_without_streams_is_asked_for_the_whole_answer() -> None:
    world = World(catalog={"large": {"lacks": ["streaming"]}})

    result = await world.ask(stream=True)

    assert said(result) == "large says"
    assert "stream" not in world.large.seen[0].call.params


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_call_cost_is_told_beside_what_the_strong_model_would_have(stream: bool) -> None:
    world = World()

    result = await world.ask("auto:cheap", stream=stream)

    note = world.note
    assert (note["model"], note["served"], note["why"], note["task"]) == ("small/one", "weak", "gain", "chat")
    assert note["input_tokens"] + note["output_tokens"] == 15
    assert note["nano_usd"] == 150
    assert note["strong_nano_usd"] == note["input_tokens"] * 10_000 + note["output_tokens"] * 100_000
    assert result.usage is None  # the concrete call is charged, and this one no second time
    assert world.trail.records[0].call.parent_id == "c1"


async def test_a_client_of_a_stream_hears_of_the_choice_before_its_first_event() -> None:
    world = World()

    await world.ask(stream=True)

    (told,) = world.exchange.told
    assert told[1]["logger"] == "interlock.route"
    assert cast("Mapping[str, str]", told[1]["data"])["model"] == "large/one"


# What is learned from answers


async def test_refusals_and_broken_forms_of_the_weak_model_raise_the_alarm() -> None:
    guard = QualityGuard()
    world = World(guard=guard)
    good, bad = answer_of('{"a": 1}'), answer_of("sorry, no JSON today")
    world.small.steps = [*[good] * 120, *[bad] * 120]

    for _ in range(120):
        await world.ask("auto:cheap", response_format=SCHEMA)
    before = guard.of(ANA.tenant).alarm
    while guard.of(ANA.tenant).alarm is None and world.small.steps:
        await world.ask("auto:cheap", response_format=SCHEMA)

    raised = guard.of(ANA.tenant).alarm
    assert before is None
    assert raised is not None
    assert raised.signal == "schema_failure"
    assert guard.of("another").alarm is None


def cached_below(world: World) -> None:
    """Have answers of the models be kept, and those of the route not."""
    cache = Obligation("cache", {"mode": "exact", "ttl_s": 60})
    world.decider.decide_with = lambda call, identity: (
        permit_for(call, identity)
        if call.resource.upstream == "models"
        else replace(permit_for(call, identity), obligations=(cache,))
    )


async def test_an_answer_that_was_there_already_says_nothing_of_a_model_and_costs_nothing() -> None:
    world = World()
    cached_below(world)
    world.small.steps = [answer_of("sorry, no JSON today")]
    first = await world.ask("auto:cheap", response_format=SCHEMA)
    again = await world.ask("auto:cheap", response_format=SCHEMA)

    assert (again.payload, world.asked) == (first.payload, (1, 0, 0))
    assert dict(again.headers)[b"x-interlock-cache"].startswith(b"hit; mode=exact")
    assert (world.note["cached"], world.note["nano_usd"], world.note["input_tokens"]) == (True, 0, 0)
    assert "signals" not in world.note
    entries = [{"notes": json.dumps(record.notes)} for record in world.trail.records]
    report = cast("Any", report_of(entries).as_json())
    assert (report["routes"][0]["calls"], report["answers_from_the_cache"]) == (1, 1)


async def test_an_answer_that_was_there_already_makes_no_model_a_fast_one() -> None:
    world = World()
    cached_below(world)

    async def slowly(authorized: Authorized, relay: Relay) -> Result:
        world.clock.now += 8
        return Result(codec.dumps(answer_of("at last")))

    async def sooner(authorized: Authorized, relay: Relay) -> Result:
        world.clock.now += 2
        return Result(codec.dumps(answer_of("small says")))

    world.large.steps, world.small.steps = [slowly], [sooner]
    await world.ask("auto:cheap")
    for _ in range(30):
        await world.ask("auto:best")

    assert world.asked == (1, 1, 0)
    assert not world.routed.speeds.faster("large/one", "small/one")


ANSWERS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, bool]]] = {
    "plain": ({}, {"content": "Hi"}, {"refusal": False}),
    "refusal": ({}, {"content": None, "refusal": "No."}, {"refusal": True}),
    "form": ({"response_format": SCHEMA}, {"content": '{"a":1}'}, {"refusal": False, "schema_failure": False}),
    "missing": ({"response_format": SCHEMA}, {"content": '{"b":1}'}, {"refusal": False, "schema_failure": True}),
    "tool": (
        {"tools": [TOOL]},
        {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"refusal": False, "schema_failure": False},
    ),
    "other tool": (
        {"tools": [TOOL]},
        {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
        {"refusal": False, "schema_failure": True},
    ),
}


@pytest.mark.parametrize(("asked", "message", "signals"), ANSWERS.values(), ids=ANSWERS.keys())
def test_answers_are_judged_by_their_form_streamed_or_whole(
    asked: Mapping[str, Any], message: Mapping[str, Any], signals: Mapping[str, bool]
) -> None:
    stop = "tool_calls" if "tool_calls" in message else "stop"
    whole = answer_of("")
    whole["choices"] = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": stop}]
    delta = {**message, "tool_calls": [{"index": 0, **each} for each in message.get("tool_calls", [])]}
    heard = Heard("chat.completions")
    for choice in ({"index": 0, "delta": delta}, {"index": 0, "delta": {}, "finish_reason": stop}):
        heard.feed(json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode())
    request = asked_in("chat.completions", {"model": "m", "messages": [{"role": "user", "content": "x"}], **asked})

    assert signals_of(request, read_answer("chat.completions", whole)) == signals
    assert signals_of(request, heard.answer) == signals


TASKS = {
    "Hi": "chat", "def f():\n    return 1": "code", "How many is 3 * 4?": "math",
    "a" * 300: "text", "a" * 5_000: "long",
}  # fmt: skip


@pytest.mark.parametrize(("text", "task"), TASKS.items(), ids=TASKS.values())
def test_tasks_are_told_apart_by_their_form(text: str, task: str) -> None:
    assert task_of_text(text) == task


@pytest.mark.parametrize("text", ["\n" * 16_000 + "x", " \t" * 8_000 + "x", "; " * 8_000, ")" * 16_000, "1 " * 8_000])
def test_no_prompt_takes_long_to_be_classed(text: str) -> None:
    before = time.thread_time()

    task_of_text(text)

    assert time.thread_time() - before < 1


async def test_a_report_adds_up_what_records_say_and_nothing_else() -> None:
    world = World()
    await world.ask("auto:cheap")
    await world.ask("auto:best")
    entries = [{"notes": json.dumps(record.notes)} for record in world.trail.records if record.notes]

    report = report_of([*entries, {"notes": "no JSON"}, {}, {"notes": json.dumps({"cache": {"hit": True}})}])

    shown = cast("Any", report.as_json())
    (route,) = shown["routes"]
    assert (route["calls"], route["strong_calls"], route["tokens"]) == (2, 1, 30)
    assert route["usd"] == 300e-9
    assert route["strong_usd"] == pytest.approx((150 + 10 * 10_000 + 5 * 100_000) / 1e9)
    assert route["expected_quality"] is None
    assert shown["answers_from_the_cache"] == 1
    assert any("not measured: calibrate the route" in line for line in in_words(report))


@pytest.mark.parametrize(
    ("model", "chosen", "down", "expected"),
    [
        ("auto", "weak", (), 0.9),
        ("auto", "weak", ("small",), 0.9),
        ("auto", "strong", ("large",), None),
        ("auto", "weak", ("small", "large"), None),
        ("auto:fast", "strong", (), 0.0),
        ("auto:best", "weak", (), 1.0),
    ],
)
async def test_the_quality_of_a_call_is_what_was_measured_of_the_models_that_answer_it(
    model: str, chosen: str, down: tuple[str, ...], expected: float | None
) -> None:
    world = World(expected=lambda quality: quality)
    world.router.tier = chosen
    for name in down:
        getattr(world, name).steps = [UpstreamTimeout("late")]

    await world.ask(model)

    assert world.note["expected_quality"] == expected


# Kill switches


class Switch:
    """A kill switch for one upstream."""

    def __init__(self) -> None:
        self.of = ""

    def refusal(self, call: Call, identity: Identity) -> Reason | None:
        return Reason("killed", "it leaks") if call.resource.upstream == self.of else None


@pytest.mark.parametrize(("killed", "answered"), [("large", True), ("models", False)])
async def test_a_kill_switch_ends_the_attempt_in_flight_and_another_model_answers_unless_it_is_for_the_route(
    killed: str, answered: bool
) -> None:
    world, switch = World(), Switch()
    pipeline = Pipeline(
        identifier=FakeIdentifier({}),
        authz=world.decider,
        upstream_for=world.carrier,
        trail=world.trail,
        new_id=lambda: f"n{len(world.decider.asked)}",
        switches=switch,
    )

    asked = anyio.Event()

    async def wait(authorized: Authorized, relay: Relay) -> Result:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async def kill() -> None:
        await asked.wait()
        switch.of = killed
        assert pipeline.end_killed() == 1

    world.large.steps = [wait]
    params = cast("FrozenDict", freeze({"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}))
    call = Call("c1", "model.call", "chat.completions", world.resolve("auto"), params, "model")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            if answered:
                assert said(await pipeline.handle(call, ANA, FakeExchange())) == "small says"
            else:
                with pytest.raises(PolicyDenied, match="it leaks"):
                    await pipeline.handle(call, ANA, FakeExchange())
    assert world.asked == ((1, 1, 0) if answered else (0, 1, 0))


async def test_spans_say_which_model_answered_why_and_whether_the_answer_was_there() -> None:
    world = World()
    world.large.steps = [UpstreamTimeout("late")]
    await world.ask()
    record = world.trail.records[-1]
    traced = replace(record, call=replace(record.call, traceparent=f"00-{'a' * 32}-{'b' * 16}-01"))
    hit = replace(traced, notes={"cache": {"hit": True}})

    (span, *_), (other, *_) = spans_of(traced, lambda _: Leg()), spans_of(hit, lambda _: Leg())

    found = {key: value for key, value in span.attributes.items() if key.startswith("interlock.route")}
    assert found == {
        "interlock.route.name": "auto",
        "interlock.route.model": "small/one",
        "interlock.route.tier": "weak",
        "interlock.route.why": "gain",
        "interlock.route.tries": 2,
    }
    assert other.attributes["interlock.cache.hit"] is True
    assert "interlock.cache.hit" not in span.attributes
