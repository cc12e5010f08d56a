"""What a client of MCP is told of a call that waits for people, and that the same call again is what goes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.errors import ApprovalPending
from gateway.types import Call, Identity, Permit
from tests.fakes import FakeUpstream, permit_for
from tests.mcp.asgi import Json
from tests.mcp.sessions import Client
from tests.mcp.test_rounds import again, asking
from tests.mcp.worlds import World, call, request

PAGE = "http://127.0.0.1:8080/approvals/apr-1/page"
CAN_OPEN: Json = {"elicitation": {"form": {}, "url": {}}}


@dataclass
class Held:
    """A decider that holds every `tools/call` until people agreed."""

    world: World
    agreed: bool = False
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world.decider.decide_with = self.decide

    def decide(self, call: Call, identity: Identity) -> Permit:
        if call.action != "mcp.tools.call" or self.agreed:
            return permit_for(call, identity)
        self.asked.append(call.id)
        raise ApprovalPending(
            "held until role:boss agrees",
            decision_id="d7",
            ticket_id="apr-1",
            url=PAGE,
            expires_ms=1_800_000_000_000,
            retry_after_s=5,
        )


def able(body: Json, capabilities: Json) -> Json:
    meta = {**body["params"]["_meta"], "io.modelcontextprotocol/clientCapabilities": capabilities}
    return {**body, "params": {**body["params"], "_meta": meta}}


async def test_client_that_can_open_addresses_is_shown_the_page_and_calls_again() -> None:
    world, body = World(), able(call(arguments={"a": 1}), CAN_OPEN)
    held = Held(world)

    asked = (await world.post(body)).result
    held.agreed = True
    done = (await world.post(again(body, asked["requestState"], approval={"action": "accept"}))).result

    assert asked["resultType"] == "input_required"
    question = asked["inputRequests"]["approval"]
    assert question["method"] == "elicitation/create"
    assert question["params"]["mode"] == "url"
    assert question["params"]["url"] == PAGE
    assert "role:boss" in question["params"]["message"]
    assert done["resultType"] == "complete"
    assert [executed.call.resume for executed in world.upstream.executed] == [None]


async def test_client_whose_user_went_to_the_page_is_kept_waiting_for_people_and_then_answered() -> None:
    world, body = World(), able(call(), CAN_OPEN)
    held = Held(world)

    async def patience(ticket_id: str) -> None:
        assert ticket_id == "apr-1"
        held.agreed = True

    world.patience = patience
    world.start()
    asked = (await world.post(body)).result

    done = (await world.post(again(body, asked["requestState"], approval={"action": "accept"}))).result

    assert done["resultType"] == "complete"
    assert [record.outcome for record in world.trail.records] == ["denied", "denied", "ok"]


async def test_client_is_asked_again_while_people_have_not_agreed() -> None:
    world, body = World(), able(call(), CAN_OPEN)
    Held(world)
    asked = (await world.post(body)).result

    still = (await world.post(again(body, asked["requestState"], approval={"action": "accept"}))).result

    assert still["resultType"] == "input_required"
    assert still["inputRequests"] == asked["inputRequests"]
    assert world.upstream.executed == []


@pytest.mark.parametrize("action", ["decline", "cancel", "what"])
async def test_client_whose_user_will_not_go_gets_the_refusal(action: str) -> None:
    world, body = World(), able(call(), CAN_OPEN)
    held = Held(world)
    asked = (await world.post(body)).result

    refused = (await world.post(again(body, asked["requestState"], approval={"action": action}))).result

    assert refused["isError"] is True
    assert len(held.asked) == 2


async def test_held_round_is_taken_up_where_its_upstream_was() -> None:
    world, body = World(upstream=FakeUpstream(asking)), able(call(), CAN_OPEN)
    first = (await world.post(body)).result
    held = Held(world)
    second = (await world.post(again(body, first["requestState"], q={"action": "accept"}))).result
    held.agreed = True

    done = (await world.post(again(body, second["requestState"], approval={"action": "accept"}))).result

    assert done["state"] == {"step": 1}
    assert done["responses"] == {"q": {"action": "accept"}}


@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {}}, {"elicitation": {"form": {}}}])
async def test_model_of_any_other_client_reads_who_is_asked_and_where(capabilities: Json) -> None:
    world = World()
    Held(world)

    refused = (await world.post(able(call(), capabilities))).result

    assert refused["isError"] is True
    assert "approval_pending" in refused["content"][0]["text"]
    told = refused["_meta"]["io.modelcontextprotocol/authorization"]
    assert told["hints"] == [{"type": "url", "url": PAGE}]
    assert (told["ticket"], told["retry_after_s"], told["remediation"]) == ("apr-1", 5, "available")


async def test_legacy_client_that_can_open_addresses_gets_the_error_for_it_and_calls_again() -> None:
    client, world = await _legacy(CAN_OPEN)
    held = Held(world)
    body = client.request("tools/call", {"name": "files__read", "arguments": {}})

    error = (await client.send(body)).error
    held.agreed = True
    done = (await client.send(body)).result

    assert error["code"] == -32042
    assert error["data"]["elicitations"] == [
        {"mode": "url", "elicitationId": "apr-1", "url": PAGE, "message": "held until role:boss agrees"}
    ]
    assert "isError" not in done


@pytest.mark.parametrize(("version", "capabilities"), [("2025-11-25", {}), ("2025-06-18", CAN_OPEN)])
async def test_any_other_legacy_client_gets_the_result_for_its_model(version: str, capabilities: Json) -> None:
    client, world = await _legacy(capabilities, version)
    Held(world)

    answer = await client.send(client.request("tools/call", {"name": "files__read", "arguments": {}}))

    assert answer.result["isError"] is True
    assert "role:boss" in answer.result["content"][0]["text"]


async def test_held_list_is_an_answer_with_its_ticket_that_clients_read() -> None:
    world = World()
    held = Held(world)

    def decide(call: Call, identity: Identity) -> Any:
        return held.decide(_as_tool_call(call), identity)

    world.decider.decide_with = decide
    answer = await world.post(request("prompts/list", {}))

    assert answer.status == 200
    assert answer.header("retry-after") == "5"
    assert answer.header("location") == PAGE
    assert answer.error["code"] == -31202
    assert answer.error["data"]["ticket"] == "apr-1"


def _as_tool_call(call: Call) -> Call:
    return Call(call.id, "mcp.tools.call", call.method, call.resource)


async def _legacy(capabilities: Json, version: str = "2025-11-25") -> tuple[Client, World]:
    world = World()
    client = Client(world)
    await client.initialize(version, capabilities)
    return client, world
