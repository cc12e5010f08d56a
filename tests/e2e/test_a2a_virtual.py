"""One agent under two names: to each its own part of the card, its own policy and its own tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conformance.gateway import Plan
from conformance.processes import free_port
from tests.e2e.a2a_doors import BINDINGS, Doors, doors, message
from tests.e2e.place import Place, in_process, new_key, prepare, rules
from tests.e2e.sdk_agents import SdkAgent, Working, sdk_agent

RULES = """allow if {
	input.action.properties.protocol == "a2a"
	input.resource.properties.upstream in {"kitchen", "laundry"}
	input.subject.id == "user:ana"
}

allow if {
	input.resource.properties.upstream == "kitchen"
	input.subject.id == "user:bo"
}
"""


@dataclass(frozen=True, slots=True)
class World:
    """The agent, and the doors of either name for either caller."""

    place: Place
    agent: SdkAgent
    doors: dict[tuple[str, str], Doors]

    async def card(self, name: str) -> dict[str, Any]:
        """The public card of that name, for Ana."""
        headers = {"authorization": f"Bearer {self.doors['ana', name].key}"}
        async with httpx2.AsyncClient(headers=headers, trust_env=False) as http:
            response = await http.get(f"{self.place.url}/agents/{name}/.well-known/agent-card.json")
        found: dict[str, Any] = response.json()
        return found


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    async with sdk_agent("house", Working(), "cook", "clean", "iron") as upstream, AsyncExitStack() as stack:
        grpc_port = free_port()
        skills = {"kitchen": ["cook"], "laundry": ["clean", "iron"]}
        agents = {
            f"agents.{name}": {"card_url": upstream.card_url, "skills": some, "labels": [name]}
            for name, some in skills.items()
        }
        listen = {"listen": {"grpc_port": grpc_port}}
        place = prepare(directory, Plan({}, {"policy": rules(directory, all=RULES), **listen, **agents}))
        keys = {who: await new_key(place, who) for who in ("ana", "bo")}
        await stack.enter_async_context(in_process(place))
        made = {
            (who, name): await stack.enter_async_context(doors(place.url, name, key, grpc_port))
            for who, key in keys.items()
            for name in skills
        }
        yield World(place, upstream, made)


@pytest.mark.slow
async def test_one_agent_under_two_names_is_two_agents(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        cards = {name: await made.card(name) for name in ("kitchen", "laundry")}
        kitchen, laundry = made.doors["ana", "kitchen"], made.doors["ana", "laundry"]
        task = (await kitchen.result("SendMessage", message()))["task"]
        heard = len(made.agent.heard)
        answers = [
            (await laundry.ask(binding, operation, params)).body
            for binding in BINDINGS
            for operation, params in (
                ("GetTask", {"id": task["id"]}),
                ("CancelTask", {"id": task["id"]}),
                ("SendMessage", message(taskId=task["id"])),
                ("SendMessage", message(referenceTaskIds=[task["id"]])),
            )
        ]
        listed = await laundry.result("ListTasks", {})
        heard_at_laundry = len(made.agent.heard) - heard
        refused = (await made.doors["bo", "laundry"].ask("JSONRPC", "SendMessage", message())).value
        allowed = await made.doors["bo", "kitchen"].result("SendMessage", message())
        own = await kitchen.result("GetTask", {"id": task["id"]})

    assert [skill["id"] for skill in cards["kitchen"]["skills"]] == ["cook"]
    assert [skill["id"] for skill in cards["laundry"]["skills"]] == ["clean", "iron"]
    for name, card in cards.items():
        assert all(f"/agents/{name}" in one["url"] or one["tenant"] == name for one in card["supportedInterfaces"])
    assert all("not found" in answer.lower() for answer in answers)
    assert listed["tasks"] == []
    assert heard_at_laundry == 0
    assert refused["error"]["code"] == -31403
    assert allowed["task"]["id"] != task["id"]
    assert own["status"]["state"] == "TASK_STATE_WORKING"
