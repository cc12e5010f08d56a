"""Questions of a server reach the client of that very call, whichever eras the two are of, by way of policy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from gateway.errors import InvalidCall, PolicyDenied
from gateway.types import Era, Resource, Result
from tests.fakes import FakeRelay
from tests.servers.launch import Started, noted
from tests.servers.wire import read_journal
from tests.upstreams.harness import (
    Running,
    at,
    gathered,
    make_call,
    payload,
    process_of,
    resource_call,
    resumed,
    running,
    text_of,
    tool_call,
)
from tests.upstreams.scripted import pace

ALL: dict[str, object] = {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}
NAME = {"action": "accept", "content": {"name": "Ana"}}
COLOR = {"action": "accept", "content": {"color": "red"}}
MODEL = {"role": "assistant", "content": {"type": "text", "text": "Paris"}, "model": "m"}
ROOTS = {"roots": [{"uri": "file:///work"}]}
LIVE = {"elicitation/create": NAME, "sampling/createMessage": MODEL, "roots/list": ROOTS}


def legacy_client(owner: str = "client", elicitation: object = NAME) -> FakeRelay:
    return FakeRelay(owner, capabilities=ALL, answers={**LIVE, "elicitation/create": elicitation})


def modern_client(owner: str = "client", elicitation: object = None) -> FakeRelay:
    return FakeRelay(owner, era=Era.MODERN, capabilities=ALL, answers={"elicitation/create": elicitation})


@pytest.fixture(params=["legacy-http", "legacy-stdio", "modern-http", "modern-stdio"])
async def peer(
    request: pytest.FixtureRequest, legacy_site: Started, modern_site: Started, tmp_path: Path
) -> AsyncIterator[Running]:
    era, _, transport = request.param.partition("-")
    if transport == "http":
        make = at((legacy_site if era == "legacy" else modern_site).url)
    else:
        make, _ = process_of(f"{era}_asker", tmp_path)
    async with running(make) as up:
        yield up


@pytest.fixture(params=["http", "stdio"])
async def legacy(request: pytest.FixtureRequest, legacy_site: Started, tmp_path: Path) -> AsyncIterator[Running]:
    make = at(legacy_site.url) if request.param == "http" else process_of("legacy_asker", tmp_path)[0]
    async with running(make, max_parked=2) as up:
        yield up


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ("ask_user", {"action": "accept", "content": {"name": "Ana"}}),
        ("ask_model", {"model": "m", "content": {"type": "text", "text": "Paris"}}),
        ("ask_roots", [{"uri": "file:///work"}]),
    ],
)
async def test_legacy_client_is_asked_live(peer: Running, tool: str, expected: object) -> None:
    relay = legacy_client()

    result = await peer.call(tool, relay)

    assert json.loads(text_of(result)) == expected
    assert len(relay.asked) == 1


@pytest.mark.parametrize(
    ("tool", "answer"),
    [("ask_user", {"elicitation": NAME}), ("ask_model", {"sampling": MODEL}), ("ask_roots", {"roots": ROOTS})],
)
async def test_modern_client_takes_the_question_along(peer: Running, tool: str, answer: dict[str, object]) -> None:
    relay, call = modern_client(), tool_call(tool)

    asked = await peer.execute(call, relay)
    result = await peer.execute(resumed(call, asked, **answer), relay)

    assert asked.outcome == "input_required"
    assert asked.state
    assert "requestState" not in payload(asked)
    assert len(relay.asked) == 1
    assert result.outcome == "ok"
    assert any(word in text_of(result) for word in ("Ana", "Paris", "file:///work"))


async def test_legacy_client_goes_through_several_rounds(peer: Running) -> None:
    relay = legacy_client()
    relay.answers = {"elicitation/create": {"action": "accept", "content": {"name": "Ana", "color": "red"}}}

    result = await peer.call("ask_twice", relay)

    assert result.outcome == "ok"
    assert "red" in text_of(result)
    assert len(relay.asked) == 2


async def test_modern_client_goes_through_several_rounds(peer: Running) -> None:
    relay, call = modern_client(), tool_call("ask_twice")

    first = await peer.execute(call, relay)
    second = await peer.execute(resumed(call, first, elicitation=NAME), relay)
    result = await peer.execute(resumed(call, second, elicitation=COLOR), relay)

    assert (first.outcome, second.outcome, result.outcome) == ("input_required", "input_required", "ok")
    assert json.loads(text_of(result)) == [{"name": "Ana"}, {"color": "red"}]
    assert len(relay.asked) == 2


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_declined_question_reaches_the_server_as_declined(peer: Running, action: str) -> None:
    live = await peer.call("ask_user", legacy_client(elicitation={"action": action}))
    call = tool_call("ask_user")
    asked = await peer.execute(call, modern_client())
    taken = await peer.execute(resumed(call, asked, elicitation={"action": action}), modern_client())

    assert json.loads(text_of(live))["action"] == action
    assert json.loads(text_of(taken))["action"] == action


async def test_forbidden_question_reaches_nobody_and_a_legacy_server_learns_it(legacy: Running) -> None:
    denied = PolicyDenied("policy says no")

    result = await legacy.call("ask_user", legacy_client(elicitation=denied))

    assert result.outcome == "rpc_error"
    assert "-31403" in payload(result)["message"]


async def test_forbidden_question_ends_a_modern_clients_call_with_the_denial(peer: Running) -> None:
    with pytest.raises(PolicyDenied, match="policy says no"):
        await peer.call("ask_user", modern_client(elicitation=PolicyDenied("policy says no")))


async def test_client_that_cannot_answer_ends_the_call_on_a_modern_server(modern_site: Started) -> None:
    failed = Result(b'{"code":-1,"message":"no"}', "rpc_error")

    async with running(at(modern_site.url)) as up:
        with pytest.raises(InvalidCall, match="could not answer elicitation/create"):
            await up.call("ask_user", legacy_client(elicitation=failed))


async def test_client_that_cannot_answer_is_an_error_to_a_legacy_server(legacy: Running) -> None:
    failed = Result(b'{"code":-1,"message":"no"}', "rpc_error")

    result = await legacy.call("ask_user", legacy_client(elicitation=failed))

    assert "answered elicitation/create with -1: no" in payload(result)["message"]


async def test_several_questions_at_once_are_answered_at_once(modern_site: Started) -> None:
    async with running(at(modern_site.url)) as up:
        live = legacy_client()
        at_once = await up.call("ask_all", live)
        relay, call = modern_client(), tool_call("ask_all")
        asked = await up.execute(call, relay)
        taken = await up.execute(resumed(call, asked, user=NAME, model=MODEL, roots=ROOTS), relay)

    assert text_of(at_once) == text_of(taken) == "all three answered"
    assert len(live.asked) == len(relay.asked) == 3
    assert set(payload(asked)["inputRequests"]) == {"user", "model", "roots"}


async def test_prompts_and_resources_may_ask_too(modern_site: Started) -> None:
    prompt = make_call(
        "prompts/get", Resource("prompt", "x/greet_asked", upstream="x", name="greet_asked"), {"name": "greet_asked"}
    )
    async with running(at(modern_site.url)) as up:
        greeting = await up.execute(prompt, legacy_client())
        read = await up.execute(resource_call("resources/read", "note://asked"), legacy_client(elicitation=NAME))

    assert payload(greeting)["messages"][0]["content"]["text"] == "Greet Ana"
    assert read.outcome == "ok"


@pytest.mark.parametrize("era", [Era.LEGACY, Era.MODERN])
async def test_question_reaches_only_the_client_whose_call_caused_it(peer: Running, era: Era) -> None:
    relays = [
        FakeRelay(
            f"client-{number}",
            era=era,
            capabilities=ALL,
            answers=(
                {"elicitation/create": {"action": "accept", "content": {"name": f"name-{number}"}}}
                if era is Era.LEGACY
                else {}
            ),
        )
        for number in range(3)
    ]

    async def one(number: int) -> Result:
        call, relay = tool_call("ask_user"), relays[number]
        result = await peer.execute(call, relay)
        if era is Era.LEGACY:
            return result
        answer = {"action": "accept", "content": {"name": f"name-{number}"}}
        return await peer.execute(resumed(call, result, elicitation=answer), relay)

    results = await gathered(*[lambda number=number: one(number) for number in range(3)])

    assert [json.loads(text_of(result))["content"]["name"] for result in results] == ["name-0", "name-1", "name-2"]
    assert [len(relay.asked) for relay in relays] == [1, 1, 1]


async def test_many_clients_share_one_legacy_site_without_hearing_each_other(legacy_site: Started) -> None:
    relays = [legacy_client(f"client-{number}") for number in range(12)]
    for number, relay in enumerate(relays):
        relay.answers = {"elicitation/create": {"action": "accept", "content": {"name": str(number)}}}
        relay.wants_progress = True

    async with running(at(legacy_site.url)) as up:
        results = await gathered(*[lambda relay=relay: up.call("ask_user", relay) for relay in relays])
        await gathered(*[lambda relay=relay: up.call("progress", relay) for relay in relays])

    assert [json.loads(text_of(result))["content"]["name"] for result in results] == [str(n) for n in range(12)]
    assert [len(relay.asked) for relay in relays] == [1] * 12
    assert [len(relay.notified) for relay in relays] == [3] * 12


async def test_question_is_refused_rather_than_misdelivered_when_no_process_is_free(tmp_path: Path) -> None:
    make, record = process_of("legacy_asker", tmp_path, max_processes=2)
    first, second = legacy_client("first"), legacy_client("second")
    first.thinking = asyncio.Event()

    async with running(make) as up, anyio.create_task_group() as group:
        group.start_soon(up.call, "ask_user", first)
        with anyio.fail_after(20):
            await first.asking.wait()
        refused = await up.call("ask_user", second)
        fine = await up.call("echo", second, text="still works")
        processes = up.stdio.processes
        first.thinking.set()

    assert second.asked == []
    assert "no request in flight" in payload(refused)["message"]
    assert text_of(fine) == "still works"
    assert processes == 2
    assert read_journal(record)


async def test_idle_process_of_one_client_makes_room_for_another(tmp_path: Path) -> None:
    make, _ = process_of("legacy_asker", tmp_path, max_processes=2)
    first, second = legacy_client("first"), legacy_client("second")

    async with running(make) as up:
        await up.call("ask_user", first)
        result = await up.call("ask_user", second)
        starts = up.stdio.starts

    assert len(second.asked) == 1
    assert result.outcome == "ok"
    assert starts == 3


async def test_time_in_which_a_person_thinks_does_not_count(peer: Running, tmp_path: Path) -> None:
    peer.upstream._limits = type(peer.upstream._limits)(0.4, 1_000_000)
    relay = legacy_client()
    relay.thinking = asyncio.Event()

    async with anyio.create_task_group() as group:
        results: list[Result] = []

        async def call() -> None:
            results.append(await peer.call("ask_user", relay))

        group.start_soon(call)
        with anyio.fail_after(20):
            await relay.asking.wait()
        await pace(1.0)  # more than twice the longest silence
        relay.thinking.set()

    assert json.loads(text_of(results[0]))["content"] == {"name": "Ana"}


async def test_client_that_leaves_while_it_is_asked_cancels_the_call(legacy_site: Started) -> None:
    relay = legacy_client()
    relay.thinking = asyncio.Event()
    before = len([entry for entry in legacy_site.journal() if entry["event"] == "cancelled"])

    async with running(at(legacy_site.url)) as up, anyio.create_task_group() as group:
        group.start_soon(up.call, "ask_user", relay)
        with anyio.fail_after(20):
            await relay.asking.wait()
        group.cancel_scope.cancel()
    entry = await noted(legacy_site.record, "cancelled", after=before)

    assert entry["name"] == "ask_user"
