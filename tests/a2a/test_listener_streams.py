"""Streams: framed as they come, seen by policy, ended by errors, and left without harm to anybody else."""

from __future__ import annotations

import json

import anyio
import pytest

from gateway.errors import PolicyDenied, UpstreamUnavailable
from gateway.ports import Relay
from gateway.types import Authorized, Result
from tests.a2a.worlds import World, message, old_message, request
from tests.fakes import ANA, FakeIdentifier
from tests.mcp.asgi import Json

SEND = {"message": message()}
FIRST = b'{"task":{"id":"t-1","status":{"state":"TASK_STATE_WORKING"}}}'
SECOND = b'{"statusUpdate":{"taskId":"t-1","contextId":"c","status":{"state":"TASK_STATE_COMPLETED"}}}'
BINDINGS = pytest.mark.parametrize("path", ["", "/message:stream"], ids=["rpc", "http"])


def body_for(path: str) -> Json:
    """The request for a stream on either binding."""
    return SEND if path else request("SendStreamingMessage", SEND)


@BINDINGS
async def test_events_arrive_one_by_one_while_the_agent_works(path: str) -> None:
    world = World()
    go_on = anyio.Event()

    async def answer(authorized: Authorized, relay: Relay) -> Result:
        await relay.emit(FIRST)
        await go_on.wait()
        await relay.emit(SECOND)
        return Result(b"{}")

    world.upstream.answer = answer
    async with world.open("POST", path, body_for(path)) as exchange:
        first = await exchange.message(0)
        go_on.set()
        answer_ = await exchange.finished()

    assert (first if path else first["result"]) == json.loads(FIRST)
    assert (answer_.message if path else answer_.result) == json.loads(SECOND)
    assert answer_.header("content-type") == "text/event-stream"
    assert answer_.header("a2a-version") == "1.0"
    assert answer_.complete


@BINDINGS
async def test_an_event_on_many_lines_stays_one_event(path: str) -> None:
    world = World()
    world.stream(b'{\n  "task": {\r\n    "id": "t-1"\r}\n\n}')

    got = await world.send("POST", path, body_for(path))

    (event,) = got.messages
    assert (event if path else event["result"]) == {"task": {"id": "t-1"}}
    assert got.body.count(b"\n\n") == 1


@BINDINGS
async def test_a_stream_without_events_is_an_empty_stream(path: str) -> None:
    world = World()
    world.stream()

    got = await world.send("POST", path, body_for(path))

    assert got.status == 200
    assert got.is_stream
    assert got.messages == []


@BINDINGS
@pytest.mark.parametrize("as_result", [True, False], ids=["agent", "gateway"])
async def test_an_error_before_the_first_event_is_a_plain_answer(path: str, as_result: bool) -> None:
    world = World()
    end = Result(b'{"code":-32001,"message":"gone"}', "rpc_error") if as_result else UpstreamUnavailable("gone")
    world.stream(end=end)

    got = await world.send("POST", path, body_for(path))

    assert got.header("content-type") == "application/json"
    assert got.error["message"] == "gone"
    if path:
        assert got.status == (404 if as_result else 503)


@BINDINGS
@pytest.mark.parametrize("as_result", [True, False], ids=["agent", "gateway"])
async def test_an_error_after_the_first_event_is_the_last_event(path: str, as_result: bool) -> None:
    world = World()
    end = Result(b'{"code":-32006,\n"message":"gone"}', "rpc_error") if as_result else UpstreamUnavailable("gone")
    world.stream(FIRST, end=end)

    got = await world.send("POST", path, body_for(path))

    first, last = got.messages
    assert "error" not in first
    assert last["error"]["message"] == "gone"
    assert last["error"]["code"] == ((500 if as_result else 503) if path else (-32006 if as_result else -31503))
    assert got.complete
    if path:
        assert b"event: error\ndata: " in got.body


@BINDINGS
async def test_an_event_that_policy_withholds_ends_the_stream(path: str) -> None:
    world = World()
    world.stream(FIRST, SECOND)

    def inspect(authorized: Authorized, result: Result) -> Result:
        if b"COMPLETED" in result.payload:
            raise PolicyDenied("not for you")
        return result

    world.decider.inspect_with = inspect

    got = await world.send("POST", path, body_for(path))

    assert b"COMPLETED" not in got.body
    assert got.messages[-1]["error"]["message"] == "not for you"


async def test_a_client_that_leaves_ends_its_own_call_only() -> None:
    world = World()
    cancelled = anyio.Event()
    go_on = anyio.Event()

    async def answer(authorized: Authorized, relay: Relay) -> Result:
        await relay.emit(FIRST)
        try:
            await go_on.wait()
        except anyio.get_cancelled_exc_class():
            cancelled.set()
            raise
        await relay.emit(SECOND)
        return Result(b"{}")

    world.upstream.answer = answer
    async with world.open("POST", "", body_for("")) as stays, world.open("POST", "", body_for("")) as leaves:
        await stays.message(0)
        await leaves.message(0)
        leaves.leave()
        with anyio.fail_after(5):
            await cancelled.wait()
        await leaves.finished()
        go_on.set()
        kept = await stays.finished()

    assert len(kept.messages) == 2
    assert sorted(record.outcome for record in world.trail.records) == ["cancelled", "ok"]


async def test_a_client_that_leaves_a_unary_call_gets_nothing() -> None:
    world = World()
    asked = anyio.Event()

    async def answer(authorized: Authorized, relay: Relay) -> Result:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    world.upstream.answer = answer
    async with world.open("POST", "", request("SendMessage", SEND)) as exchange:
        with anyio.fail_after(5):
            await asked.wait()
        exchange.leave()
        got = await exchange.finished()

    assert got.status == 0
    assert [record.outcome for record in world.trail.records] == ["cancelled"]


async def test_a_unary_answer_cannot_be_streamed() -> None:
    world = World()
    world.stream(FIRST)

    got = await world.rpc("SendMessage", SEND)

    assert got.error["code"] == -32006


async def test_a_slow_reader_holds_the_agent_back() -> None:
    world = World()
    emitted: list[int] = []
    taken = anyio.Semaphore(0)

    async def answer(authorized: Authorized, relay: Relay) -> Result:
        for number in range(5):
            await relay.emit(FIRST)
            emitted.append(number)
        return Result(b"{}")

    world.upstream.answer = answer
    body = json.dumps(body_for("")).encode()
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, object]:
        if sent:
            return sent.pop()
        await anyio.sleep_forever()
        raise AssertionError

    bodies: list[object] = []

    async def send(part: object) -> None:
        bodies.append(part)
        await taken.acquire()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/agents/cook",
        "query_string": b"",
        "client": ("127.0.0.1", 1),
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"authorization", b"Bearer ana"),
            (b"a2a-version", b"1.0"),
            (b"content-type", b"application/json"),
        ],
    }
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(world.app, scope, receive, send)
            await anyio.wait_all_tasks_blocked()
            held = len(emitted)
            for _ in range(20):
                taken.release()

    assert held == 0
    assert len(emitted) == 5


async def test_a_subscription_to_a_task_of_ones_own_streams() -> None:
    world = World()
    await world.own("t-1", ANA)
    world.stream(FIRST, SECOND)

    got = await world.rpc("SubscribeToTask", {"id": "t-1"})

    assert len(got.messages) == 2


async def test_old_clients_get_their_events_and_errors_in_their_own_form() -> None:
    world = World()
    world.stream(SECOND, end=UpstreamUnavailable("gone"))

    got = await world.rpc("message/stream", {"message": old_message()}, (b"a2a-version", b"-"))

    event, last = got.messages
    assert event["result"]["kind"] == "status-update"
    assert event["result"]["status"]["state"] == "completed"
    assert last["error"]["code"] == -31503


async def test_old_client_is_told_in_an_event_that_there_is_no_such_task() -> None:
    world = World()

    old = await world.rpc("tasks/resubscribe", {"id": "none"}, (b"a2a-version", b"-"))
    new = await world.rpc("SubscribeToTask", {"id": "none"})

    (event,) = old.messages
    assert (old.status, old.header("content-type")) == (200, "text/event-stream")
    assert (event["id"], event["error"]["code"]) == (1, -32001)
    assert (new.status, new.header("content-type"), new.error["code"]) == (200, "application/json", -32001)


async def test_old_client_without_credentials_is_told_by_the_status_of_the_response() -> None:
    world = World(identifier=FakeIdentifier({}))

    got = await world.rpc("tasks/resubscribe", {"id": "none"}, (b"a2a-version", b"-"))

    assert (got.status, got.header("content-type")) == (401, "application/json")


async def test_old_clients_of_http_json_are_served_below_v1() -> None:
    world = World()
    world.answer(b'{"message":{"messageId":"a","role":"ROLE_AGENT","parts":[{"text":"yes"}]}}')
    old = {"message": {"messageId": "m-1", "role": "ROLE_USER", "content": [{"text": "hi"}]}}

    got = await world.send("POST", "/v1/message:send", old, (b"a2a-version", b"-"))
    missing = await world.send("GET", "/v1/tasks/none", None, (b"a2a-version", b"-"))
    wrong_verb = await world.send("DELETE", "/v1/tasks/none", None, (b"a2a-version", b"-"))
    new_path = await world.send("GET", "/tasks", None, (b"a2a-version", b"-"))
    nothing = await world.send("GET", "/v1/nothing", None, (b"a2a-version", b"-"))
    twice = await world.send("GET", "/v1/tasks/none?historyLength=1&historyLength=2", None, (b"a2a-version", b"-"))

    assert json.loads(got.body)["message"]["content"] == [{"text": "yes"}]
    assert got.header("a2a-version") == "0.3"
    assert world.call.method == "SendMessage"
    assert (missing.status, json.loads(missing.body)["type"]) == (404, "TaskNotFoundError")
    assert [wrong_verb.status, new_path.status, nothing.status, twice.status] == [405, 400, 404, 400]


async def test_old_streams_of_http_json() -> None:
    world = World()
    world.stream(SECOND, b'{"neither":1}')
    old = {"message": {"messageId": "m-1", "role": "ROLE_USER", "content": [{"text": "hi"}]}}

    got = await world.send("POST", "/v1/message:stream", old, (b"a2a-version", b"0.3"))

    event, last = got.messages
    assert event["statusUpdate"]["taskId"] == "t-1"
    assert last["type"] == "InvalidAgentResponseError"
