"""An MCP server as an A2A agent: a data part calls a tool, and the call is decided and recorded as one of the tool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway import codec
from gateway.a2a.as_agent import ToolAgent, entry_of
from gateway.errors import UnknownResource
from gateway.ports import Relay
from gateway.types import Authorized, Call, FrozenDict, Resource, Result, freeze
from tests.fakes import FakeUpstream
from tests.spine import CREDENTIALS, World

TOOLS = [{"name": "add", "title": "Add", "description": "Adds."}, {"name": "sub"}]


def resolve(upstream: str, name: str) -> Resource:
    return Resource("tool", f"{upstream}/{name}", upstream, name, known=name == "add")


class Bridge:
    def __init__(self, result: Result) -> None:
        agent = ToolAgent("calc", resolve)

        async def execute(authorized: Authorized, relay: Relay) -> Result:
            return await agent.execute(authorized, relay) if authorized.call.protocol == "a2a" else result

        self.world = World(upstream=FakeUpstream(execute))

    async def send(self, parts: object, method: str = "SendMessage", **message: object) -> Result:
        params = freeze({"message": {"messageId": "m", "role": "ROLE_USER", "parts": parts, **message}})
        assert isinstance(params, FrozenDict)
        agent = Resource("agent", "calc", "calc", "calc")
        call = Call("c1", "a2a.message.send", method, agent, params, protocol="a2a", protocol_version="1.0")
        return await self.world.pipeline.handle(call, CREDENTIALS, self.world.exchange)


def read(payload: bytes) -> dict[str, Any]:
    found = json.loads(payload)
    assert isinstance(found, dict)
    return found


def test_skills_are_the_tools() -> None:
    entry = entry_of("calc", TOOLS, version="3")

    skills = entry.card["skills"]
    assert isinstance(skills, tuple)
    assert [(skill["id"], skill["name"], skill["description"]) for skill in skills] == [
        ("add", "Add", "Adds."),
        ("sub", "sub", "The tool sub."),
    ]
    assert (entry.has("streaming"), entry.has("pushNotifications")) == (True, False)


def test_server_without_tools_still_has_a_card() -> None:
    assert len(entry_of("calc", []).card["skills"]) == 1  # type: ignore[arg-type]


async def test_data_part_calls_the_tool_as_a_call_of_its_own() -> None:
    content = [{"type": "text", "text": "3"}, {"type": "image", "data": "aGk=", "mimeType": "image/png"}]
    bridge = Bridge(Result(codec.dumps({"content": content, "structuredContent": {"sum": 3}})))

    result = await bridge.send([{"data": {"tool": "add", "arguments": {"a": 1, "b": 2}}}], contextId="x1")

    asked, called = bridge.world.decider.asked
    assert (called.action, called.protocol, called.protocol_version) == ("mcp.tools.call", "mcp", "2026-07-28")
    assert (called.resource.id, called.arguments, called.parent_id) == ("calc/add", {"a": 1, "b": 2}, asked.id)
    message = read(result.payload)["message"]
    assert message["parts"] == [
        {"text": "3"},
        {"raw": "aGk=", "mediaType": "image/png"},
        {"data": {"sum": 3}, "mediaType": "application/json"},
    ]
    assert (message["role"], message["contextId"], message["metadata"]) == ("ROLE_AGENT", "x1", {"isError": False})


async def test_stream_is_the_one_answer() -> None:
    bridge = Bridge(Result(codec.dumps({"content": [{"type": "text", "text": "3"}]})))

    await bridge.send([{"data": {"tool": "add"}}], "SendStreamingMessage")

    (event,) = bridge.world.exchange.events
    assert read(event)["message"]["parts"] == [{"text": "3"}]


async def test_tool_that_failed_is_said_to_have() -> None:
    bridge = Bridge(Result(b'{"content":[{"type":"text","text":"no"}],"isError":true}', "tool_error"))

    message = read((await bridge.send([{"data": {"tool": "add"}}])).payload)["message"]

    assert message["metadata"] == {"isError": True}


async def test_tool_that_is_not_there_is_refused_and_on_record() -> None:
    bridge = Bridge(Result(b"{}"))

    with pytest.raises(UnknownResource):
        await bridge.send([{"data": {"tool": "drop"}}])

    assert [record.outcome for record in bridge.world.trail.records] == ["denied", "denied"]


@pytest.mark.parametrize(
    "parts",
    [
        [{"text": "add 1 and 2"}],
        [{"data": {"tool": "add"}}, {"text": "please"}],
        [{"data": {"tool": 7}}],
        [{"data": {"tool": "add", "arguments": [1]}}],
        [{"data": {"tool": "add", "then": "sub"}}],
        [{"data": "add"}],
    ],
    ids=str,
)
async def test_anything_but_one_data_part_is_refused_with_how_to_write_it(parts: list[Mapping[str, object]]) -> None:
    bridge = Bridge(Result(b"{}"))

    result = await bridge.send(parts)

    error = read(result.payload)
    assert (result.outcome, error["code"]) == ("rpc_error", -32005)
    assert '{"tool": NAME, "arguments": {...}}' in error["message"]
    assert len(bridge.world.decider.asked) == 1


async def test_there_are_no_tasks() -> None:
    bridge = Bridge(Result(b"{}"))

    result = await bridge.send([], "GetTask")

    assert read(result.payload)["code"] == -32004
