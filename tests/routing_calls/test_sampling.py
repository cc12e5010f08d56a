"""Questions of MCP servers for their client's model, answered by ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from gateway import codec
from gateway.errors import InvalidCall
from gateway.ports import Relay
from gateway.routing.sampling import Sampler, answer_of, request_of
from gateway.types import Authorized, Call, FrozenDict, Permit, Resource, Result, freeze
from tests.fakes import ANA, FakeRelay, FakeUpstream
from tests.spine import World, a_call

pytestmark = pytest.mark.anyio

ASKED: Mapping[str, Any] = {
    "messages": [{"role": "user", "content": {"type": "text", "text": "Hi"}}],
    "systemPrompt": "Be brief",
    "maxTokens": 100,
    "temperature": 0.5,
    "stopSequences": ["END"],
}
ANSWER = {
    "id": "m", "type": "message", "role": "assistant", "model": "m-1", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "Hello"}],
}  # fmt: skip


def test_a_question_becomes_a_request_of_the_messages_api_and_its_answer_a_clients() -> None:
    assert request_of(ASKED, "auto") == {
        "model": "auto",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "system": "Be brief",
        "temperature": 0.5,
        "stop_sequences": ["END"],
    }
    assert answer_of(codec.dumps(ANSWER)) == {
        "role": "assistant", "content": {"type": "text", "text": "Hello"}, "model": "m-1", "stopReason": "endTurn",
    }  # fmt: skip


def test_tools_go_there_and_back() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
    found = {"type": "tool_result", "toolUseId": "t1", "content": [{"type": "text", "text": "1"}], "isError": True}
    asked = {
        "messages": [{"role": "assistant", "content": [use]}, {"role": "user", "content": [found]}],
        "maxTokens": 9,
        "tools": [{"name": "f", "inputSchema": {"type": "object"}}],
        "toolChoice": {"mode": "required"},
    }

    body: Any = request_of(asked, "m")
    answer: Any = answer_of(codec.dumps({**ANSWER, "content": [use, use], "stop_reason": "tool_use"}))

    assert body["messages"][1]["content"][0] == {
        "type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "1"}], "is_error": True,
    }  # fmt: skip
    assert (body["tools"][0]["name"], body["tool_choice"]) == ("f", {"type": "any"})
    assert (answer["content"], answer["stopReason"]) == ([use, use], "toolUse")


BAD: Mapping[str, Mapping[str, object]] = {
    "no limit": {"messages": ASKED["messages"]},
    "no messages": {"maxTokens": 9},
    "sound": {"maxTokens": 9, "messages": [{"role": "user", "content": {"type": "audio", "data": "AA=="}}]},
    "a role": {"maxTokens": 9, "messages": [{"role": "system", "content": {"type": "text", "text": "x"}}]},
}


@pytest.mark.parametrize("params", BAD.values(), ids=BAD.keys())
def test_what_no_model_can_be_asked_is_said(params: Mapping[str, object]) -> None:
    with pytest.raises(InvalidCall):
        request_of(params, "m")


WISHES = [
    ({}, "auto"),
    ({"costPriority": 0.9, "intelligencePriority": 0.1}, "auto:cheap"),
    ({"speedPriority": 0.8, "costPriority": 0.2}, "auto:fast"),
    ({"intelligencePriority": 1, "costPriority": 0.6}, "auto"),
]


@pytest.mark.parametrize(("wishes", "name"), WISHES)
async def test_a_server_may_wish_for_less_but_not_for_more(wishes: Mapping[str, object], name: str) -> None:
    relay = FakeRelay(answers={"model.call": Result(codec.dumps(ANSWER))})
    params = cast("FrozenDict", freeze({**ASKED, "modelPreferences": wishes}))
    call = Call("c1", "mcp.sampling.create", "sampling/createMessage", Resource("model", "s", "s"), params)
    sampler = Sampler(lambda: "auto", lambda name: Resource("model", name, "models", name))

    await sampler.execute(Authorized(call, ANA, Permit("d1", call.digest)), relay)

    assert relay.acted[0][1].id == name


@pytest.mark.parametrize("configured", ["", "p/m"])
async def test_the_model_is_asked_as_a_call_of_its_own_that_policy_sees(configured: str) -> None:
    """Without a configured model, the client is asked as before."""
    world = World()
    sampler = Sampler(lambda: configured, lambda name: Resource("model", name, "p", name))
    world.pipeline.sampler = sampler
    given: list[Mapping[str, object]] = []

    async def tool(authorized: Authorized, relay: Relay) -> Result:
        if authorized.call.action == "model.call":
            return Result(codec.dumps(ANSWER))
        assert ("sampling" in relay.capabilities) == bool(configured)
        answer = await relay.ask("sampling/createMessage", ASKED)
        given.append(cast("Mapping[str, object]", codec.loads(answer.payload)))
        return Result(b"{}")

    world.upstream = FakeUpstream(tool)
    world.exchange.answers["sampling/createMessage"] = Result(b'{"model": "the client\'s"}')

    await world.handle(a_call())

    actions = [record.call.action for record in world.trail.records]
    if configured:
        assert given[0]["model"] == "m-1"
        assert actions == ["model.call", "mcp.sampling.create", "mcp.tools.call"]
        assert world.trail.records[0].call.parent_id == world.trail.records[1].call.id
    else:
        assert given[0]["model"] == "the client's"
        assert actions == ["mcp.sampling.create", "mcp.tools.call"]
