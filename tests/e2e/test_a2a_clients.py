"""Real clients of A2A and MCP use a real agent, and an MCP server as one, through a gateway process."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Literal

import anyio
import httpx2
import pytest
from a2a.client import A2AClientError, Client
from a2a.types import StreamResponse, Task, a2a_pb2
from a2a.utils.errors import ContentTypeNotSupportedError, TaskNotFoundError, UnsupportedOperationError
from anyio import to_thread
from anyio.streams.text import TextReceiveStream
from google.protobuf.json_format import ParseDict
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ElicitResult, TextContent

from tests.e2e.agents import AGENT, TIME, World, asking, notified, sdk_client, world
from tests.peers.npm import npm_peers
from tests.wire.upstreams import Served, answer_all, upstream

pytestmark = pytest.mark.slow

Mode = Literal["legacy", "2026-07-28"]
MODES = pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
BINDINGS = pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON", "GRPC"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("agents")) as started:
        yield started


async def events(client: Client, request: a2a_pb2.SendMessageRequest) -> list[StreamResponse]:
    return [event async for event in client.send_message(request)]


async def task(client: Client, behaviour: str, **more: str) -> Task:
    """The task as the last event that holds one tells it."""
    last = (await events(client, asking(behaviour, **more)))[-1]
    return last.task


def shapes(told: list[StreamResponse]) -> list[str]:
    """What kind each event is, and the state that it tells."""
    found = []
    for event in told:
        kind = str(event.WhichOneof("payload"))
        status = {"task": event.task.status, "status_update": event.status_update.status}.get(kind)
        state = a2a_pb2.TaskState.Name(status.state).removeprefix("TASK_STATE_") if status else ""
        found.append(f"{kind} {state}".strip())
    return found


@BINDINGS
async def test_sdk_client_sends_and_streams(made: World, binding: str) -> None:
    async with sdk_client(made, binding) as client, sdk_client(made, binding, streaming=False) as plain:
        streamed = await events(client, asking("tck-stream-artifact-chunked"))
        sent = await task(plain, "tck-artifact-data")
        direct = await events(plain, asking("tck-message-response"))

    assert shapes(streamed) == [
        "task SUBMITTED",
        "status_update WORKING",
        "artifact_update",
        "artifact_update",
        "status_update COMPLETED",
    ]
    assert [event.artifact_update.artifact.parts[0].text for event in streamed[2:4]] == ["chunk-1 ", "chunk-2"]
    assert sent.status.state == a2a_pb2.TASK_STATE_COMPLETED
    assert sent.artifacts[0].parts[0].data.struct_value["count"] == 42
    assert direct[0].message.parts[0].text == "Direct message response"


async def test_sdk_clients_drop_their_streams_and_resume_them_to_their_end(made: World) -> None:
    seen: dict[str, list[list[str]]] = {}

    async def use(binding: str) -> None:
        async with sdk_client(made, binding) as client:
            before = await dropped(client, asking("test-resubscribe-message-id"), 2)
            wanted = a2a_pb2.SubscribeToTaskRequest(id=before[0].task.id)
            after = [event async for event in client.subscribe(wanted)]
            with pytest.raises(UnsupportedOperationError):
                [event async for event in client.subscribe(wanted)]
            seen[binding] = [shapes(before), shapes(after)]

    async with anyio.create_task_group() as together:
        for binding in ("JSONRPC", "HTTP+JSON", "GRPC"):
            together.start_soon(use, binding)

    whole = [["task SUBMITTED", "status_update WORKING"], ["task WORKING", "status_update COMPLETED"]]
    assert seen == {"JSONRPC": whole, "HTTP+JSON": whole, "GRPC": whole}


async def dropped(client: Client, request: a2a_pb2.SendMessageRequest, after: int) -> list[StreamResponse]:
    """The first events of a stream that is then left alone."""
    found = []
    async with aclosing(client.send_message(request)) as stream:  # type: ignore[type-var]
        async for event in stream:
            found.append(event)
            if len(found) == after:
                break
    return found


@BINDINGS
async def test_a_stream_tells_that_its_task_was_canceled(made: World, binding: str) -> None:
    told = []

    async with sdk_client(made, binding) as client:
        async for event in client.send_message(asking("test-resubscribe-message-id")):
            told.append(event)
            if len(told) == 2:
                await client.cancel_task(a2a_pb2.CancelTaskRequest(id=told[0].task.id))

    assert shapes(told) == ["task SUBMITTED", "status_update WORKING", "status_update CANCELED"]


@BINDINGS
async def test_sdk_client_answers_cancels_and_lists_its_own_tasks(made: World, binding: str) -> None:
    async with sdk_client(made, binding, streaming=False) as client, sdk_client(made, binding, made.bo) as other:
        asked = await task(client, "tck-input-required")
        answered = await task(client, "tck-complete-task", task_id=asked.id)
        waiting = await task(client, "tck-input-required")
        canceled = await client.cancel_task(a2a_pb2.CancelTaskRequest(id=waiting.id))
        listed = await client.list_tasks(a2a_pb2.ListTasksRequest(page_size=2))
        others = await other.list_tasks(a2a_pb2.ListTasksRequest())
        with pytest.raises(TaskNotFoundError):
            await other.get_task(a2a_pb2.GetTaskRequest(id=asked.id))
        read = await client.get_task(a2a_pb2.GetTaskRequest(id=asked.id))

    assert asked.status.state == a2a_pb2.TASK_STATE_INPUT_REQUIRED
    assert (answered.id, answered.status.state) == (asked.id, a2a_pb2.TASK_STATE_COMPLETED)
    assert canceled.status.state == a2a_pb2.TASK_STATE_CANCELED
    assert [each.id for each in listed.tasks] == [waiting.id, asked.id]
    assert listed.next_page_token
    assert not others.tasks
    assert read.status.state == a2a_pb2.TASK_STATE_COMPLETED


@BINDINGS
async def test_who_may_only_look_sends_nothing(made: World, binding: str) -> None:
    async with sdk_client(made, binding, made.bo, streaming=False) as client:
        with pytest.raises(A2AClientError, match=r"403|PERMISSION_DENIED"):
            await events(client, asking("tck-complete-task"))


@BINDINGS
async def test_sdk_client_is_notified_at_its_webhook_with_its_own_token(made: World, binding: str) -> None:
    async with upstream(answer_all) as hook, sdk_client(made, binding, streaming=False) as client:
        asked = await task(client, "tck-input-required")
        url = f"{hook.url}/hook"
        wanted = a2a_pb2.TaskPushNotificationConfig(task_id=asked.id, url=url, token="my-own-token")
        created = await client.create_task_push_notification_config(wanted)
        await task(client, "tck-complete-task", task_id=asked.id)
        told = await notified(hook, "TASK_STATE_COMPLETED")
        which = {"task_id": asked.id, "id": created.id}
        read = await client.get_task_push_notification_config(a2a_pb2.GetTaskPushNotificationConfigRequest(**which))
        listed = a2a_pb2.ListTaskPushNotificationConfigsRequest(task_id=asked.id)
        before = await client.list_task_push_notification_configs(listed)
        await client.delete_task_push_notification_config(a2a_pb2.DeleteTaskPushNotificationConfigRequest(**which))
        after = await client.list_task_push_notification_configs(listed)

    assert (created.url, created.token, read.url) == (url, "my-own-token", url)
    assert told.head.startswith(b"POST /hook ")
    assert b"x-a2a-notification-token: my-own-token" in told.head.lower()
    assert asked.id.encode() in told.body
    assert [each.id for each in before.configs] == [created.id]
    assert not after.configs


@BINDINGS
async def test_a_webhook_named_in_a_message_is_notified(made: World, binding: str) -> None:
    async with upstream(answer_all) as hook, sdk_client(made, binding) as client:
        request = asking("tck-stream-artifact-text")
        request.configuration.task_push_notification_config.url = hook.url
        request.configuration.task_push_notification_config.token = "my-own-token"
        streamed = await events(client, request)
        told = await notified(hook, "TASK_STATE_COMPLETED")

    assert shapes(streamed)[-1] == "status_update COMPLETED"
    assert b"x-a2a-notification-token: my-own-token" in told.head.lower()
    assert streamed[0].task.id.encode() in told.body


async def told_by_javascript(made: World, binding: str, hook: Served, version: str) -> tuple[Any, Any]:
    """What the client of the other SDK saw: up to the notification, which is awaited here, and in the end."""
    npm = await to_thread.run_sync(npm_peers)
    words = (made.base(), made.ana, binding, f"{hook.url}/hook", version)
    env = {**os.environ, **npm.environment}
    async with await anyio.open_process(npm.script("a2a_client.cjs", *words), stderr=None, env=env) as process:
        assert process.stdin
        assert process.stdout
        lines = TextReceiveStream(process.stdout)
        first = json.loads(await lines.receive())
        await notified(hook, "COMPLETED" if version == "1.0" else "completed")
        await process.stdin.send(b"go on\n")
        last = json.loads(await lines.receive())
        assert await process.wait() == 0
    return first, last


@pytest.mark.parametrize("version", ["1.0", "0.3"])
@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_javascript_sdk_does_all_that_its_client_can(made: World, binding: str, version: str) -> None:
    with anyio.fail_after(60):
        async with upstream(answer_all) as hook:
            first, last = await told_by_javascript(made, binding, hook, version)

    assert first["made"] == first["read"] == [f"{hook.url}/hook", "own-token"]
    assert any(b"x-a2a-notification-token: own-token" in each.head.lower() for each in hook.requests)
    assert last == {
        "streamed": ["task SUBMITTED", "statusUpdate WORKING", *["artifactUpdate"] * 2, "statusUpdate COMPLETED"],
        "direct": "Direct message response",
        "before": ["task SUBMITTED", "statusUpdate WORKING"],
        "after": ["task WORKING", "statusUpdate COMPLETED"],
        "asked": "INPUT_REQUIRED",
        "answered": [True, "COMPLETED"],
        "canceled": "CANCELED",
        "listed": version == "1.0",
        "missing": "TaskNotFoundError",
    }


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_client_of_0_3_sends_streams_gets_and_cancels(made: World, binding: str) -> None:
    old = partial(sdk_client, made, binding, version="0.3")
    async with old() as client, old(streaming=False) as plain, old(key=made.bo) as other:
        streamed = await events(client, asking("tck-stream-artifact-text"))
        asked = await task(plain, "tck-input-required")
        answered = await task(plain, "tck-complete-task", task_id=asked.id)
        read = await plain.get_task(a2a_pb2.GetTaskRequest(id=asked.id))
        waiting = await task(plain, "tck-input-required")
        canceled = await plain.cancel_task(a2a_pb2.CancelTaskRequest(id=waiting.id))
        with pytest.raises((A2AClientError, TaskNotFoundError), match="Task not found"):
            await other.get_task(a2a_pb2.GetTaskRequest(id=asked.id))

    assert shapes(streamed) == ["task SUBMITTED", "status_update WORKING", "artifact_update", "status_update COMPLETED"]
    assert asked.status.state == a2a_pb2.TASK_STATE_INPUT_REQUIRED
    assert (answered.id, answered.status.state) == (asked.id, a2a_pb2.TASK_STATE_COMPLETED)
    assert read.status.state == a2a_pb2.TASK_STATE_COMPLETED
    assert canceled.status.state == a2a_pb2.TASK_STATE_CANCELED


@asynccontextmanager
async def mcp_client(made: World, mode: Mode, asked: list[str]) -> AsyncIterator[McpClient]:
    """A client of MCP at the agent; its user answers each question so that the agent is content."""

    async def elicit(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(
            action="accept", content=dict.fromkeys(params.requested_schema["properties"], "tck-artifact-text")
        )

    with anyio.fail_after(30):
        headers = {"authorization": f"Bearer {made.ana}"}
        async with httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
            transport = streamable_http_client(made.place.endpoint(AGENT), http_client=http)
            async with McpClient(transport, mode=mode, cache=None, elicitation_callback=elicit) as client:
                yield client


@MODES
async def test_mcp_client_calls_the_agent_as_a_tool_and_sees_its_progress(made: World, mode: Mode) -> None:
    steps: list[float] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with mcp_client(made, mode, []) as client:
        tools = (await client.list_tools()).tools
        told = await client.call_tool("tck", {"message": "tck-stream-artifact-chunked"}, progress_callback=progress)

    assert [tool.name for tool in tools] == ["tck"]
    assert not told.is_error
    assert texts(told) == ["chunk-1 ", "chunk-2"]
    assert len(steps) >= 4


@pytest.mark.parametrize("watched", [False, True], ids=["sent", "streamed"])
@MODES
async def test_mcp_client_is_asked_what_the_agent_needs(made: World, mode: Mode, watched: bool) -> None:
    asked: list[str] = []
    steps: list[float] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with mcp_client(made, mode, asked) as client:
        arguments = {"message": "tck-input-required"}
        told = await client.call_tool("tck", arguments, progress_callback=progress if watched else None)

    assert asked == ["The agent needs more to go on."]
    assert not told.is_error
    assert texts(told) == ["Generated text content"]
    assert bool(steps) is watched


@BINDINGS
async def test_sdk_client_calls_a_tool_of_an_mcp_server_as_an_agent(made: World, binding: str) -> None:
    call = {"tool": "get_current_time", "arguments": {"timezone": "Etc/UTC"}}
    part = ParseDict({"data": call}, a2a_pb2.Part())
    message = a2a_pb2.Message(message_id="m-1", role=a2a_pb2.ROLE_USER, parts=[part])
    words = asking("tck-complete-task")

    async with (
        sdk_client(made, binding, agent=TIME) as client,
        sdk_client(made, binding, agent=TIME, streaming=False) as plain,
    ):
        (streamed,) = await events(client, a2a_pb2.SendMessageRequest(message=message))
        (sent,) = await events(plain, a2a_pb2.SendMessageRequest(message=message))
        with pytest.raises(ContentTypeNotSupportedError, match="arguments"):
            await events(plain, words)

    for answer in (streamed.message, sent.message):
        assert "Etc/UTC" in answer.parts[0].text
        assert answer.metadata["isError"] is False


def texts(told: CallToolResult) -> list[str]:
    return [block.text for block in told.content if isinstance(block, TextContent)]
