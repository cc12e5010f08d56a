"""An A2A agent as MCP tools: what is called is a message to the agent, decided and recorded as one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gateway import codec
from gateway.a2a.as_tools import AgentTools, tools_of
from gateway.a2a.directory import AgentEntry, Agents
from gateway.errors import InvalidCall, PolicyDenied, UnknownResource
from gateway.ports import Relay
from gateway.types import Authorized, Call, Era, FrozenDict, Identity, Permit, Resource, Result, freeze
from tests.fakes import ANA, FakeExchange, FakeUpstream, permit_for
from tests.spine import CREDENTIALS, World

SKILLS = [
    {"id": "plan", "name": "Plan", "description": "Plans a journey.", "tags": ["t"]},
    {"id": "book it/now", "name": "Book", "description": "Books it.", "tags": ["t"]},
]
Answer = Callable[[Call], list[dict[str, Any]]]


def planner(*, streaming: bool = True, skills: object = SKILLS, shown: tuple[str, ...] = ()) -> AgentEntry:
    card = freeze({"name": "Planner", "description": "d", "capabilities": {"streaming": streaming}, "skills": skills})
    assert isinstance(card, FrozenDict)
    return AgentEntry("planner", card, skills=shown)


class Bridge:
    """A pipeline whose upstream is the bridge for MCP calls, and a scripted agent for A2A calls."""

    def __init__(self, answer: Answer, *, streaming: bool = True, era: Era = Era.LEGACY) -> None:
        self.agents = Agents()
        self.agents.configure(["planner"])
        self.agents.put(planner(streaming=streaming))
        self.answer = answer
        self.asked: list[Call] = []
        tools = AgentTools("planner", self.agents)

        async def execute(authorized: Authorized, relay: Relay) -> Result:
            call = authorized.call
            if call.protocol == "mcp":
                return await tools.execute(authorized, relay)
            self.asked.append(call)
            events = self.answer(call)
            if "code" in events[0]:
                return Result(codec.dumps(events[0]), "rpc_error")
            if call.action == "a2a.message.send":
                return Result(codec.dumps(events[-1]))
            for event in events:
                await relay.emit(codec.dumps(event))
            return Result(b"{}")

        self.world = World(upstream=FakeUpstream(execute), exchange=FakeExchange("client", era=era))

    async def call(self, arguments: Mapping[str, object], resume: Mapping[str, object] | None = None) -> Result:
        params = freeze({"name": "plan", "arguments": arguments})
        assert isinstance(params, FrozenDict)
        tool = Resource("tool", "planner/plan", "planner", "plan")
        call = Call("c1", "mcp.tools.call", "tools/call", tool, params, resume=resume)
        return await self.world.pipeline.handle(call, CREDENTIALS, self.world.exchange)


def task(state: str, *, parts: list[dict[str, Any]] | None = None, says: str = "") -> dict[str, Any]:
    status: dict[str, Any] = {"state": f"TASK_STATE_{state}"}
    if says:
        status["message"] = {"messageId": "s", "role": "ROLE_AGENT", "parts": [{"text": says}]}
    artifacts = [{"artifactId": "a1", "parts": parts}] if parts else []
    return {"task": {"id": "t1", "contextId": "x1", "status": status, "artifacts": artifacts}}


def read(result: Result) -> dict[str, Any]:
    found = json.loads(result.payload)
    assert isinstance(found, dict)
    return found


def test_each_skill_is_a_tool_and_an_agent_without_skills_can_be_asked() -> None:
    every = tools_of(planner())
    some = tools_of(planner(shown=("plan",)))
    none = tools_of(planner(skills=[]))

    assert [tool["name"] for tool in every] == ["plan", "book_it_now"]
    assert [tool["name"] for tool in some] == ["plan"]
    assert [tool["name"] for tool in none] == ["ask"]
    assert every[0]["description"] == "Plans a journey."


@pytest.mark.parametrize("skills", [None, "x", 7, [None, 7, {"id": 1}], {"id": "x"}], ids=str)
def test_odd_skills_of_a_card_break_nothing(skills: object) -> None:
    assert tools_of(planner(skills=skills))


async def test_answer_of_the_agent_is_the_result_of_the_tool() -> None:
    parts: list[dict[str, Any]] = [
        {"text": "by train"},
        {"data": {"price": 7}},
        {"raw": "aGk=", "mediaType": "image/png"},
    ]
    bridge = Bridge(lambda call: [task("COMPLETED", parts=parts)])

    found = read(await bridge.call({"message": "plan it", "data": {"to": "Rome"}}))

    (asked,) = bridge.asked
    message = asked.params["message"]
    assert isinstance(message, Mapping)
    assert message["parts"] == ({"text": "plan it"}, {"data": {"to": "Rome"}})
    assert (asked.action, asked.resource.id, asked.parent_id) == ("a2a.message.send", "planner", "c1")
    assert [block["type"] for block in found["content"]] == ["text", "text", "image"]
    assert found["structuredContent"] == {"price": 7}
    assert found["isError"] is False
    assert found["_meta"]["a2a"] == {"taskId": "t1", "contextId": "x1", "state": "TASK_STATE_COMPLETED"}
    assert [record.call.action for record in bridge.world.trail.records] == ["a2a.message.send", "mcp.tools.call"]


async def test_failed_task_is_an_error_of_the_tool_with_the_agents_words() -> None:
    bridge = Bridge(lambda call: [task("FAILED", says="no trains")])

    result = await bridge.call({"message": "plan it"})

    assert (result.outcome, read(result)["isError"]) == ("tool_error", True)
    assert read(result)["content"] == [{"type": "text", "text": "no trains"}]


async def test_refusal_of_the_agent_is_an_error_of_the_tool() -> None:
    bridge = Bridge(lambda call: [{"code": -32004, "message": "not today"}])

    result = await bridge.call({"message": "plan it"})

    assert (result.outcome, read(result)["content"]) == ("tool_error", [{"type": "text", "text": "not today"}])


async def test_events_of_the_agent_are_progress_and_its_chunks_one_artifact() -> None:
    def answer(_: Call) -> list[dict[str, Any]]:
        chunk = {"taskId": "t1", "contextId": "x1", "artifact": {"artifactId": "a9", "parts": [{"text": "one"}]}}
        more = {**chunk, "append": True, "artifact": {"artifactId": "a9", "parts": [{"text": "two"}]}}
        status = {"taskId": "t1", "contextId": "x1", "status": {"state": "TASK_STATE_COMPLETED"}}
        return [task("WORKING"), {"artifactUpdate": chunk}, {"artifactUpdate": more}, {"statusUpdate": status}]

    bridge = Bridge(answer)
    bridge.world.exchange.wants_progress = True

    found = read(await bridge.call({"message": "plan it"}))

    assert bridge.asked[0].action == "a2a.message.stream"
    assert [block["text"] for block in found["content"]] == ["one", "two"]
    assert [params["progress"] for _, params in bridge.world.exchange.told] == [1, 2, 3, 4]
    assert bridge.world.exchange.events == []


async def test_task_that_needs_input_asks_a_client_that_can_be_asked() -> None:
    def answer(call: Call) -> list[dict[str, Any]]:
        message = call.params["message"]
        assert isinstance(message, Mapping)
        if message.get("taskId") == "t1":
            return [task("COMPLETED", parts=[{"text": message["parts"][0]["text"]}])]
        return [task("INPUT_REQUIRED", says="which day?")]

    bridge = Bridge(answer)
    accepted = {"action": "accept", "content": {"answer": "monday"}}
    bridge.world.exchange.answers["elicitation/create"] = Result(codec.dumps(accepted))

    found = read(await bridge.call({"message": "plan it"}))

    assert found["content"][0]["text"] == "monday"
    assert bridge.world.exchange.asked[0].params["message"] == "which day?"


async def test_client_that_takes_questions_along_answers_in_the_next_round() -> None:
    def answer(call: Call) -> list[dict[str, Any]]:
        message = call.params["message"]
        assert isinstance(message, Mapping)
        if "taskId" in message:
            assert message["contextId"] == "x1"
            return [task("COMPLETED", parts=[{"text": message["parts"][0]["text"]}])]
        return [task("INPUT_REQUIRED", says="which day?")]

    bridge = Bridge(answer, era=Era.MODERN)
    bridge.world.exchange.answers["elicitation/create"] = Result(b"{}", "input_required")

    first = await bridge.call({"message": "plan it"})
    responses = {"answer": {"action": "accept", "content": {"answer": "monday"}}}
    second = await bridge.call({"message": "plan it"}, {"state": first.state, "responses": responses})

    assert first.outcome == "input_required"
    assert read(first)["inputRequests"]["answer"]["params"]["message"] == "which day?"
    assert read(second)["content"][0]["text"] == "monday"


@pytest.mark.parametrize(
    "response", [None, {}, {"action": "decline"}, {"action": "accept", "content": {"answer": 7}}], ids=str
)
async def test_question_without_an_answer_ends_the_call(response: object) -> None:
    bridge = Bridge(lambda call: [task("COMPLETED")], era=Era.MODERN)

    with pytest.raises(InvalidCall, match="not answered"):
        await bridge.call({}, {"state": {"task_id": "t1"}, "responses": {"answer": response}})

    assert bridge.asked == []


async def test_policy_on_the_agent_stands_behind_policy_on_the_tool() -> None:
    def no_agents(call: Call, identity: Identity) -> Permit:
        if call.protocol == "a2a":
            raise PolicyDenied("no agents", decision_id="d2")
        return permit_for(call, identity)

    bridge = Bridge(lambda call: [task("COMPLETED")])
    bridge.world.decider.decide_with = no_agents

    with pytest.raises(PolicyDenied, match="no agents"):
        await bridge.call({"message": "plan it"})

    assert bridge.asked == []
    assert {record.outcome for record in bridge.world.trail.records} == {"denied"}
    assert bridge.world.trail.records[0].identity == ANA


@pytest.mark.parametrize("arguments", [{}, {"message": ""}, {"message": 7}, {"data": "x"}], ids=str)
async def test_call_that_says_nothing_is_told_what_to_say(arguments: dict[str, object]) -> None:
    bridge = Bridge(lambda call: [task("COMPLETED")])

    with pytest.raises(InvalidCall, match="`message`"):
        await bridge.call(arguments)


async def test_agent_has_nothing_else_of_mcp() -> None:
    bridge = Bridge(lambda call: [task("COMPLETED")])
    prompt = Call("c1", "mcp.prompts.get", "prompts/get", Resource("prompt", "planner/x", "planner", "x"))

    with pytest.raises(UnknownResource):
        await bridge.world.pipeline.handle(prompt, CREDENTIALS, bridge.world.exchange)
