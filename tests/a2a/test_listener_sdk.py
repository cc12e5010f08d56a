"""The client of the official SDK, on both bindings, through the endpoint."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.helpers import new_text_message
from a2a.types import a2a_pb2
from a2a.utils.errors import InvalidParamsError, TaskNotFoundError, UnsupportedOperationError
from google.protobuf.json_format import ParseDict

from gateway.types import Result
from tests.a2a.worlds import World, entry
from tests.fakes import ANA

URL = "https://gateway.example/agents/cook"
TASK = {"id": "t-1", "contextId": "c-1", "status": {"state": "TASK_STATE_WORKING"}}
DONE = {"taskId": "t-1", "contextId": "c-1", "status": {"state": "TASK_STATE_COMPLETED"}}
BINDINGS = pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])


@asynccontextmanager
async def client(world: World, binding: str, *, streaming: bool = True) -> AsyncIterator[Client]:
    """A client that read the card of the agent."""
    headers = {"authorization": "Bearer ana", "host": "127.0.0.1"}
    transport = httpx.ASGITransport(world.app)
    async with httpx.AsyncClient(transport=transport, headers=headers, base_url=URL) as http:
        got = await http.get("/.well-known/agent-card.json")
        shown = json.loads(got.content)
        for legacy in ("url", "preferredTransport", "additionalInterfaces", "protocolVersion"):
            shown.pop(legacy, None)
        config = ClientConfig(
            httpx_client=http, supported_protocol_bindings=[binding], streaming=streaming, use_client_preference=True
        )
        known = ParseDict(shown, a2a_pb2.AgentCard(), ignore_unknown_fields=True)
        yield ClientFactory(config).create(known)


@BINDINGS
async def test_a_stream_reaches_the_client(binding: str) -> None:
    world = World()
    world.stream(json.dumps({"task": TASK}).encode(), json.dumps({"statusUpdate": DONE}).encode())

    async with client(world, binding) as agent:
        request = a2a_pb2.SendMessageRequest(message=new_text_message("hi", role=a2a_pb2.ROLE_USER))
        events = [event async for event in agent.send_message(request)]

    assert [event.WhichOneof("payload") for event in events] == ["task", "status_update"]
    assert world.call.protocol_version == "1.0"


@BINDINGS
async def test_an_error_in_the_middle_of_a_stream_reaches_the_client(binding: str) -> None:
    world = World()
    end = Result(b'{"code":-32004,"message":"no more"}', "rpc_error")
    world.stream(json.dumps({"task": TASK}).encode(), end=end)

    async with client(world, binding) as agent:
        request = a2a_pb2.SendMessageRequest(message=new_text_message("hi", role=a2a_pb2.ROLE_USER))
        with pytest.raises(UnsupportedOperationError):
            [event async for event in agent.send_message(request)]


@BINDINGS
async def test_tasks_are_read_and_errors_understood(binding: str) -> None:
    world = World()
    await world.own("t-1", ANA)
    world.answer(json.dumps(TASK).encode())

    async with client(world, binding) as agent:
        task = await agent.get_task(a2a_pb2.GetTaskRequest(id="t-1"))
        with pytest.raises(TaskNotFoundError):
            await agent.cancel_task(a2a_pb2.CancelTaskRequest(id="t-2"))
        with pytest.raises(InvalidParamsError):
            await agent.list_tasks(a2a_pb2.ListTasksRequest(page_size=1_000))

    assert task.status.state == a2a_pb2.TASK_STATE_WORKING


@BINDINGS
async def test_push_configurations_are_managed(binding: str) -> None:
    world = World()
    await world.own("t-1", ANA)
    config = {"taskId": "t-1", "id": "p-1", "url": "https://client.example/hook"}

    async with client(world, binding) as agent:
        world.answer(json.dumps(config).encode())
        made = await agent.create_task_push_notification_config(ParseDict(config, a2a_pb2.TaskPushNotificationConfig()))
        world.answer(json.dumps({"configs": [config]}).encode())
        listed = await agent.list_task_push_notification_configs(
            a2a_pb2.ListTaskPushNotificationConfigsRequest(task_id="t-1")
        )
        world.answer(b"{}")
        await agent.delete_task_push_notification_config(
            a2a_pb2.DeleteTaskPushNotificationConfigRequest(task_id="t-1", id="p-1")
        )

    assert made.id == "p-1"
    assert [each.url for each in listed.configs] == ["https://client.example/hook"]
    assert [each.call.method for each in world.upstream.executed][-1] == "DeleteTaskPushNotificationConfig"


@BINDINGS
async def test_a_client_that_cannot_stream_gets_one_answer(binding: str) -> None:
    world = World()
    world.agents.put(entry(streaming=False))
    world.answer(json.dumps({"task": {**TASK, "status": DONE["status"]}}).encode())

    async with client(world, binding, streaming=False) as agent:
        request = a2a_pb2.SendMessageRequest(message=new_text_message("hi", role=a2a_pb2.ROLE_USER))
        events = [event async for event in agent.send_message(request)]

    assert events[-1].task.id == "t-1"
