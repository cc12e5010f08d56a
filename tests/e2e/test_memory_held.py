"""Writes that policy holds are written once, when people agreed; and the memory is an agent for the SDK of A2A."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from a2a.client import Client
from a2a.types import a2a_pb2
from anyio import to_thread
from google.protobuf import json_format, struct_pb2

from conformance.gateway import Plan
from tests.e2e.agents import World as Agents
from tests.e2e.agents import sdk_client
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, in_process, new_key, prepare, rules

Json = dict[str, Any]
RULES = """
allow if input.subject.id != ""

hold contains {"approvers": "group:finance", "title": "tell everybody", "expires_s": 600} if {
	input.action.properties.method == "memory/remember"
	input.resource.properties.catalog.memory.scope == "org"
}
"""
FACT: Json = {
    "text": "Invoices are paid to account 4711",
    "scope": "org",
    "source": {"type": "tool", "ref": "mail/read"},
}


@dataclass(frozen=True, slots=True)
class World:
    """A running gateway, the key of an agent and that of somebody of finance."""

    place: Place
    bot: str
    bo: str

    async def ask(self, key: str, verb: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        headers = {"authorization": f"Bearer {key}"}
        url = f"{self.place.url}{path}"

        def asked() -> httpx2.Response:
            return httpx2.request(verb, url, headers=headers, json=body, timeout=30, trust_env=False)

        response = await to_thread.run_sync(asked)
        told: Json = response.json()
        return response.status_code, told

    async def there(self) -> list[str]:
        """The texts that the agent may read."""
        status, told = await self.ask(self.bot, "GET", "/memory/v1/records")
        assert status == 200, told
        return [record["text"] for record in told["records"]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "memory.toml").write_text('[embedder]\nkind = "hashing"\n')
    tables = {"policy": rules(tmp_path, all=RULES)}
    place = prepare(tmp_path, Plan({"memory": {"type": "memory", "labels": []}}, tables))
    made = World(place, await new_key(place, "bot", kind="agent"), await new_key(place, "bo", "finance"))
    async with in_process(place):

        async def up() -> bool:
            return (await made.ask(made.bo, "GET", "/memory/v1/records"))[0] == 200

        await eventually(up)
        yield made


async def test_a_held_write_is_written_once_when_people_agreed_and_nobody_reviews_it_again(world: World) -> None:
    status, pending = await world.ask(world.bot, "POST", "/memory/v1/records", FACT)
    again, same = await world.ask(world.bot, "POST", "/memory/v1/records", FACT)
    assert (status, again) == (202, 202), (pending, same)
    ticket = ticket_of(pending)
    assert ticket_of(same) == ticket
    assert await world.there() == []

    assert (await world.ask(world.bot, "POST", f"/approvals/{ticket}/approve", {}))[0] == 403
    assert (await world.ask(world.bo, "POST", f"/approvals/{ticket}/approve", {}))[0] == 200
    other, _ = await world.ask(world.bot, "POST", "/memory/v1/records", {**FACT, "text": "Paid to account 4712"})
    done, wrote = await world.ask(world.bot, "POST", "/memory/v1/records", FACT)
    repeated, held = await world.ask(world.bot, "POST", "/memory/v1/records", FACT)

    assert (other, done, repeated) == (202, 200, 202)
    assert (wrote["status"], wrote["source"]["type"], wrote["trust"]) == ("active", "tool", 0.3)
    assert ticket_of(held) != ticket
    assert await world.there() == [FACT["text"]]
    assert (await world.ask(world.bo, "GET", "/memory/v1/review"))[1]["records"] == []


async def test_a_held_tool_call_of_the_memory_is_written_once_as_well(world: World) -> None:
    async with world.place.caller(world.bot) as bot:
        held = await bot.call("memory__remember", FACT)
        ticket = f"apr-{str(held.text).partition('apr-')[2][:32]}"
        assert await world.there() == []
        assert (await world.ask(world.bo, "POST", f"/approvals/{ticket}/approve", {}))[0] == 200
        done = await bot.call("memory__remember", FACT)

    assert not done.failed
    assert await world.there() == [FACT["text"]]


def ticket_of(answer: Json) -> str:
    return f"apr-{str(answer).partition('apr-')[2][:32]}"


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_a_client_of_the_a2a_sdk_finds_the_memory_by_its_card_and_uses_it(world: World, binding: str) -> None:
    agents = Agents(world.place, world.bot, world.bo)
    async with sdk_client(agents, binding, agent="memory", streaming=False) as client:
        wrote = await used(client, "remember", {"text": "The harbour is in Trieste"})
        found = await used(client, "recall", {"query": "where is the harbour"})
        listed = await used(client, "list", {})
        gone = await used(client, "forget", {"id": wrote["record"]})

    assert wrote["status"] == "active"
    assert [record["text"] for record in found["records"]] == ["The harbour is in Trieste"]
    assert [record["id"] for record in listed["records"]] == [wrote["id"]]
    assert gone["forgotten"] is True
    assert await world.there() == []


async def used(client: Client, tool: str, arguments: Json) -> Json:
    """What a tool of the memory answers to a message."""
    data = struct_pb2.Value()
    json_format.ParseDict({"tool": tool, "arguments": arguments}, data)
    message = a2a_pb2.Message(message_id=f"m-{tool}", role=a2a_pb2.ROLE_USER, parts=[a2a_pb2.Part(data=data)])
    (event,) = [each async for each in client.send_message(a2a_pb2.SendMessageRequest(message=message))]
    parts = [json_format.MessageToDict(part) for part in event.message.parts]
    told: list[Json] = [part["data"] for part in parts if "data" in part]
    assert len(told) == 1, event
    return told[0]
