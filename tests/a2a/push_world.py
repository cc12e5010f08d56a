"""A push relay over a task store, with an agent that keeps what it is told and can notify."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from gateway import codec
from gateway.a2a.push import PushRelay
from gateway.a2a.push_inbox import PushInbox
from gateway.a2a.push_outbox import Letter, Slip
from gateway.a2a.push_records import PushRecords
from gateway.a2a.push_tasks import PushedTasks
from gateway.a2a.tasks import TaskIndex
from gateway.a2a.v03 import event_from_03, event_to_03
from gateway.codec import JsonObject, JsonValue
from gateway.errors import PolicyDenied
from gateway.identity.push_seal import PushSealer
from gateway.identity.seal import Sealer
from gateway.ports import TaskRecord, TaskStore
from gateway.types import Authorized, Call, FrozenDict, Identity, Permit, Resource, freeze
from tests.fakes import ANA, FakeTaskStore

AGENT = "planner"
OWN = "https://gateway.example/agents/planner/push/"
URL = "https://hooks.example/notify?team=red"
CONFIG = {
    "id": "cfg",
    "url": URL,
    "token": "caller-token",
    "authentication": {"scheme": "Bearer", "credentials": "s3cr"},
}
NOW_MS = 1_800_000_000_000


def authorized(method: str, params: Mapping[str, object], identity: Identity = ANA, call_id: str = "c1") -> Authorized:
    """A call that was permitted."""
    resource = Resource("agent", AGENT, upstream=AGENT, name=AGENT)
    frozen = cast("FrozenDict", freeze(dict(params)))
    call = Call(call_id, "a2a.x", method, resource, frozen, protocol="a2a", protocol_version="1.0")
    return Authorized(call, identity, Permit("d", call.digest))


def status(task_id: str, state: str = "WORKING", context_id: str = "ctx") -> JsonObject:
    """A `StreamResponse` about a task."""
    return {"statusUpdate": {"taskId": task_id, "contextId": context_id, "status": {"state": f"TASK_STATE_{state}"}}}


@dataclass
class Addresses:
    """An `AddressCheck` that knows what may not be reached."""

    refused: frozenset[str] = frozenset()
    asked: list[str] = field(default_factory=list)

    async def check(self, url: str) -> None:
        self.asked.append(url)
        if url in self.refused:
            raise PolicyDenied("not public")


@dataclass
class World:
    """One gateway (or, over the same store, one replica of it)."""

    store: TaskStore = field(default_factory=FakeTaskStore)
    addresses: Addresses = field(default_factory=Addresses)
    posted: list[Slip] = field(default_factory=list)
    room: bool = True
    deliver: Callable[[Slip], bool] | None = None
    now_ms: int = NOW_MS
    results_judged: bool = False

    def __post_init__(self) -> None:
        self.records = PushRecords(self.store, PushSealer([b"k" * 32]), lambda: self.now_ms)
        self.index = TaskIndex(self.store, lambda: self.now_ms, Sealer([b"k" * 32], "interlock"))
        self.relay = PushRelay(
            self.records,
            webhook_url=lambda agent, relay_id: f"https://gateway.example/agents/{agent}/push/{relay_id}",
            check=self.addresses.check,
            new_secret=self.new_secret,
        )
        self.inbox = PushInbox(
            self.records,
            learn=PushedTasks(self.index, self.store, lambda: self.now_ms).learn,
            post=self._post,
            from_03=event_from_03,
            to_03=event_to_03,
            results_judged=lambda: self.results_judged,
        )

    def new_secret(self) -> str:
        return secrets.token_urlsafe(32)

    def _post(self, slip: Slip) -> bool:
        if self.room:
            self.posted.append(slip)
        return self.room and (self.deliver is None or self.deliver(slip))

    async def task_of(self, identity: Identity, task_id: str = "t1", context_id: str = "ctx") -> None:
        """Let a task belong to somebody."""
        await self.store.claim_task(
            TaskRecord(AGENT, task_id, context_id, owner=identity.principal, subject=identity.subject.id)
        )

    async def create(
        self, config: Mapping[str, object] = CONFIG, identity: Identity = ANA, task_id: str = "t1", call_id: str = "c1"
    ) -> tuple[Mapping[str, object], JsonObject]:
        """Create a configuration at an agent that echoes it: what the agent was told, and what the caller saw."""
        call = authorized("CreateTaskPushNotificationConfig", {**config, "taskId": task_id}, identity, call_id)
        told = await self.relay.outgoing(call, call.call.params)
        shown = await self.relay.incoming(call, {"id": "agent-made", **as_json(told)})
        return told, cast("JsonObject", shown)

    async def ask(self, method: str, params: Mapping[str, object], value: JsonValue, by: Identity = ANA) -> JsonValue:
        """One call with the agent's answer to it."""
        call = authorized(method, params, by)
        await self.relay.outgoing(call, call.call.params)
        return await self.relay.incoming(call, value)

    async def notify(self, told: Mapping[str, object], event: object, **headers: str) -> int:
        """What the agent does with what it was told."""
        shown = {"x-a2a-notification-token": str(told["token"]), "content-type": "application/json", **headers}
        raw = {name.replace("_", "-").encode(): [value.encode()] for name, value in shown.items() if value}
        body = event if isinstance(event, bytes) else codec.dumps(event)
        return await self.inbox.received(AGENT, str(told["url"]).rpartition("/")[2], raw, body)

    async def letter(self, slip: Slip | None = None) -> Letter:
        """The letter that would be sent now."""
        letter = await self.inbox.addressed(slip or self.posted[-1])
        assert letter is not None
        return letter


def as_json(told: Mapping[str, object]) -> JsonObject:
    """What the agent was told, as it would echo it."""
    return cast("JsonObject", codec.loads(codec.dumps(told)))


def sending(config: Mapping[str, object] = CONFIG, **message: object) -> Mapping[str, object]:
    """The parameters of `SendMessage` with an inline configuration."""
    return {
        "message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}], **message},
        "configuration": {"taskPushNotificationConfig": dict(config)},
    }


def inline(told: Mapping[str, object]) -> Mapping[str, object]:
    """The configuration in what the agent was told."""
    configuration = cast("Mapping[str, object]", told["configuration"])
    return cast("Mapping[str, object]", configuration["taskPushNotificationConfig"])


def by_03(call: Authorized) -> Authorized:
    """The same call, made by a 0.3 peer."""
    legacy = replace(call.call, protocol_version="0.3")
    return Authorized(legacy, call.identity, Permit("d", legacy.digest))
