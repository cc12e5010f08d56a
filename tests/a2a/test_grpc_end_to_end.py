"""From the SDK's client to the SDK's agent, gRPC on both sides of the gateway: streams, follow-ups, ownership."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import anyio
import grpc.aio
import pytest
from a2a.client import ClientConfig, ClientFactory
from a2a.client.client import ClientCallContext
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, a2a_pb2, a2a_pb2_grpc
from a2a.utils.errors import TaskNotFoundError

from adapters.doors.a2a_grpc import Headers, Wiring, serve_grpc
from adapters.upstreams.a2a.agent import A2aAgent
from adapters.upstreams.a2a.caller import Terms
from adapters.upstreams.a2a.grpc_upstream import grpc_caller
from adapters.upstreams.a2a.parts import Parts
from conformance.a2a.agent import Place, card_of, grpc_door, handler_of
from gateway.a2a.directory import AgentEntry, Agents, Interface
from gateway.a2a.errors import A2aError
from gateway.a2a.tasks import TaskIndex
from gateway.errors import InterlockError
from gateway.identity.chain import Chains
from gateway.identity.seal import Sealer
from gateway.listeners.a2a.calls import AgentCalls, Peer
from gateway.listeners.a2a.refusals import Refusal, Refused, refusal_of, refusal_of_upstream
from gateway.listeners.guards import credentials_of
from gateway.pipeline import Pipeline
from tests.a2a.agents import FixedSource, entry_of
from tests.fakes import ANA, BO, FakeDecider, FakeIdentifier, FakeRecorder, FakeTaskStore

NAME = "planner"
NOW_MS = 1_800_000_000_000


@dataclass
class World:
    """One gateway between two ends that speak gRPC."""

    stub: Any
    port: int
    trail: FakeRecorder
    decider: FakeDecider


def peer_of(address: str, headers: Headers) -> Peer:
    return Peer(credentials_of({"client": (address, 0)}, headers))


def told(error: Exception) -> Refusal | None:
    return refusal_of(error) if isinstance(error, InterlockError | A2aError | Refused) else None


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    trail, decider, numbers = FakeRecorder(), FakeDecider(), count(1)
    identifier = FakeIdentifier({"ana": ANA, "bo": BO})
    tasks = TaskIndex(FakeTaskStore(), lambda: NOW_MS, Sealer([b"k" * 32], "interlock"))
    async with handler_of(card_of(Place(1, 2))) as handler, grpc_door(handler) as behind:
        entry = entry_of(Interface(f"127.0.0.1:{behind}", "GRPC", "1.0"))
        async with agent_of(entry, tasks) as upstream:
            pipeline = Pipeline(
                identifier=identifier,
                authz=decider,
                upstream_for=lambda call: upstream,
                trail=trail,
                new_id=lambda: f"inner-{next(numbers)}",
            )
            agents = Agents()
            agents.configure([NAME])
            agents.put(entry)
            calls = AgentCalls(
                name=NAME,
                agents=agents,
                tasks=tasks,
                handler=pipeline,
                identifier=identifier,
                extended=lambda result: result,
                new_id=lambda: f"call-{next(numbers)}",
            )
            wiring: Wiring[Peer] = Wiring(lambda: {NAME: calls}, peer_of, told, refusal_of_upstream)
            async with serve_grpc(wiring, host="127.0.0.1", port=0) as port, connected(port) as channel:
                stub = a2a_pb2_grpc.A2AServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
                with anyio.fail_after(15):
                    yield World(stub, port, trail, decider)


def connected(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


@asynccontextmanager
async def agent_of(entry: AgentEntry, tasks: TaskIndex) -> AsyncIterator[A2aAgent]:
    async def offer(found: AgentEntry) -> None:
        return

    parts = Parts(
        tasks, Chains(b"c" * 32, "https://gateway.example", lambda name: True, lambda: 1.8e9), grpc=grpc_caller
    )
    agent = A2aAgent(NAME, source=FixedSource(entry), offer=offer, terms=Terms(), parts=parts, random=lambda: 0.0)
    async with anyio.create_task_group() as group:
        group.start_soon(agent.run)
        with anyio.fail_after(10):
            await agent.settled.wait()
        yield agent
        group.cancel_scope.cancel()


def by(who: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {who}"), ("a2a-version", "1.0"))


def a_message(message_id: str, **members: Any) -> a2a_pb2.SendMessageRequest:
    part = a2a_pb2.Part(text="hi")
    message = a2a_pb2.Message(message_id=message_id, role=a2a_pb2.ROLE_USER, parts=[part], **members)
    return a2a_pb2.SendMessageRequest(message=message, tenant=NAME)


async def test_sdk_client_sends_streams_follows_up_and_cancels() -> None:
    async with world() as made:
        card = AgentCard(
            name="Planner",
            capabilities=AgentCapabilities(streaming=True),
            supported_interfaces=[
                AgentInterface(
                    url=f"127.0.0.1:{made.port}", protocol_binding="GRPC", protocol_version="1.0", tenant=NAME
                )
            ],
        )
        config = ClientConfig(grpc_channel_factory=grpc.aio.insecure_channel, supported_protocol_bindings=["GRPC"])
        context = ClientCallContext(service_parameters={"authorization": "Bearer ana"})
        async with ClientFactory(config).create(card) as client:
            streamed = [event async for event in client.send_message(a_message("tck-stream-001"), context=context)]
            asked = [event async for event in client.send_message(a_message("tck-input-required"), context=context)]
            task_id = asked[0].task.id
            follow_up = a_message("tck-complete-task", task_id=task_id)
            answered = [event async for event in client.send_message(follow_up, context=context)]
            read = await client.get_task(a2a_pb2.GetTaskRequest(id=task_id), context=context)
            with pytest.raises(TaskNotFoundError):
                await client.get_task(a2a_pb2.GetTaskRequest(id="nobody-has-it"), context=context)

    assert [event.WhichOneof("payload") for event in streamed] == [
        "task",
        "status_update",
        "artifact_update",
        "status_update",
    ]
    assert answered[-1].status_update.status.state == a2a_pb2.TASK_STATE_COMPLETED
    assert read.status.state == a2a_pb2.TASK_STATE_COMPLETED


FOREIGN: list[tuple[str, Callable[[Any, str, str], Awaitable[object]]]] = [
    ("get", lambda s, t, c: s.GetTask(a2a_pb2.GetTaskRequest(id=t), metadata=by("bo"))),
    ("cancel", lambda s, t, c: s.CancelTask(a2a_pb2.CancelTaskRequest(id=t), metadata=by("bo"))),
    ("subscribe", lambda s, t, c: s.SubscribeToTask(a2a_pb2.SubscribeToTaskRequest(id=t), metadata=by("bo")).read()),
    ("follow up", lambda s, t, c: s.SendMessage(a_message("m", task_id=t), metadata=by("bo"))),
    ("join", lambda s, t, c: s.SendMessage(a_message("m", context_id=c), metadata=by("bo"))),
    ("refer", lambda s, t, c: s.SendMessage(a_message("m", reference_task_ids=[t]), metadata=by("bo"))),
    (
        "push",
        lambda s, t, c: s.CreateTaskPushNotificationConfig(
            a2a_pb2.TaskPushNotificationConfig(task_id=t, url="https://example.com/"), metadata=by("bo")
        ),
    ),
    (
        "pushes",
        lambda s, t, c: s.ListTaskPushNotificationConfigs(
            a2a_pb2.ListTaskPushNotificationConfigsRequest(task_id=t), metadata=by("bo")
        ),
    ),
]


@pytest.mark.parametrize("attempt", [attempt for _, attempt in FOREIGN], ids=[name for name, _ in FOREIGN])
async def test_task_of_somebody_else_looks_like_one_that_is_not_there(
    attempt: Callable[[Any, str, str], Awaitable[object]],
) -> None:
    async with world() as made:
        sent = await made.stub.SendMessage(a_message("tck-input-required"), metadata=by("ana"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await attempt(made.stub, sent.task.id, sent.task.context_id)
        listed = await made.stub.ListTasks(a2a_pb2.ListTasksRequest(), metadata=by("bo"))
        own = await made.stub.GetTask(a2a_pb2.GetTaskRequest(id=sent.task.id), metadata=by("ana"))

    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(listed.tasks) == 0
    assert own.status.state == a2a_pb2.TASK_STATE_INPUT_REQUIRED


async def test_nobody_is_told_to_say_who_they_are_and_it_is_recorded() -> None:
    async with world() as made:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await made.stub.SendMessage(a_message("tck-complete-task"))

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert [record.outcome for record in made.trail.records] == ["denied"]


async def test_calls_are_recorded_as_those_of_the_other_bindings() -> None:
    async with world() as made:
        await made.stub.SendMessage(a_message("tck-complete-task"), metadata=by("ana"))

    (record,) = made.trail.records
    assert (record.call.protocol, record.call.protocol_version) == ("a2a", "1.0")
    assert (record.call.method, record.call.action) == ("SendMessage", "a2a.message.send")
    assert (record.outcome, "tenant" in record.call.params) == ("ok", False)
