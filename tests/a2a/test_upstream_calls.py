"""Unary calls to agents: one request each, in the bytes of the agent, whatever binding and version."""

from __future__ import annotations

import json
from dataclasses import replace

import anyio
import pytest

from adapters.upstreams.a2a.caller import Terms
from gateway.errors import PolicyDenied, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from tests.a2a.agents import (
    SEND,
    FixedSource,
    Script,
    authorized,
    bare,
    entry_of,
    fails,
    gives,
    in_turn,
    interface_of,
    refuses,
    running,
    says,
    task,
    world,
)
from tests.fakes import ANA, BO, FakeRelay
from tests.wire.upstreams import Conversation, upstream

ODD = (
    b'{"task":{"contextId":"c1","id":"t1","status":{"state":"TASK_STATE_COMPLETED"},"x-new":{"z":1,"a":[]},'
    b'"artifacts":[{"artifactId":"a1","parts":[{"data":{"big":9007199254740993,"f":1.0,"u":"\\u00e9"}}]}]}}'
)
"""Unknown members, an order of its own, numbers and escapes that a decoder would change."""


async def test_result_goes_on_in_the_bytes_of_the_agent() -> None:
    async with world({"SendMessage": gives(ODD, "a2a-extensions: https://e.example/1")}) as made:
        result = await made.call("SendMessage", SEND)

    assert result.payload == ODD
    assert result.headers == ((b"a2a-extensions", b"https://e.example/1"),)
    assert made.script.last("SendMessage").params == SEND


@pytest.mark.parametrize(
    "envelope",
    [
        b'{"result":%b,"id":ID,"jsonrpc":"2.0"}',
        b'{"id":ID,"result":%b,"jsonrpc":"2.0"}',
        b' {\n "jsonrpc": "2.0",\n "id": ID,\n "result": %b\n}\n',
        b'{"jsonrpc":"2.0","vendor":{"result":1},"result":%b,"id":ID}',
    ],
)
async def test_members_of_an_answer_may_come_in_any_order(envelope: bytes) -> None:
    async with world({"SendMessage": says(envelope % ODD)}) as made:
        result = await made.call("SendMessage", SEND)

    assert result.payload == ODD


async def test_rest_body_goes_on_in_the_bytes_of_the_agent() -> None:
    answers = {"POST /rest/message:send": says(ODD, "200 OK", "retry-after: 3")}
    async with world(answers, binding="HTTP+JSON", path="/rest/") as made:
        result = await made.call("SendMessage", SEND)

    assert result.payload == ODD
    assert result.headers == ((b"retry-after", b"3"),)
    assert made.script.last("POST /rest/message:send").body == SEND


async def test_rest_puts_ids_in_the_path_and_the_rest_in_the_query() -> None:
    target = "GET /acme%2F1/tasks/t%2F1%3Fx?historyLength=2"
    answers = {target: says(bare(task("WORKING", "t/1?x")))}
    async with world(answers, binding="HTTP+JSON", tenant="acme/1") as made:
        result = await made.call("GetTask", {"id": "t/1?x", "historyLength": 2})

    assert json.loads(result.payload)["id"] == "t/1?x"
    assert "a2a-version: 1.0" in [f"{k}: {v}" for k, v in made.script.last(target).headers.items()]


async def test_tenant_of_the_interface_is_sent_and_no_other() -> None:
    async with world({"SendMessage": gives(task())}, tenant="acme") as made:
        await made.call("SendMessage", SEND)

    assert made.script.last("SendMessage").params == {"tenant": "acme", **SEND}


async def test_agent_of_0_3_is_spoken_to_in_0_3() -> None:
    old = b'{"kind":"task","id":"t1","contextId":"c1","status":{"state":"completed"},"vendor":{"n":9007199254740993}}'
    async with world({"message/send": gives(old)}, version="0.3") as made:
        result = await made.call("SendMessage", SEND)

    sent = made.script.last("message/send")
    assert sent.params["message"]["role"] == "user"
    assert sent.params["message"]["parts"] == [{"kind": "text", "text": "plan"}]
    assert sent.headers["a2a-version"] == "0.3"
    answered = json.loads(result.payload)["task"]
    assert answered["status"]["state"] == "TASK_STATE_COMPLETED"
    assert answered["vendor"] == {"n": 2**53 + 1}


async def test_each_hop_has_its_own_credential_version_extensions_trace_and_chain() -> None:
    terms = Terms(timeout_s=5, headers=((b"authorization", b"Bearer ours"),))
    call = authorized("SendMessage", SEND, traceparent="00-a-b-01", tracestate="v=1")
    relay = FakeRelay(capabilities={"extensions": ("https://e.example/1", "https://e.example/2")})
    async with world({"SendMessage": gives(task("COMPLETED"))}, terms=terms) as made:
        await made.agent.execute(call, relay)

    headers = made.script.last("SendMessage").headers
    assert headers["authorization"] == "Bearer ours"
    assert headers["a2a-version"] == "1.0"
    assert headers["a2a-extensions"] == "https://e.example/1, https://e.example/2"
    assert (headers["traceparent"], headers["tracestate"]) == ("00-a-b-01", "v=1")
    assert headers["interlock-chain"].count(".") == 2


async def test_credentials_do_not_follow_a_card_to_another_host() -> None:
    terms = Terms(timeout_s=5, headers=((b"authorization", b"Bearer ours"),), home="http://agent.example/card.json")
    async with world({"SendMessage": gives(task())}, terms=terms) as made:
        await made.call("SendMessage", SEND)

    assert "authorization" not in made.script.last("SendMessage").headers


async def test_error_of_the_agent_keeps_its_code_and_data() -> None:
    error = b'{"code":-32050,"message":"vendor","data":{"n":9007199254740993,"why":[1.0]}}'
    async with world({"SendMessage": says(b'{"jsonrpc":"2.0","id":ID,"error":%b}' % error)}) as made:
        result = await made.call("SendMessage", SEND)

    assert (result.outcome, result.payload) == ("rpc_error", error)


async def test_rest_error_gets_the_code_of_its_reason() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "TASK_NOT_CANCELABLE"}
    body = {"error": {"code": 400, "message": "over", "details": [{**info, "domain": "a2a-protocol.org"}]}}
    answers = {"POST /tasks/t1:cancel": says(json.dumps(body).encode(), "400 Bad Request")}
    async with world(answers, binding="HTTP+JSON") as made:
        result = await made.call("CancelTask", {"id": "t1"})

    error = json.loads(result.payload)
    assert (result.outcome, error["code"], error["message"]) == ("rpc_error", -32002, "over")
    assert error["data"] == body["error"]["details"]


async def test_deleting_has_nothing_to_say() -> None:
    delete = "DeleteTaskPushNotificationConfig"
    async with world({delete: gives(b"null")}) as made:
        over_rpc = await made.call(delete, {"taskId": "t1", "id": "p1"})
    answers = {"DELETE /tasks/t1/pushNotificationConfigs/p1": says(b"", "200 OK")}
    async with world(answers, binding="HTTP+JSON") as made:
        over_rest = await made.call(delete, {"taskId": "t1", "id": "p1"})

    assert over_rpc.payload == over_rest.payload == b"{}"


@pytest.mark.parametrize(
    ("method", "capability", "code"),
    [
        ("SendStreamingMessage", "streaming", -32004),
        ("SubscribeToTask", "streaming", -32004),
        ("ListTaskPushNotificationConfigs", "pushNotifications", -32003),
        ("GetExtendedAgentCard", "extendedAgentCard", -32004),
    ],
)
async def test_what_the_card_does_not_offer_is_not_asked_for(method: str, capability: str, code: int) -> None:
    script = Script()
    async with upstream(script.serve) as served:
        source = FixedSource(entry_of(interface_of(served, "JSONRPC", "1.0"), **{capability: False}))
        async with running(source, script) as made:
            result = await made.call(method, {"id": "t1", "taskId": "t1"})

    assert result.outcome == "rpc_error"
    assert json.loads(result.payload)["code"] == code
    assert script.seen == []


async def test_best_interface_is_1_0_json_rpc() -> None:
    script = Script({"SendMessage": gives(task())})
    async with upstream(script.serve) as served:
        kinds = (("GRPC", "1.0"), ("JSONRPC", "0.3"), ("HTTP+JSON", "1.0"), ("JSONRPC", "1.0"))
        entry = entry_of(*[interface_of(served, binding, version) for binding, version in kinds])  # type: ignore[arg-type]
        async with running(FixedSource(entry), script) as made:
            await made.call("SendMessage", SEND)

    assert made.agent.report()["interface"] == "JSONRPC 1.0"


# Failures


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"jsonrpc":"2.0","id":99,"result":{}}',
        b'{"jsonrpc":"2.0","id":ID,"result":[]}',
        b'{"jsonrpc":"2.0","id":ID,"result":{"task":7}}',
        b'{"jsonrpc":"2.0","id":ID,"result":{},"error":{"code":1,"message":""}}',
        b'{"jsonrpc":"2.0","id":ID,"result":{"a":1},"result":{"task":{}}}',
        b'{"jsonrpc":"2.0","id":ID,"error":{"code":"x"}}',
        b'{"jsonrpc":"2.0","id":ID,"result":' + b'{"a":' * 5000,
    ],
)
async def test_garbage_is_a_protocol_error(content: bytes) -> None:
    async with world({"SendMessage": says(content)}) as made:
        with pytest.raises(UpstreamProtocolError):
            await made.call("SendMessage", SEND)


async def test_result_above_the_limit_is_refused() -> None:
    async with world({"SendMessage": gives(b'{"a":"' + b"x" * 5000 + b'"}')}, terms=Terms(max_bytes=2000)) as made:
        with pytest.raises(UpstreamProtocolError, match="2000"):
            await made.call("SendMessage", SEND)


async def test_slow_agent_is_given_up() -> None:
    async def drips(conversation: Conversation, seen: object) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        await anyio.sleep_forever()

    async with world({"SendMessage": drips}, terms=Terms(timeout_s=0.2)) as made:
        with pytest.raises(UpstreamTimeout):
            await made.call("SendMessage", SEND)


async def test_message_that_may_have_been_received_is_not_sent_twice() -> None:
    async with world({"SendMessage": fails()}) as made:
        with pytest.raises(UpstreamUnavailable):
            await made.call("SendMessage", SEND)

    assert made.script.count("SendMessage") == 1


async def test_read_is_asked_again_once_when_the_connection_is_lost() -> None:
    async with world({"GetTask": in_turn(fails(), gives(bare(task())))}) as made:
        result = await made.call("GetTask", {"id": "t1"})

    assert result.outcome == "ok"
    assert made.script.count("GetTask") == 2


async def test_refused_credential_is_ours_to_repair_and_not_the_callers() -> None:
    async with world({"SendMessage": says(b'{"error":"invalid_token"}', "401 Unauthorized")}) as made:
        with pytest.raises(UpstreamUnavailable, match="own credential"):
            await made.call("SendMessage", SEND)


async def test_task_of_somebody_else_is_not_handed_out() -> None:
    async with world({"SendMessage": gives(task()), "GetTask": gives(bare(task()))}) as made:
        await made.call("SendMessage", SEND)
        with pytest.raises(UpstreamProtocolError, match="not the caller's"):
            await made.call("GetTask", {"id": "t1"}, identity=BO)


async def test_agent_that_the_call_came_through_is_not_called_again() -> None:
    looping = replace(ANA, hops=("planner",))
    async with world({"SendMessage": gives(task())}) as made:
        with pytest.raises(PolicyDenied, match="come back"):
            await made.call("SendMessage", SEND, identity=looping)

    assert made.script.seen == []


# The card


async def test_agent_without_a_card_cannot_be_called_and_says_why() -> None:
    async with running(FixedSource(UpstreamUnavailable("no route")), Script()) as made:
        with pytest.raises(UpstreamUnavailable, match="no route"):
            await made.call("SendMessage", SEND)

    assert made.offered[0].down == "no route"
    assert made.agent.report()["state"] == "down"


async def test_quarantined_agent_is_not_called() -> None:
    script = Script({"SendMessage": gives(task())})
    async with upstream(script.serve) as served:
        entry = replace(entry_of(interface_of(served, "JSONRPC", "1.0")), quarantine="the card changed")
        async with running(FixedSource(entry), script) as made:
            with pytest.raises(UpstreamUnavailable, match="the card changed"):
                await made.call("SendMessage", SEND)

    assert script.seen == []
    assert made.offered == [entry]


# ListTasks


async def test_list_holds_the_callers_tasks_as_the_agent_knows_them_now() -> None:
    full = {"artifacts": [{"artifactId": "a1", "parts": []}], "n": 2**53 + 1}

    async def sends(conversation: Conversation, seen: object) -> None:
        number = made.script.count("SendMessage")
        await gives(task("WORKING", f"t{number}", contextId=f"c-t{number}"))(conversation, made.script.seen[-1])

    async def gets(conversation: Conversation, seen: object) -> None:
        last = made.script.seen[-1]
        wanted = last.params["id"]
        known = gives(bare(task("WORKING", wanted, contextId=f"c-{wanted}", **full)))
        await (refuses(-32001, "gone") if wanted == "t2" else known)(conversation, last)

    async with world({"SendMessage": sends, "GetTask": gets}) as made:
        for identity in (ANA, ANA, ANA, BO):
            await made.call("SendMessage", SEND, identity=identity)
        plain = json.loads((await made.call("ListTasks", {"historyLength": 1})).payload)
        whole = json.loads((await made.call("ListTasks", {"includeArtifacts": True})).payload)

    assert {one["id"] for one in plain["tasks"]} == {"t1", "t3"}
    assert all("artifacts" not in one and one["n"] == 2**53 + 1 for one in plain["tasks"])
    assert all(one["artifacts"] for one in whole["tasks"])
    assert (plain["nextPageToken"], plain["totalSize"], plain["pageSize"]) == ("", 3, 50)
    assert {"id": "t1", "historyLength": 1} in [seen.params for seen in made.script.seen]
