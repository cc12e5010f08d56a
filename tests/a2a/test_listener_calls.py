"""Every operation on both bindings, from the bytes of a client to the call that policy sees and back."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

from gateway import codec
from gateway.a2a.operations import OPERATIONS
from gateway.ports import Relay
from gateway.types import Authorized, Result
from tests.a2a.worlds import World, entry, message
from tests.fakes import ANA
from tests.mcp.asgi import Answer, Json

EXACT = b'{"task":{"id":"t-1","big":9007199254740993,"new":{"x":[1.0,2e3]}},"unknown":null}'
CONFIG = {"taskId": "t-1", "id": "p-1", "url": "https://client.example/hook"}


class Case(NamedTuple):
    """One operation as each binding asks for it."""

    name: str
    params: Json
    verb: str
    path: str
    body: Json | None = None


CASES = (
    Case("SendMessage", {"message": message()}, "POST", "/message:send", {"message": message()}),
    Case("SendStreamingMessage", {"message": message()}, "POST", "/message:stream", {"message": message()}),
    Case("GetTask", {"id": "t-1", "historyLength": 3}, "GET", "/tasks/t-1?historyLength=3"),
    Case("ListTasks", {"contextId": "c-1", "pageSize": 5}, "GET", "/tasks?contextId=c-1&pageSize=5"),
    Case("CancelTask", {"id": "t-1"}, "POST", "/tasks/t-1:cancel"),
    Case("SubscribeToTask", {"id": "t-1"}, "GET", "/tasks/t-1:subscribe"),
    Case("SubscribeToTask", {"id": "t-1"}, "POST", "/tasks/t-1:subscribe"),
    Case("CreateTaskPushNotificationConfig", CONFIG, "POST", "/tasks/t-1/pushNotificationConfigs", CONFIG),
    Case(
        "GetTaskPushNotificationConfig", {"taskId": "t-1", "id": "p-1"},
        "GET", "/tasks/t-1/pushNotificationConfigs/p-1",
    ),
    Case("ListTaskPushNotificationConfigs", {"taskId": "t-1"}, "GET", "/tasks/t-1/pushNotificationConfigs"),
    Case(
        "DeleteTaskPushNotificationConfig", {"taskId": "t-1", "id": "p-1"},
        "DELETE", "/tasks/t-1/pushNotificationConfigs/p-1",
    ),
    Case("GetExtendedAgentCard", {}, "GET", "/extendedAgentCard"),
)  # fmt: skip


def payload_for(name: str) -> bytes:
    """What an agent answers."""
    if name == "GetExtendedAgentCard":
        return codec.dumps(entry().card)
    return b"{}" if name.startswith("Delete") else EXACT


def is_what_the_agent_said(case: Case, answer: Answer, *, rpc: bool) -> bool:
    """Whether the answer holds the agent's bytes unchanged, as far as they are handed on."""
    if OPERATIONS[case.name].streams:
        head, tail = (b'{"jsonrpc":"2.0","id":1,"result":', b"}") if rpc else (b"", b"")
        return answer.is_stream and answer.body == b"data: " + head + EXACT + tail + b"\n\n"
    if case.name == "GetExtendedAgentCard":
        card = answer.result if rpc else json.loads(answer.body)
        return b"10.1.2.3" not in answer.body and len(card["signatures"]) == 1
    if not rpc:
        return answer.body == payload_for(case.name)
    payload = b"null" if case.name.startswith("Delete") else payload_for(case.name)
    return answer.body == b'{"jsonrpc":"2.0","id":1,"result":' + payload + b"}"


async def arranged(case: Case) -> World:
    """A gateway whose agent answers the operation, and a caller who owns the task."""
    world = World()
    await world.own("t-1", ANA)
    if OPERATIONS[case.name].streams:
        world.stream(EXACT)
    else:
        world.answer(payload_for(case.name))
    return world


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.verb}-{case.name}")
async def test_both_bindings_make_the_same_call_and_hand_on_the_same_answer(case: Case, slash: str) -> None:
    over_rpc, over_http = await arranged(case), await arranged(case)
    path, mark, query = case.path.partition("?")

    rpc = await over_rpc.rpc(case.name, case.params, path=slash)
    http = await over_http.send(case.verb, path + slash + mark + query, case.body)

    assert is_what_the_agent_said(case, rpc, rpc=True)
    assert is_what_the_agent_said(case, http, rpc=False)
    assert (rpc.status, http.status) == (200, 200)
    assert over_rpc.call.digest == over_http.call.digest
    assert over_rpc.call.facts == over_http.call.facts


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.verb}-{case.name}")
async def test_the_call_is_what_the_contract_says(case: Case) -> None:
    world = await arranged(case)
    operation = OPERATIONS[case.name]

    await world.rpc(case.name, case.params, (b"traceparent", b"00-1-2-01"), (b"interlock-chain", b"signed"))

    call = world.call
    assert (call.protocol, call.protocol_version, call.method) == ("a2a", "1.0", case.name)
    assert call.action == operation.action
    assert call.traceparent == "00-1-2-01"
    assert codec.loads(codec.dumps(call.params)) == case.params
    expected = {"agent": ("agent", "cook"), "task": ("a2a_task", "t-1"), "tasks": ("a2a_task", "*")}[operation.target]
    assert (call.resource.type, call.resource.id) == expected
    assert call.resource.upstream == "cook"
    assert world.identifier.seen[-1].chain == "signed"
    if operation.target == "task":
        assert call.resource.catalog["task"] == {
            "owner": "user:ana", "context": "c-1", "state": "TASK_STATE_WORKING", "tenant": "",
        }  # fmt: skip


async def test_policy_sees_the_facts_of_a_message() -> None:
    world = await arranged(CASES[0])

    await world.rpc("SendMessage", {"message": message("hello")})

    assert world.decider.asked[0].facts["media_types"] == ["text/plain"]


async def test_the_extensions_of_the_client_reach_the_agent_and_those_of_the_agent_the_client() -> None:
    world = World()
    seen: list[object] = []

    async def answer(authorized: Authorized, relay: Relay) -> Result:
        seen.append(relay.capabilities["extensions"])
        return Result(b"{}", headers=((b"a2a-extensions", b"https://a.example/1"), (b"retry-after", b"3")))

    world.upstream.answer = answer

    wanted = (b"a2a-extensions", b"https://a.example/1, https://b.example/2")
    rpc = await world.rpc("SendMessage", {"message": message()}, wanted)
    http = await world.send("POST", "/message:send", {"message": message()}, wanted)

    assert seen == [("https://a.example/1", "https://b.example/2")] * 2
    for got in (rpc, http):
        assert got.header("a2a-extensions") == "https://a.example/1"
        assert got.header("retry-after") == "3"
        assert got.header("a2a-version") == "1.0"


@pytest.mark.parametrize(
    ("sent", "accept", "expected"),
    [
        (b"application/a2a+json", b"-", "application/a2a+json"),
        (b"application/json", b"-", "application/json"),
        (b"application/json; charset=utf-8", b"*/*", "application/json"),
        (b"application/json", b"application/a2a+json", "application/a2a+json"),
    ],
)
async def test_http_json_answers_in_the_media_type_that_the_client_names(
    sent: bytes, accept: bytes, expected: str
) -> None:
    world = World()

    got = await world.send(
        "POST", "/message:send", {"message": message()}, (b"content-type", sent), (b"accept", accept)
    )

    assert got.header("content-type") == expected


async def test_http_json_answers_clients_without_a_wish_as_the_specification_has_it() -> None:
    world = await arranged(CASES[2])

    got = await world.send("GET", "/tasks/t-1")

    assert got.header("content-type") == "application/a2a+json"


async def test_a_message_that_continues_a_task_gets_the_context_of_the_task() -> None:
    world = World()
    await world.own("t-1", ANA, context_id="c-9")

    await world.rpc("SendMessage", {"message": message(taskId="t-1")})

    sent = world.call.params["message"]
    assert isinstance(sent, dict)
    assert sent["contextId"] == "c-9"
    assert world.call.facts["context_id"] == "c-9"


async def test_a_message_in_another_context_than_its_task_is_refused() -> None:
    world = World()
    await world.own("t-1", ANA, context_id="c-9")

    got = await world.rpc("SendMessage", {"message": message(taskId="t-1", contextId="c-8")})

    assert got.error["code"] == -32602
    assert got.error["data"][1]["fieldViolations"][0]["field"] == "message.contextId"
    assert world.upstream.executed == []


async def test_a_message_without_a_task_keeps_the_context_that_it_names() -> None:
    world = World()

    await world.rpc("SendMessage", {"message": message(contextId="mine")})

    sent = world.call.params["message"]
    assert isinstance(sent, dict)
    assert sent["contextId"] == "mine"
