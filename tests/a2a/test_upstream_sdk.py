"""The upstream side against an agent of the official SDK: every operation, all bindings, both versions."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
import uvicorn

from conformance.a2a.agent import REST_PATH, Place, application, card_of, grpc_door, handler_of
from gateway.a2a.directory import Binding, Interface
from tests.a2a.agents import FixedSource, Script, World, entry_of, running, texts
from tests.fakes import FakeRelay

KINDS: list[tuple[Binding, str]] = [("JSONRPC", "1.0"), ("HTTP+JSON", "1.0"), ("JSONRPC", "0.3"), ("GRPC", "1.0")]


@asynccontextmanager
async def sdk_agent(binding: Binding, version: str) -> AsyncIterator[World]:
    """The agent under test of the conformance suite, in this process, behind one interface."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        card = card_of(Place(port, 1, v03=True))
        async with handler_of(card) as handler, grpc_door(handler) as grpc_port, anyio.create_task_group() as group:
            app = application(card, handler, v03=True)
            server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
            group.start_soon(server.serve, [listening])
            base = f"http://127.0.0.1:{port}"
            urls = {"JSONRPC": base + "/", "HTTP+JSON": base + REST_PATH, "GRPC": f"127.0.0.1:{grpc_port}"}
            async with running(FixedSource(entry_of(Interface(urls[binding], binding, version))), Script()) as made:
                yield made
            server.should_exit = True


def message(prefix: str) -> dict[str, object]:
    return {"message": {"messageId": f"{prefix}-1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}}


def state_in(task: object) -> str:
    assert isinstance(task, dict)
    return str(task["status"]["state"])


@pytest.mark.parametrize(("binding", "version"), KINDS)
async def test_task_is_sent_read_listed_and_cancelled(binding: Binding, version: str) -> None:
    async with sdk_agent(binding, version) as made:
        sent = json.loads((await made.call("SendMessage", message("tck-complete-task"))).payload)["task"]
        waiting = json.loads((await made.call("SendMessage", message("tck-input-required"))).payload)["task"]
        read = json.loads((await made.call("GetTask", {"id": sent["id"]})).payload)
        listed = json.loads((await made.call("ListTasks", {})).payload)
        cancelled = json.loads((await made.call("CancelTask", {"id": waiting["id"]})).payload)
        missing = await made.call("GetTask", {"id": "nobody-knows-it"})

    assert state_in(sent) == state_in(read) == "TASK_STATE_COMPLETED"
    assert {one["id"] for one in listed["tasks"]} == {sent["id"], waiting["id"]}
    assert state_in(cancelled) == "TASK_STATE_CANCELED"
    assert (missing.outcome, json.loads(missing.payload)["code"]) == ("rpc_error", -32001)


@pytest.mark.parametrize(("binding", "version"), KINDS)
async def test_stream_ends_with_its_task(binding: Binding, version: str) -> None:
    relay = FakeRelay()
    async with sdk_agent(binding, version) as made:
        result = await made.call("SendStreamingMessage", message("tck-stream-artifact-chunked"), relay)
        task_id = json.loads(relay.events[0])["task"]["id"]
        again = await made.call("SubscribeToTask", {"id": task_id})

    assert result.payload == b"{}"
    assert texts(relay.events)
    assert json.loads(relay.events[-1])["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert json.loads(again.payload)["code"] == -32004


@pytest.mark.parametrize(("binding", "version"), KINDS)
async def test_push_configurations_are_made_read_listed_and_deleted(binding: Binding, version: str) -> None:
    async with sdk_agent(binding, version) as made:
        sent = json.loads((await made.call("SendMessage", message("tck-input-required"))).payload)["task"]
        named = {"taskId": sent["id"], "id": "p1"}
        made_ = await made.call("CreateTaskPushNotificationConfig", {**named, "url": "http://127.0.0.1:9/hook"})
        got = await made.call("GetTaskPushNotificationConfig", named)
        listed = await made.call("ListTaskPushNotificationConfigs", {"taskId": sent["id"]})
        deleted = await made.call("DeleteTaskPushNotificationConfig", named)

    assert json.loads(made_.payload)["id"] == json.loads(got.payload)["id"] == "p1"
    assert [one["id"] for one in json.loads(listed.payload)["configs"]] == ["p1"]
    assert (deleted.outcome, deleted.payload) == ("ok", b"{}")
