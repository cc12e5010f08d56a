"""When an answer becomes a stream, what runs on it, and what its client's leaving does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import anyio
import pytest

from gateway.listeners import http
from gateway.ports import Relay
from gateway.types import Authorized, Obligation, Result
from tests.fakes import permit_for
from tests.mcp.worlds import World, call, request

DONE = Result(b'{"content":[],"resultType":"complete"}')


def telling(world: World, *news: tuple[str, Mapping[str, object]]) -> None:
    """Let the upstream tell these during every call."""

    async def answer(authorized: Authorized, relay: Relay) -> Result:
        for method, params in news:
            await relay.notify(method, params)
        return DONE

    world.upstream.answer = answer


PROGRESS = ("notifications/progress", {"progress": 1, "progressToken": "the upstream's own"})


def log(level: str) -> tuple[str, Mapping[str, object]]:
    return ("notifications/message", {"level": level, "data": level})


@pytest.mark.requirement("mcp:2026-07-28:json-or-sse")
async def test_answer_is_plain_json_when_nothing_is_told() -> None:
    answer = await World().post(call())

    assert not answer.is_stream
    assert answer.complete


@pytest.mark.requirement("mcp:2026-07-28:progress", "mcp:2026-07-28:progress-ends", "mcp:2026-07-28:no-buffering")
@pytest.mark.parametrize("token", ["mine", 0, 7])
async def test_progress_reaches_the_client_under_its_own_token_and_ends_with_the_result(token: str | int) -> None:
    world, body = World(), call()
    body["params"]["_meta"]["progressToken"] = token
    telling(world, PROGRESS)

    answer = await world.post(body)

    told, result = answer.messages
    assert told == {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progress": 1, "progressToken": token},
    }
    assert result["id"] == 1
    assert answer.header("x-accel-buffering") == "no"
    assert answer.header("cache-control") == "no-cache, no-transform"
    assert answer.complete


async def test_progress_that_nobody_asked_for_is_not_sent() -> None:
    world = World()
    telling(world, PROGRESS)

    answer = await world.post(call())

    assert not answer.is_stream


@pytest.mark.requirement("mcp:2026-07-28:log-level")
@pytest.mark.parametrize(
    ("level", "heard"),
    [("", []), ("debug", ["debug", "warning", "emergency"]), ("warning", ["warning", "emergency"]), ("loud", [])],
)
async def test_log_messages_come_from_the_level_that_the_request_names(level: str, heard: list[str]) -> None:
    world = World()
    telling(world, log("debug"), log("warning"), log("emergency"), log("shout"))

    answer = await world.post(call(logLevel=level) if level else call())

    assert [message["params"]["data"] for message in answer.messages[:-1]] == heard


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ([b"application/json, text/event-stream"], True),
        ([b"text/event-stream"], True),
        ([b"*/*"], True),
        ([b"TEXT/*"], True),
        ([b"application/json", b"text/event-stream"], True),
        ([b"application/json"], False),
        ([b"-"], False),
    ],
)
async def test_client_that_takes_no_stream_gets_one_object(accept: list[bytes], streams: bool) -> None:
    world = World()
    telling(world, log("error"))

    answer = await world.post(call(logLevel="info"), *[(b"accept", value) for value in accept])

    assert answer.is_stream is streams
    assert answer.result["resultType"] == "complete"


async def test_failure_after_the_first_notification_ends_the_stream_with_the_error() -> None:
    world = World()

    async def tell_and_fail(authorized: Authorized, relay: Relay) -> Result:
        await relay.notify(*log("error"))
        raise RuntimeError("hunter2")

    world.upstream.answer = tell_and_fail

    answer = await world.post(call(logLevel="info"))

    assert (answer.status, answer.complete) == (200, True)
    assert answer.error == {"code": -32603, "message": "Internal error"}


async def test_redacted_call_tells_no_texts() -> None:
    world = World()
    world.decider.decide_with = lambda call, identity: replace(
        permit_for(call, identity), obligations=(Obligation("redact"),)
    )
    telling(world, log("error"))

    answer = await world.post(call(logLevel="debug"))

    assert not answer.is_stream


async def test_what_an_upstream_tells_too_late_is_dropped() -> None:
    world, relays = World(), list[Relay]()

    async def keep_the_relay(authorized: Authorized, relay: Relay) -> Result:
        relays.append(relay)
        return DONE

    world.upstream.answer = keep_the_relay
    async with world.open(call(logLevel="debug")) as exchange:
        answer = await exchange.finished()

        await relays[0].notify(*log("error"))

        assert answer.messages == [{"jsonrpc": "2.0", "id": 1, "result": {"content": [], "resultType": "complete"}}]


@pytest.mark.requirement("mcp:2026-07-28:progress-own-token", "mcp:2026-07-28:related-notifications")
async def test_concurrent_calls_hear_only_of_themselves() -> None:
    world, both = World(), anyio.Event()

    async def tell_after_both(authorized: Authorized, relay: Relay) -> Result:
        if len(world.upstream.executed) == 2:
            both.set()
        await both.wait()
        await relay.notify("notifications/message", {"level": "info", "data": authorized.call.arguments["n"]})
        return DONE

    world.upstream.answer = tell_after_both

    first, second = (call(arguments={"n": n}, logLevel="info") for n in (1, 2))
    async with world.open(first) as one, world.open(second) as two:
        heard = [(await exchange.finished()).messages[0]["params"]["data"] for exchange in (one, two)]

    assert heard == [1, 2]


@pytest.mark.requirement("mcp:2026-07-28:disconnect-cancels")
@pytest.mark.parametrize("level", ["", "debug"])
async def test_client_that_leaves_cancels_its_call(level: str) -> None:
    world, begun, cancelled = World(), anyio.Event(), anyio.Event()

    async def wait(authorized: Authorized, relay: Relay) -> Result:
        await relay.notify(*log("info"))
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    world.upstream.answer = wait
    async with world.open(call(logLevel=level) if level else call()) as exchange:
        with anyio.fail_after(5):
            await begun.wait()
        exchange.leave()

        answer = await exchange.finished()

    assert cancelled.is_set()
    assert [record.outcome for record in world.trail.records] == ["cancelled"]
    assert all("result" not in message for message in (answer.messages if answer.body else []))


async def test_cancellation_from_outside_is_not_taken_for_a_client_that_left() -> None:
    world, begun, after = World(), anyio.Event(), list[str]()

    async def wait(authorized: Authorized, relay: Relay) -> Result:
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError

    async def served() -> None:
        await world.post(call())
        after.append("went on")

    world.upstream.answer = wait

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(served)
            await begun.wait()
            group.cancel_scope.cancel()

    assert after == []
    assert [record.outcome for record in world.trail.records] == ["cancelled"]


async def test_long_call_is_kept_alive_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEEP_ALIVE_S", 0.01)
    world, enough = World(), anyio.Event()

    async def wait(authorized: Authorized, relay: Relay) -> Result:
        await enough.wait()
        return DONE

    world.upstream.answer = wait
    async with world.open(call()) as exchange:
        await exchange.grown(len(b": keep-alive\n\n") * 2)
        enough.set()

        answer = await exchange.finished()

    assert answer.body.startswith(b": keep-alive\n\n: keep-alive\n\n")
    assert answer.messages == [{"jsonrpc": "2.0", "id": 1, "result": {"content": [], "resultType": "complete"}}]


async def test_client_without_streams_is_not_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEEP_ALIVE_S", 0.01)
    monkeypatch.setattr(http, "WATCH_AFTER_S", 0.0)
    world, began, enough = World(), anyio.Event(), anyio.Event()

    async def wait(authorized: Authorized, relay: Relay) -> Result:
        began.set()
        with anyio.move_on_after(0.1):
            await enough.wait()
        return DONE

    world.upstream.answer = wait

    answer = await world.post(call(), (b"accept", b"application/json"))

    assert not answer.is_stream
    assert answer.result["resultType"] == "complete"


async def test_listening_needs_a_client_that_takes_a_stream() -> None:
    answer = await World().post(
        request("subscriptions/listen", {"notifications": {}}), (b"accept", b"application/json")
    )

    assert (answer.status, answer.error["code"]) == (406, -32600)


async def test_news_for_a_client_without_streams_goes_nowhere() -> None:
    world = World()
    telling(world, PROGRESS, log("error"))
    body = call(logLevel="debug")
    body["params"]["_meta"]["progressToken"] = 1

    answer = await world.post(body, (b"accept", b"application/json"))

    assert len(answer.messages) == 1
