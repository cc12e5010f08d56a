"""Clients that ask after a held call get what came of it: real gateway, restarted and killed on the way."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import httpx2
import pytest
from a2a.client import Client
from a2a.types import Task, a2a_pb2
from a2a.utils.errors import TaskNotFoundError

from conformance.gateway import ROOT, Plan
from conformance.processes import free_port, running
from tests.conformance.talking import Json, request
from tests.e2e.agents import AGENT, asking, sdk_client
from tests.e2e.agents import World as Agents
from tests.e2e.caller import Caller, Told
from tests.e2e.eventually import eventually
from tests.e2e.place import as_process, new_key, prepare, rules
from tests.e2e.test_approvals import Heard, World, api
from tests.peers.npm import npm_peers
from tests.servers.launch import Started, http_server, matching, noted

EXTENSION: Final = "io.modelcontextprotocol/tasks"
META: Final[Json] = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {EXTENSION: {}}}}
RULES: Final = """
allow if input.subject.id in {"user:ana", "user:cy"}
hold contains {"approvers": "group:finance", "title": "do something", "expires_s": 600} if {
	input.action.name == "mcp.tools.call"
	input.resource.properties.name in {"echo", "slow"}
}
hold contains {"approvers": "group:finance", "title": "say something", "expires_s": 600} if {
	input.action.name in {"a2a.message.send", "a2a.message.stream"}
}
"""


async def placed(directory: Path, upstream: Started) -> World:
    """A gateway that is not running yet, and the keys of who makes calls and who decides on them."""
    place = prepare(directory, Plan({"one": {"url": upstream.url}}, {"policy": rules(directory, all=RULES)}))
    return World(place, Heard(), upstream, await new_key(place, "ana"), await new_key(place, "bo", "finance"), "")


async def begun(caller: Caller, tool: str, arguments: Json) -> str:
    """The id of the task that a held call is answered with."""
    told = (await caller.call(tool, arguments, meta=META)).message
    assert told["result"]["resultType"] == "task", told
    return str(told["result"]["taskId"])


async def asked(caller: Caller, method: str, task_id: str, **more: object) -> Told:
    """One request about a task."""
    return await caller.send(request(method, {"taskId": task_id, **more}, META), mcp_name=task_id)


async def task_of(caller: Caller, task_id: str) -> Json:
    """How a task stands."""
    told = (await asked(caller, "tasks/get", task_id)).message
    assert "result" in told, told
    task: Json = told["result"]
    return task


def approve(world: World, ticket: str) -> None:
    """Have Bo agree."""
    answer = api(world, world.bo, "POST", f"/approvals/{ticket}/approve", {})
    assert answer.status_code == 200, answer.text


async def test_task_is_followed_over_restarts_and_carried_out_once(tmp_path: Path) -> None:
    with http_server("modern_asker", tmp_path) as upstream:
        world = await placed(tmp_path, upstream)
        with as_process(world.place):
            async with world.place.caller(world.ana) as ana:
                task = await begun(ana, "one__echo", {"text": "held"})
        with as_process(world.place):
            async with world.place.caller(world.ana) as ana:
                waiting = await task_of(ana, task)
                approve(world, task)
        with as_process(world.place):
            async with world.place.caller(world.ana) as ana:
                done = await task_of(ana, task)
        with as_process(world.place):
            async with world.place.caller(world.ana) as ana:
                again = await task_of(ana, task)
                other = await ana.call("one__echo", {"text": "held"})
            async with world.place.caller(await new_key(world.place, "cy")) as cy:
                foreign = await asked(cy, "tasks/get", task)

    assert waiting["status"] == "working"
    assert "group:finance" in waiting["statusMessage"]
    assert done["status"] == "completed"
    assert "held" in str(done["result"]["content"])
    assert again == done
    assert other.failed
    assert foreign.failed


async def test_call_that_was_cut_off_by_kill_9_is_unknown_and_never_made_again(tmp_path: Path) -> None:
    with http_server("modern_asker", tmp_path) as upstream:
        world = await placed(tmp_path, upstream)
        with as_process(world.place) as process:
            async with world.place.caller(world.ana) as ana:
                task = await begun(ana, "one__slow", {"seconds": 600})
                approve(world, task)
                running_now = await task_of(ana, task)
                await noted(upstream.record, "waiting", name="slow")
                process.kill()
                process.wait(10)
        with as_process(world.place):
            async with world.place.caller(world.ana) as ana:

                async def over() -> Json:
                    found = await task_of(ana, task)
                    return found if found["status"] != "working" else {}

                told = await eventually(over, within_s=30)
        made = matching(upstream.record, "waiting", "slow")

    assert running_now["status"] == "working"
    assert told["result"]["isError"] is True
    assert "not known whether it took effect" in str(told["result"]["content"])
    assert len(made) == 1, made


@asynccontextmanager
async def agents(directory: Path) -> AsyncIterator[tuple[Agents, World]]:
    """A real agent; the gateway before it is not running yet."""
    port, grpc_port = free_port(), free_port()
    command = [sys.executable, "-m", "conformance.a2a.agent", "--port", str(port), "--grpc-port", str(grpc_port)]
    tables = {
        "listen": {"grpc_port": free_port()},
        "policy": rules(directory, all=RULES),
        f"agents.{AGENT}": {"card_url": f"http://127.0.0.1:{port}/.well-known/agent-card.json"},
    }
    place = prepare(directory, Plan({}, tables))
    ana, bo, cy = await new_key(place, "ana"), await new_key(place, "bo", "finance"), await new_key(place, "cy")
    with running(command, port=port, log=directory / "agent.log", cwd=ROOT) as process:
        yield Agents(place, ana, cy), World(place, Heard(), Started(port, directory / "none", process), ana, bo, "")


async def sent(client: Client, behaviour: str, text: str) -> Task:
    """The task that the one answer to a message is."""
    (event,) = [event async for event in client.send_message(asking(behaviour, text))]
    return event.task


@pytest.mark.slow
@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON", "GRPC"])
async def test_sdk_client_polls_a_held_message_until_its_result_over_a_restart(tmp_path: Path, binding: str) -> None:
    async with agents(tmp_path) as (made, world):
        with as_process(made.place):
            await _card(made)
            async with sdk_client(made, binding) as client:
                held = [
                    await sent(client, "tck-message-response", "one"),
                    await sent(client, "tck-artifact-data", "two"),
                ]
            async with sdk_client(made, binding, streaming=False) as client:
                plain = await sent(client, "tck-message-response", "three")
        with as_process(made.place):
            await _card(made)
            async with sdk_client(made, binding) as client, sdk_client(made, binding, made.bo) as stranger:
                for task in (*held, plain):
                    approve(world, task.id)
                done = [await client.get_task(a2a_pb2.GetTaskRequest(id=task.id)) for task in (*held, plain)]
                again = [await client.get_task(a2a_pb2.GetTaskRequest(id=task.id)) for task in (*held, plain)]
                with pytest.raises(TaskNotFoundError):
                    await stranger.get_task(a2a_pb2.GetTaskRequest(id=held[0].id))

    assert {task.status.state for task in (*held, plain)} == {a2a_pb2.TASK_STATE_AUTH_REQUIRED}
    assert [task.id for task in done] == [task.id for task in (*held, plain)]
    assert done[0].status.message.parts[0].text == "Direct message response"
    assert again[1].status.state == a2a_pb2.TASK_STATE_COMPLETED
    assert again[1].artifacts[0].parts[0].data.struct_value["count"] == 42
    assert again[0] == done[0]


async def _card(made: Agents) -> None:
    """The gateway is ready before what it governs is."""
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {made.ana}"}, trust_env=False) as http:

        async def there() -> bool:
            return (await http.get(f"{made.base()}/.well-known/agent-card.json")).status_code == 200

        await eventually(there, within_s=30)


@pytest.mark.slow
@pytest.mark.parametrize("decision", ["approve", "deny"])
async def test_inspector_waits_for_people_as_for_any_task(tmp_path: Path, decision: str) -> None:
    npm = npm_peers()
    with http_server("modern_asker", tmp_path) as upstream:
        world = await placed(tmp_path, upstream)
        with as_process(world.place):
            url, tool = world.place.endpoint(), ("--tool-name", "one__echo", "--tool-arg", "text=inspected")
            command = npm.command("inspector", "--cli", url, "--method", "tools/call", *tool, "--format", "json")
            auth = ["--header", f"Authorization: Bearer {world.ana}", "--protocol-era", "modern", "--transport", "http"]
            with anyio.fail_after(90):
                async with anyio.create_task_group() as group:
                    group.start_soon(_decided, world, decision)
                    done = await anyio.run_process([*command, *auth], check=False)

    told = done.stdout.decode() + done.stderr.decode()
    assert ("inspected" if decision == "approve" else "user:bo said no") in told, told


async def _decided(world: World, decision: str) -> None:
    """Have Bo decide on the one call that is held."""

    async def waiting() -> list[Json]:
        listed: list[Json] = api(world, world.bo, "GET", "/approvals").json()["approvals"]
        return listed

    (ticket,) = await eventually(waiting, within_s=60)
    answer = api(world, world.bo, "POST", f"/approvals/{ticket['id']}/{decision}", {"reason": "so"})
    assert answer.status_code == 200, answer.text
