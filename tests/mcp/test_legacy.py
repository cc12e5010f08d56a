"""What a legacy client gets: answers, notifications and questions, each on the stream it belongs to."""

from __future__ import annotations

from typing import Any

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


@pytest.mark.requirement("mcp:2026-07-28:old-version-headers")
async def test_routing_headers_of_an_older_version_are_not_trusted() -> None:
    world = World()
    client = await begun(world)

    answer = await client.send(client.call(), (b"mcp-method", b"tools/list"), (b"mcp-name", b"files__write"))

    (executed,) = world.upstream.executed
    assert answer.status == 200
    assert executed.call.resource.id == "files/read"
