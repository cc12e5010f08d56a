"""Calls in rounds: what `requestState` is good for, and for whom (MCP 2026-07-28, patterns/mrtr)."""

from __future__ import annotations

import json

import pytest

from gateway.errors import PolicyDenied
from gateway.ports import Relay
from gateway.types import Authorized, Result
from tests.fakes import FakeUpstream
from tests.mcp.asgi import Json
from tests.mcp.worlds import TimedSeal, World, call, request

QUESTION = {"resultType": "input_required", "inputRequests": {"q": {"method": "elicitation/create", "params": {}}}}


async def asking(authorized: Authorized, relay: Relay) -> Result:
    """Ask once; with an answer, give it back."""
    resume = authorized.call.resume
    if resume is None or not resume["responses"]:
        state = resume["state"] if resume is not None else {"step": 1}
        assert isinstance(state, dict)
        return Result(json.dumps(QUESTION).encode(), "input_required", state=state)
    payload = {"resultType": "complete", "content": [], "state": resume["state"], "responses": resume["responses"]}
    return Result(json.dumps(payload).encode())


def a_world() -> World:
    return World(upstream=FakeUpstream(asking))


def again(body: Json, state: object, **responses: object) -> Json:
    """The same request with what the round before gave, and answers."""
    return {**body, "id": 2, "params": {**body["params"], "requestState": state, "inputResponses": responses}}


@pytest.mark.requirement("mcp:2026-07-28:mrtr-state", "mcp:2026-07-28:mrtr-reauthorized")
async def test_second_round_carries_the_state_and_the_answers_and_is_decided_anew() -> None:
    world, body = a_world(), call(arguments={"a": 1})
    asked = (await world.post(body)).result

    done = (await world.post(again(body, asked["requestState"], q={"action": "accept"}))).result

    assert asked["inputRequests"] == QUESTION["inputRequests"]
    assert done["state"] == {"step": 1}
    assert done["responses"] == {"q": {"action": "accept"}}
    assert len(world.decider.asked) == 2
    assert [record.outcome for record in world.trail.records] == ["input_required", "ok"]


async def test_round_that_policy_forbids_by_then_is_refused() -> None:
    world, body = a_world(), call()
    asked = (await world.post(body)).result
    world.deny(action="mcp.tools.call", error=PolicyDenied("no longer"))

    refused = (await world.post(again(body, asked["requestState"], q={}))).result

    assert refused["isError"] is True
    assert len(world.upstream.executed) == 1


@pytest.mark.requirement("mcp:2026-07-28:mrtr-missing")
async def test_round_without_answers_is_asked_again() -> None:
    world, body = a_world(), call()
    asked = (await world.post(body)).result

    again_asked = (await world.post(again(body, asked["requestState"]))).result

    assert again_asked["resultType"] == "input_required"
    assert again_asked["inputRequests"] == QUESTION["inputRequests"]


async def test_answers_without_a_state_begin_with_an_empty_one() -> None:
    body = call()
    body["params"]["inputResponses"] = {"q": 1}

    done = (await a_world().post(body)).result

    assert done["state"] == {}


async def test_state_of_an_upstream_is_not_readable() -> None:
    asked = (await a_world().post(call())).result

    assert "step" not in asked["requestState"]


def tampered(state: str) -> list[str]:
    middle = len(state) // 2
    return [
        state[:-2],
        state[:middle] + ("A" if state[middle] != "A" else "B") + state[middle + 1 :],
        "",
        "x",
        state * 2,
    ]


@pytest.mark.requirement("mcp:2026-07-28:mrtr-bound", "mcp:2026-07-28:mrtr-tampered")
async def test_state_serves_only_its_own_principal_request_and_time() -> None:
    world, body = a_world(), call(arguments={"a": 1})
    state = (await world.post(body)).result["requestState"]
    mine, bo = again(body, state, q={}), (b"authorization", b"Bearer bo")
    others = [
        again(call(arguments={"a": 2}), state, q={}),
        again(call("files__write", arguments={"a": 1}), state, q={}),
        again(request("prompts/get", {"name": "files__ask", "arguments": {"a": 1}}), state, q={}),
        *(again(body, changed, q={}) for changed in tampered(state)),
    ]

    refused = [await world.post(mine, bo), *[await world.post(other) for other in others]]
    seal = world.seal
    assert isinstance(seal, TimedSeal)
    seal.now_s += 601
    late = await world.post(mine)
    seal.now_s -= 2

    assert {(answer.status, answer.error["code"]) for answer in [*refused, late]} == {(400, -32602)}
    assert "expired" in late.error["message"]
    assert len(world.upstream.executed) == 1
    assert (await world.post(mine)).result["resultType"] == "complete"


async def test_cursor_is_no_state() -> None:
    world = World(page_size=1)
    cursor = (await world.post(request("tools/list"))).result["nextCursor"]

    answer = await world.post(again(call(), cursor, q={}))

    assert (answer.status, answer.error["code"]) == (400, -32602)


async def test_input_required_that_is_no_object_is_a_fault_of_the_upstream() -> None:
    async def odd(authorized: Authorized, relay: Relay) -> Result:
        return Result(b"[]", "input_required")

    answer = await World(upstream=FakeUpstream(odd)).post(request("prompts/get", {"name": "files__ask"}))

    assert (answer.status, answer.error["code"]) == (502, -31502)


async def test_answers_too_large_for_policy_are_refused() -> None:
    body = call()
    body["params"]["inputResponses"] = {"q": list(range(3_000))}

    answer = await a_world().post(body)

    assert answer.result["isError"] is True
    assert "input_too_large" in answer.result["content"][0]["text"]


@pytest.mark.requirement("mcp:2026-07-28:mrtr-elicitation", "mcp:2026-07-28:no-server-requests")
async def test_question_to_a_modern_client_is_decided_and_travels_in_the_answer() -> None:
    async def ask(authorized: Authorized, relay: Relay) -> Result:
        asked = await relay.ask("elicitation/create", {"message": "sure?"})
        assert asked.outcome == "input_required"
        return Result(json.dumps(QUESTION).encode(), "input_required", state={})

    world = World(upstream=FakeUpstream(ask))

    answer = await world.post(call(clientCapabilities={"elicitation": {}}))

    assert answer.result["inputRequests"] == QUESTION["inputRequests"]
    assert not answer.is_stream
    assert [decided.action for decided in world.decider.asked] == ["mcp.tools.call", "mcp.elicitation.create"]


async def test_only_elicitation_has_modes() -> None:
    async def ask(authorized: Authorized, relay: Relay) -> Result:
        return await relay.ask("sampling/createMessage", {"mode": "url"})

    world = World(upstream=FakeUpstream(ask))

    answer = await world.post(call(clientCapabilities={"sampling": {}}))

    assert "error" not in answer.message
