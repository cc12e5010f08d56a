"""A notification's whole way: the SDK's own sender, our webhook, the outbox, the caller's receiver on a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network

import anyio
import httpx
from a2a.server.context import ServerCallContext
from a2a.server.tasks import BasePushNotificationSender, InMemoryPushNotificationConfigStore
from a2a.types.a2a_pb2 import TaskPushNotificationConfig, TaskState, TaskStatus, TaskStatusUpdateEvent
from google.protobuf.json_format import ParseDict
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from adapters.upstreams.a2a.push_addresses import Receivers
from adapters.upstreams.a2a.push_delivery import PushSender
from gateway import codec
from gateway.a2a.push import PushRelay
from gateway.a2a.push_outbox import Delivered, Limits, Outbox
from tests.a2a.push_world import AGENT, World, authorized, inline, sending
from tests.fakes import ANA, BO
from tests.wire.upstreams import Conversation, Served, answering, upstream

TAKEN = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n"


@dataclass
class Gateway:
    """The gateway's webhook, with its outbox running."""

    world: World
    relay: PushRelay
    webhook: ASGIApp
    fates: list[Delivered] = field(default_factory=list)
    settled: anyio.Event = field(default_factory=anyio.Event)
    awaited: int = 1

    def note(self, delivered: Delivered) -> None:
        self.fates.append(delivered)
        if len(self.fates) >= self.awaited:
            self.settled.set()


@asynccontextmanager
async def gateway() -> AsyncIterator[Gateway]:
    receivers = Receivers(ranges=[ip_network("127.0.0.0/8")], plain_http=True)
    world = World()
    limits = Limits(first_wait_s=0.01, drain_s=1)

    async def webhook(scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        body = await Request(scope, receive).body()
        status = await world.inbox.received(AGENT, scope["path"].rpartition("/")[2], headers, body)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with anyio.create_task_group() as group:
        relay = PushRelay(
            world.records,
            webhook_url=lambda agent, relay_id: f"http://gateway.test/agents/{agent}/push/{relay_id}",
            check=receivers.check,
            new_secret=world.new_secret,
        )
        running = Gateway(world, relay, webhook)
        outbox = Outbox(
            world.inbox.addressed, PushSender(receivers).deliver, note=running.note, random=lambda: 0.5, limits=limits
        )
        group.start_soon(outbox.run)
        await anyio.wait_all_tasks_blocked()
        world.deliver = outbox.put
        yield running
        outbox.close()


async def notified(running: Gateway, told: Mapping[str, object], task_id: str, states: int = 1) -> None:
    """The SDK's agent side: it keeps what it was told, and notifies of each state."""
    store = InMemoryPushNotificationConfigStore()
    config = ParseDict(dict(codec.loads(codec.dumps(told))), TaskPushNotificationConfig())  # type: ignore[arg-type]  # JSON
    await store.set_info(task_id, config, ServerCallContext())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(running.webhook)) as client:
        sender = BasePushNotificationSender(client, store)
        for _ in range(states):
            status = TaskStatus(state=TaskState.TASK_STATE_WORKING)
            event = TaskStatusUpdateEvent(task_id=task_id, context_id=f"ctx-{task_id}", status=status)
            await sender.send_notification(task_id, event)


def hook(served: Served, token: str) -> Mapping[str, object]:
    return {
        "id": "cfg",
        "url": f"{served.url}/hook",
        "token": token,
        "authentication": {"scheme": "Bearer", "credentials": f"{token}-credentials"},
    }


async def test_agent_on_the_sdk_notifies_the_caller_through_the_gateway() -> None:
    async with upstream(answering(TAKEN)) as receiver, gateway() as running:
        call = authorized("SendMessage", sending(hook(receiver, "ana")))
        told = inline(await running.relay.outgoing(call, call.call.params))
        with anyio.fail_after(10):
            await notified(running, told, "t1")
            await running.settled.wait()

    head = receiver.requests[0].head.lower()
    body = codec.loads(receiver.requests[0].body)
    assert [each.fate for each in running.fates] == ["delivered"]
    assert b"x-a2a-notification-token: ana\r\n" in head
    assert b"authorization: bearer ana-credentials\r\n" in head
    assert str(told["token"]).lower().encode() not in head
    assert body == {"statusUpdate": {"taskId": "t1", "contextId": "ctx-t1", "status": {"state": "TASK_STATE_WORKING"}}}


async def test_receiver_that_is_busy_gets_all_of_it_later_in_order() -> None:
    answers = [BUSY, BUSY, TAKEN, BUSY, TAKEN, TAKEN]

    async def receive(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(answers.pop(0))

    async with upstream(receive) as receiver, gateway() as running:
        running.awaited = 3
        call = authorized("SendMessage", sending(hook(receiver, "ana")))
        told = inline(await running.relay.outgoing(call, call.call.params))
        with anyio.fail_after(10):
            await notified(running, told, "t1", states=3)
            await running.settled.wait()

    assert [(each.fate, each.tries) for each in running.fates] == [("delivered", 3), ("delivered", 2), ("delivered", 1)]


async def test_two_principals_get_their_own_notifications_and_no_others() -> None:
    async with upstream(answering(TAKEN)) as of_ana, upstream(answering(TAKEN)) as of_bo, gateway() as running:
        running.awaited = 2
        told = {}
        for who, served, name in ((ANA, of_ana, "ana"), (BO, of_bo, "bo")):
            call = authorized("SendMessage", sending(hook(served, name)), who, f"call-{name}")
            told[name] = inline(await running.relay.outgoing(call, call.call.params))
            event = {"task": {"id": f"task-of-{name}", "contextId": f"ctx-task-of-{name}", "status": {}}}
            await running.relay.incoming(call, event)  # type: ignore[arg-type]  # JSON
            await running.world.task_of(who, f"task-of-{name}", f"ctx-task-of-{name}")
        with anyio.fail_after(10):
            await notified(running, told["ana"], "task-of-bo")
            await notified(running, {**told["ana"], "token": told["bo"]["token"], "authentication": {}}, "task-of-ana")
            await notified(running, told["ana"], "task-of-ana")
            await notified(running, told["bo"], "task-of-bo")
            await running.settled.wait()

    assert [b"task-of-ana" in each.body for each in of_ana.requests] == [True]
    assert [b"task-of-bo" in each.body for each in of_bo.requests] == [True]
