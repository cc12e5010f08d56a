"""Questions of an upstream to a legacy client: each to the client whose call caused it, and to no other."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import PolicyDenied
from gateway.ports import Relay
from gateway.types import Authorized, Result
from tests.mcp.sessions import begun
from tests.mcp.worlds import World

DONE = Result(b'{"content":[]}')


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
