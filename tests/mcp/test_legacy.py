"""What a legacy client gets: answers, notifications and questions, each on the stream it belongs to."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gateway.errors import (
    AuditUnavailable,
    InterlockError,
    InvalidCall,
    PolicyDenied,
    QuotaExceeded,
    UnknownResource,
    UpstreamTimeout,
)
from gateway.ports import Relay
from gateway.types import Authorized, Call, Identity, Permit, Result
from tests.mcp.sessions import begun
from tests.mcp.worlds import World

DONE = Result(b'{"content":[]}')


@pytest.mark.requirement("mcp:2025-11-25:tools-call")
async def test_call_is_answered_as_plain_json_when_nothing_is_told() -> None:
    world = World()
    client = await begun(world)

    answer = await client.send(client.call(path="/x"))

    (executed,) = world.upstream.executed
    assert (answer.status, answer.is_stream) == (200, False)
    assert executed.call.params == {"name": "read", "arguments": {"path": "/x"}}
    assert (executed.call.protocol_version, executed.identity.subject.id) == ("2025-11-25", "user:ana")
    assert executed.call.session_id


@pytest.mark.requirement("mcp:2025-11-25:ping")
async def test_ping_is_answered_at_once_and_asks_nobody() -> None:
    world = World()
    client = await begun(world)
    asked = len(world.decider.asked)

    answer = await client.ask("ping")

    assert answer.result == {}
    assert len(world.decider.asked) == asked


@pytest.mark.parametrize(
    "error",
    [
        PolicyDenied("x"),
        QuotaExceeded("x"),
        UnknownResource("x"),
        InvalidCall("x"),
        AuditUnavailable("x"),
        UpstreamTimeout("x"),
    ],
)
async def test_errors_travel_under_http_200(error: InterlockError) -> None:
    world = World()
    client = await begun(world)

    def refuse(call: Call, identity: Identity) -> Permit:
        raise error

    world.decider.decide_with = refuse

    prompt, called = await client.ask("prompts/get", name="files__ask"), await client.send(client.call())

    assert (prompt.status, prompt.error["code"], prompt.error["data"]["code"]) == (200, error.rpc_code, error.code)
    assert called.status == 200
    told = isinstance(error, PolicyDenied | QuotaExceeded | UpstreamTimeout)
    assert called.message.get("result", {}).get("isError", False) is told


@pytest.mark.parametrize("method", ["none/such", "server/discover", "subscriptions/listen", "initialise"])
async def test_method_of_no_or_another_revision_is_not_found(method: str) -> None:
    client = await begun(World())

    answer = await client.ask(method)

    assert (answer.status, answer.error["code"]) == (200, -32601)


async def test_bug_in_the_gateway_shows_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.upstream.fail_with = RuntimeError("password=hunter2")
    client = await begun(world)

    answer = await client.send(client.call())

    assert (answer.status, answer.error) == (200, {"code": -32603, "message": "Internal error"})
    assert "hunter2" in caplog.text


async def test_error_of_the_upstream_passes() -> None:
    world = World()

    async def fail(authorized: Authorized, relay: Relay) -> Result:
        return Result(b'{"code":-32602,"message":"bad"}', "rpc_error")

    world.upstream.answer = fail
    client = await begun(world)

    answer = await client.send(client.call())

    assert (answer.status, answer.error) == (200, {"code": -32602, "message": "bad"})


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'{"content":[],"structuredContent":{"a":1}}', {"content": [], "structuredContent": {"a": 1}}),
        (b'{"content":[],"structuredContent":[1]}', {"content": []}),
        (b'{"content":[],"structuredContent":null,"x":1}', {"content": [], "x": 1}),
        (b'{"structuredContent" : 5}', {}),
        (b'{"structuredContent": {}}', {"structuredContent": {}}),
        (b'["structuredContent",1]', ["structuredContent", 1]),
    ],
)
async def test_structured_content_that_older_clients_cannot_read_is_left_out(sent: bytes, kept: object) -> None:
    world = World()
    world.upstream.payload = sent
    client = await begun(world)

    answer = await client.send(client.call())

    assert answer.message["result"] == kept


@pytest.mark.requirement("mcp:2025-11-25:notification-202", "mcp:2025-11-25:cancel-unknown")
@pytest.mark.parametrize(
    "body",
    [
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": [1]}},
        {"jsonrpc": "2.0", "method": "notifications/cancelled"},
        {"jsonrpc": "2.0", "method": "initialize"},
        {"jsonrpc": "2.0", "id": "nobody asked", "result": {}},
        {"jsonrpc": "2.0", "id": 5, "error": {"code": 1, "message": "x"}},
    ],
)
async def test_notification_or_stray_answer_is_accepted_and_changes_nothing(body: dict[str, Any]) -> None:
    client = await begun(World())

    answer = await client.send(body)

    assert (answer.status, answer.body) == (202, b"")
    assert (await client.ask("ping")).result == {}


# -- notifications of a call --


@pytest.mark.requirement("mcp:2025-11-25:progress", "mcp:2025-11-25:log-messages")
async def test_news_of_a_call_travel_on_its_own_stream() -> None:
    world = World()

    async def tell(authorized: Authorized, relay: Relay) -> Result:
        assert relay.wants_progress
        await relay.notify("notifications/progress", {"progress": 1, "progressToken": "theirs"})
        await relay.notify("notifications/message", {"level": "debug", "data": "x"})
        return DONE

    world.upstream.answer = tell
    client = await begun(world)
    body = client.call()
    body["params"]["_meta"] = {"progressToken": "mine"}

    answer = await client.send(body)

    progress, message, result = answer.messages
    assert progress["params"] == {"progress": 1, "progressToken": "mine"}
    assert message["params"] == {"level": "debug", "data": "x"}
    assert result["id"] == body["id"]
    assert answer.complete


async def test_client_without_streams_or_tokens_is_not_told() -> None:
    world = World()

    async def tell(authorized: Authorized, relay: Relay) -> Result:
        assert not relay.wants_progress
        await relay.notify("notifications/progress", {"progress": 1})
        return DONE

    world.upstream.answer = tell
    client = await begun(world)

    silent = await client.send(client.call(), (b"accept", b"application/json"))
    streaming = await client.send(client.call())

    assert not silent.is_stream
    assert not streaming.is_stream


@pytest.mark.requirement("mcp:2025-11-25:set-level")
async def test_level_that_is_set_holds_for_its_session_alone() -> None:
    world = World()
    levels: list[str] = []

    async def tell(authorized: Authorized, relay: Relay) -> Result:
        levels.append(relay.log_level)
        for level in ("info", "error"):
            await relay.notify("notifications/message", {"level": level, "data": level})
        return DONE

    world.upstream.answer = tell
    strict, other = await begun(world), await begun(world)

    assert (await strict.ask("logging/setLevel", level="error")).result == {}
    heard = [(await client.send(client.call())).messages[:-1] for client in (strict, other)]

    assert [[message["params"]["data"] for message in messages] for messages in heard] == [["error"], ["info", "error"]]
    assert levels == ["error", ""]


@pytest.mark.parametrize("level", ["loud", 5, None, ""])
async def test_level_that_does_not_exist_is_refused(level: object) -> None:
    client = await begun(World())

    answer = await client.ask("logging/setLevel", level=level)

    assert (answer.status, answer.error["code"]) == (200, -32602)


async def test_level_that_policy_forbids_is_not_set() -> None:
    world = World()
    client = await begun(world)
    world.deny(action="mcp.logging.set_level", error=PolicyDenied("no"))

    answer = await client.ask("logging/setLevel", level="error")

    assert answer.error["code"] == -31403
    assert next(iter(world.sessions._live.values())).log_level == ""


async def test_what_an_upstream_tells_too_late_is_dropped() -> None:
    world, relays = World(), list[Relay]()

    async def keep_the_relay(authorized: Authorized, relay: Relay) -> Result:
        relays.append(relay)
        return DONE

    world.upstream.answer = keep_the_relay
    client = await begun(world)

    async with client.open(client.call()) as exchange:
        answer = await exchange.finished()
        await relays[0].notify("notifications/message", {"level": "error", "data": "late"})

        assert len(answer.messages) == 1


# -- questions --


def asking(world: World, method: str = "elicitation/create", **params: Any) -> None:
    """Let every call put one question, and give the client's answer as its result."""

    async def ask(authorized: Authorized, relay: Relay) -> Result:
        return await relay.ask(method, {"message": str(authorized.call.arguments.get("n")), **params})

    world.upstream.answer = ask


@pytest.mark.requirement("mcp:2025-11-25:elicitation", "mcp:2025-11-25:sampling", "mcp:2025-11-25:roots")
@pytest.mark.parametrize("method", ["elicitation/create", "sampling/createMessage", "roots/list"])
async def test_question_travels_on_the_stream_of_its_call_and_its_answer_in_a_post(method: str) -> None:
    world = World()
    asking(world, method)
    client = await begun(world)

    async with client.open(client.call(n=1)) as exchange:
        question = await exchange.message(0)
        replied = await client.send({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}})
        answer = await exchange.finished()

    assert (question["method"], question["params"]) == (method, {"message": "1"})
    assert (replied.status, replied.body) == (202, b"")
    assert answer.result == {"action": "accept"}
    assert [record.outcome for record in world.trail.records[-2:]] == ["ok", "ok"]


@pytest.mark.requirement("mcp:2025-11-25:elicitation", "mcp:2025-11-25:concurrent-streams")
async def test_sessions_never_get_or_answer_each_others_questions() -> None:
    world = World()
    asking(world)
    ana, other, bo = await begun(world), await begun(world), await begun(world, "bo")

    async with (
        ana.open(ana.call(n="ana")) as hers,
        other.open(other.call(n="other")) as third,
        bo.open(bo.call(n="bo")) as his,
    ):
        questions = [await exchange.message(0) for exchange in (hers, third, his)]
        for stranger in (other, bo):  # the same principal in another session, and another principal
            await stranger.send({"jsonrpc": "2.0", "id": questions[0]["id"], "result": {"stolen": True}})
        for client, question in zip((bo, other, ana), reversed(questions), strict=True):
            await client.send({"jsonrpc": "2.0", "id": question["id"], "result": {"to": question["params"]["message"]}})
        answers = [await exchange.finished() for exchange in (hers, third, his)]

    assert [question["params"]["message"] for question in questions] == ["ana", "other", "bo"]
    assert [answer.result for answer in answers] == [{"to": "ana"}, {"to": "other"}, {"to": "bo"}]
    assert all(len(answer.messages) == 2 for answer in answers)


async def test_only_the_first_answer_to_a_question_counts() -> None:
    world = World()
    asking(world)
    client = await begun(world)

    async with client.open(client.call()) as exchange:
        question = await exchange.message(0)
        for value in (1, 2):
            await client.send({"jsonrpc": "2.0", "id": question["id"], "result": {"n": value}})
        answer = await exchange.finished()

    assert answer.result == {"n": 1}


async def test_refusal_of_the_client_is_an_error_for_the_upstream() -> None:
    world, outcomes = World(), list[str]()

    async def ask(authorized: Authorized, relay: Relay) -> Result:
        outcomes.append((await relay.ask("roots/list", {})).outcome)
        return DONE

    world.upstream.answer = ask
    client = await begun(world)

    async with client.open(client.call()) as exchange:
        question = await exchange.message(0)
        await client.send({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -1, "message": "no"}})
        await exchange.finished()

    assert outcomes == ["rpc_error"]


@pytest.mark.requirement("mcp:2025-11-25:capabilities")
async def test_client_is_not_asked_what_it_did_not_declare() -> None:
    world = World()
    asking(world, "sampling/createMessage")
    client = await begun(world, capabilities={"elicitation": {}})

    answer = await client.send(client.call())

    assert not answer.is_stream
    assert answer.error["code"] == -32602


async def test_client_that_takes_no_stream_cannot_be_asked() -> None:
    world = World()
    asking(world)
    client = await begun(world)

    answer = await client.send(client.call(), (b"accept", b"application/json"))

    assert answer.error["code"] == -32602
    assert "text/event-stream" in answer.error["message"]


async def test_question_that_policy_forbids_is_not_put() -> None:
    world = World()
    asking(world)
    client = await begun(world)
    world.deny(action="mcp.elicitation.create", error=PolicyDenied("no questions"))

    answer = await client.send(client.call())

    assert not answer.is_stream
    assert answer.result["isError"] is True


async def test_question_that_nobody_answers_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.listeners.mcp.legacy.ANSWER_WITHIN_S", 0.01)
    world = World()
    asking(world)
    client = await begun(world)

    answer = await client.send(client.call())

    assert answer.error["code"] == -32602
    assert "did not answer" in answer.error["message"]


# -- cancellation --


def waiting(world: World) -> tuple[dict[str, anyio.Event], dict[str, anyio.Event], anyio.Event]:
    """Let calls wait: (running, cancelled) by the argument `n`, and what lets the others finish."""
    running, cancelled, go = {n: anyio.Event() for n in "12"}, {n: anyio.Event() for n in "12"}, anyio.Event()

    async def wait(authorized: Authorized, relay: Relay) -> Result:
        name = str(authorized.call.arguments["n"])
        running[name].set()
        try:
            await go.wait()
        except anyio.get_cancelled_exc_class():
            cancelled[name].set()
            raise
        return DONE

    world.upstream.answer = wait
    return running, cancelled, go


async def all_of(*events: anyio.Event) -> None:
    with anyio.fail_after(5):
        for event in events:
            await event.wait()


@pytest.mark.requirement("mcp:2025-11-25:cancel")
async def test_cancellation_ends_only_the_call_of_its_own_session() -> None:
    world = World()
    running, cancelled, go = waiting(world)
    one, two = await begun(world), await begun(world)
    first, second = {**one.call(n="1"), "id": 7}, {**two.call(n="2"), "id": 7}

    async with one.open(first) as ones, two.open(second) as twos:
        await all_of(running["1"], running["2"])
        await one.tell("notifications/cancelled", requestId=7)
        await one.tell("notifications/cancelled", requestId=7)
        gone = await ones.finished()
        go.set()
        served = await twos.finished()

    assert (gone.status, gone.body) == (202, b"")
    assert cancelled["1"].is_set()
    assert not cancelled["2"].is_set()
    assert served.result == {"content": []}
    assert sorted(record.outcome for record in world.trail.records if record.call.method == "tools/call") == [
        "cancelled",
        "ok",
    ]


async def test_stream_of_a_cancelled_call_ends_without_an_empty_message() -> None:
    world, told = World(), anyio.Event()

    async def tell_and_wait(authorized: Authorized, relay: Relay) -> Result:
        await relay.notify("notifications/message", {"level": "info", "data": "x"})
        told.set()
        await anyio.sleep_forever()
        raise AssertionError

    world.upstream.answer = tell_and_wait
    client = await begun(world)
    body = client.call()

    async with client.open(body) as exchange:
        await all_of(told)
        await client.tell("notifications/cancelled", requestId=body["id"])
        answer = await exchange.finished()

    assert [message.get("method") for message in answer.messages] == ["notifications/message"]
    assert answer.body.count(b"data:") == 1
    assert answer.complete


async def test_id_that_is_in_use_is_refused() -> None:
    world = World()
    running, _, go = waiting(world)
    client = await begun(world)
    body = client.call(n="1")

    async with client.open(body) as exchange:
        await all_of(running["1"])
        second = await client.send({**client.call(n="2"), "id": body["id"]})
        go.set()
        first = await exchange.finished()

    assert (second.status, second.error["code"]) == (200, -32600)
    assert first.result == {"content": []}
    assert not running["2"].is_set()


async def test_client_that_leaves_ends_its_call() -> None:
    world = World()
    running, cancelled, _ = waiting(world)
    client = await begun(world)

    async with client.open(client.call(n="1")) as exchange:
        await all_of(running["1"])
        exchange.leave()
        await exchange.finished()

    assert cancelled["1"].is_set()
    assert world.trail.records[-1].outcome == "cancelled"


async def test_cancellation_from_outside_is_not_taken_for_the_clients() -> None:
    world = World()
    running, _, _ = waiting(world)
    client = await begun(world)
    after: list[str] = []

    async def served() -> None:
        await client.send(client.call(n="1"))
        after.append("went on")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(served)
            await running["1"].wait()
            group.cancel_scope.cancel()

    assert after == []
