"""An in-memory double of every port; the contract suites hold each to what its real ones do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from gateway import codec
from gateway.a2a.operations import TERMINAL
from gateway.boxes import BoxFacts, Hold
from gateway.errors import AuditUnavailable, InvalidCall, Unauthenticated
from gateway.pipeline import Decider, Trail
from gateway.ports import (
    Answer,
    ApiKey,
    CallRecord,
    Entrypoint,
    Exchange,
    Identifier,
    Pin,
    PolicyDecisionPoint,
    PushRecord,
    Recorder,
    Relay,
    Sink,
    StateStore,
    TaskQuery,
    TaskRecord,
    TaskStore,
    Upstream,
)
from gateway.tickets import Approval
from gateway.types import EMPTY, Authorized, Call, Credentials, Entity, Era, Identity, Permit, Resource, Result, Ruling
from tests.fake_approvals import FakeApprovalStore as FakeApprovalStore  # noqa: PLC0414  # taken from here, as all are


class FakeStore:
    """`StateStore` in memory; `fail_with` makes the next answers fail as a lost database would."""

    def __init__(self) -> None:
        self.fail_with: Exception | None = None
        self.reads = 0
        self._keys: dict[str, ApiKey] = {}
        self._pins: dict[tuple[str, str, str], Pin] = {}
        self._secrets: dict[str, bytes] = {}
        self._revision = 1

    async def keys(self) -> Sequence[ApiKey]:
        self._answer()
        return tuple(sorted(self._keys.values(), key=lambda key: (key.created_s, key.id)))

    async def put_key(self, key: ApiKey) -> None:
        self._answer()
        self._keys[key.id] = key
        self._revision += 1

    async def revoke_key(self, key_id: str, now_s: int) -> bool:
        self._answer()
        key = self._keys.get(key_id)
        if key is None or key.revoked_s:
            return False
        self._keys[key_id] = replace(key, revoked_s=now_s)
        self._revision += 1
        return True

    async def pins(self, upstream: str) -> Sequence[Pin]:
        self._answer()
        own = [pin for pin in self._pins.values() if pin.upstream == upstream]
        return tuple(sorted(own, key=lambda pin: (pin.kind, pin.name)))

    async def put_pins(self, pins: Sequence[Pin]) -> None:
        self._answer()
        self._pins.update({(pin.upstream, pin.kind, pin.name): pin for pin in pins})
        self._revision += bool(pins)

    async def secret(self, name: str) -> bytes:
        self._answer()
        return self._secrets.setdefault(name, os.urandom(32))

    async def revision(self) -> int:
        self._answer()
        self.reads += 1
        return self._revision

    def _answer(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with


_store: type[StateStore] = FakeStore


class FakeTaskStore:
    """`TaskStore` in memory; `fail_with` makes the next answers fail, `reads` and `writes` count the others."""

    def __init__(self) -> None:
        self.fail_with: Exception | None = None
        self.reads = 0
        self.writes = 0
        self._tasks: dict[tuple[str, str], TaskRecord] = {}
        self._contexts: dict[tuple[str, str], str] = {}
        self._pushes: dict[tuple[str, str, str], PushRecord] = {}

    async def task(self, agent: str, task_id: str) -> TaskRecord | None:
        self._read()
        return self._tasks.get((agent, task_id))

    async def claim_task(self, record: TaskRecord) -> TaskRecord | None:
        self._write()
        known = self._tasks.get((record.agent, record.task_id))
        if known is not None:
            return known
        context = (record.agent, record.context_id)
        if record.context_id and self._contexts.setdefault(context, record.owner) != record.owner:
            return None
        self._tasks[record.agent, record.task_id] = record
        return record

    async def update_task(self, agent: str, task_id: str, *, state: str, updated_ms: int) -> None:
        self._write()
        record = self._tasks.get((agent, task_id))
        if record is not None and record.state not in TERMINAL:
            self._tasks[agent, task_id] = replace(record, state=state, updated_ms=updated_ms)

    async def drop_task(self, agent: str, task_id: str) -> None:
        self._write()
        self._drop(agent, task_id)

    async def prune(self, before_ms: int) -> int:
        self._write()
        old = [
            key
            for key, record in self._tasks.items()
            if record.state in TERMINAL and max(record.updated_ms, record.created_ms) < before_ms
        ]
        for agent, task_id in old:
            self._drop(agent, task_id)
        return len(old)

    async def tasks(self, query: TaskQuery) -> Sequence[TaskRecord]:
        self._read()
        found = sorted(self._matching(query), key=lambda record: (record.updated_ms, record.task_id), reverse=True)
        before = query.before
        if before is not None:
            found = [record for record in found if (record.updated_ms, record.task_id) < before]
        return tuple(found[: query.limit])

    async def count_tasks(self, query: TaskQuery) -> int:
        self._read()
        return len(self._matching(query))

    async def claim_context(self, agent: str, context_id: str, owner: str, now_ms: int) -> str:
        self._write()
        return self._contexts.setdefault((agent, context_id), owner)

    async def context_owner(self, agent: str, context_id: str) -> str:
        self._read()
        return self._contexts.get((agent, context_id), "")

    async def put_push(self, record: PushRecord) -> None:
        self._write()
        self._pushes[record.agent, record.task_id, record.config_id] = record

    async def pushes(self, agent: str, task_id: str) -> Sequence[PushRecord]:
        self._read()
        own = [push for key, push in self._pushes.items() if key[:2] == (agent, task_id)]
        return tuple(sorted(own, key=lambda push: (push.created_ms, push.config_id)))

    async def push_of_relay(self, relay_id: str) -> PushRecord | None:
        self._read()
        return next((push for push in self._pushes.values() if push.relay_id == relay_id), None)

    async def drop_push(self, agent: str, task_id: str, config_id: str) -> bool:
        self._write()
        return self._pushes.pop((agent, task_id, config_id), None) is not None

    def _matching(self, query: TaskQuery) -> list[TaskRecord]:
        return [
            record
            for record in self._tasks.values()
            if (record.agent, record.owner) == (query.agent, query.owner)
            and query.context_id in {"", record.context_id}
            and query.state in {"", record.state}
            and record.updated_ms >= query.updated_after_ms
        ]

    def _drop(self, agent: str, task_id: str) -> None:
        self._tasks.pop((agent, task_id), None)
        self._pushes = {key: push for key, push in self._pushes.items() if key[:2] != (agent, task_id)}

    def _read(self) -> None:
        self._answer()
        self.reads += 1

    def _write(self) -> None:
        self._answer()
        self.writes += 1

    def _answer(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with


_task_store: type[TaskStore] = FakeTaskStore


class FakeRecorder:
    """`Recorder` in memory; `fail_with` makes it refuse as a full disk would."""

    def __init__(self) -> None:
        self.fail_with = ""
        self.records: list[CallRecord] = []
        self.committed: list[CallRecord] = []

    @property
    def accepting(self) -> bool:
        return not self.fail_with

    def record(self, record: CallRecord) -> None:
        self._answer()
        self.records.append(record)

    async def commit(self, record: CallRecord) -> None:
        self._answer()
        self.records.append(record)
        self.committed.append(record)

    def _answer(self) -> None:
        if self.fail_with:
            raise AuditUnavailable(self.fail_with)


_recorder: type[Recorder] = FakeRecorder


class FakePdp:
    """`PolicyDecisionPoint` that answers as `decide` says and keeps what it was asked."""

    def __init__(self, decide: Callable[[Entrypoint, Mapping[str, object]], Answer]) -> None:
        self.decide = decide
        self.asked: list[tuple[Entrypoint, Mapping[str, object]]] = []
        self.fail_with: Exception | None = None

    async def evaluate(self, entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
        self.asked.append((entrypoint, question))
        if self.fail_with is not None:
            raise self.fail_with
        return self.decide(entrypoint, question)


_pdp: type[PolicyDecisionPoint] = FakePdp


class FakeIdentifier:
    """`Identifier` that knows the bearers it was made with; `anonymous` is who a request without one is from."""

    def __init__(self, known: Mapping[str, Identity], *, anonymous: Identity | None = None) -> None:
        self.known = dict(known)
        self.anonymous = anonymous
        self.fail_with: Exception | None = None
        self.seen: list[Credentials] = []

    async def identify(self, credentials: Credentials) -> Identity:
        self.seen.append(credentials)
        if self.fail_with is not None:
            raise self.fail_with
        if credentials.fault:
            raise Unauthenticated(credentials.fault)
        if not credentials.bearer and self.anonymous is not None and credentials.on_loopback:
            return self.anonymous
        identity = self.known.get(credentials.bearer)
        if identity is None:
            raise Unauthenticated("no valid credential came with the request")
        return identity


_identifier: type[Identifier] = FakeIdentifier


class FakeDecider:
    """`Decider` that permits everything, unless `decide_with` raises or answers otherwise."""

    def __init__(self) -> None:
        self.decide_with: Callable[[Call, Identity], Permit] = permit_for
        self.carry_out_with: Callable[[Call, Permit], tuple[Call, Permit]] = lambda call, permit: (call, permit)
        self.inspect_with: Callable[[Authorized, Result], Result] = lambda _, result: result
        self.asked: list[Call] = []
        self.approvals: list[Approval | None] = []
        self.inspected: list[Result] = []

    async def decide(self, call: Call, identity: Identity, approval: Approval | None = None) -> Permit:
        self.asked.append(call)
        self.approvals.append(approval)
        return self.decide_with(call, identity)

    def carry_out(self, call: Call, permit: Permit) -> tuple[Call, Permit]:
        return self.carry_out_with(call, permit)

    async def inspect(self, authorized: Authorized, result: Result) -> Result:
        self.inspected.append(result)
        return self.inspect_with(authorized, result)


def permit_for(call: Call, identity: Identity) -> Permit:
    """A yes to exactly this call, without obligations."""
    return Permit("d1", call.digest, ruling=Ruling("d1", "r1", "fake"))


_decider: type[Decider] = FakeDecider
_trail: type[Trail] = FakeRecorder


class FakeUpstream:
    """`Upstream` that answers as told and keeps what it was asked to carry out."""

    def __init__(
        self, answer: Callable[[Authorized, Relay], Awaitable[Result]] | None = None, *, payload: bytes = b"{}"
    ) -> None:
        self.answer = answer
        self.payload = payload
        self.fail_with: Exception | None = None
        self.executed: list[Authorized] = []

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        self.executed.append(authorized)
        if self.fail_with is not None:
            raise self.fail_with
        return await self.answer(authorized, relay) if self.answer is not None else Result(self.payload)


_upstream: type[Upstream] = FakeUpstream


class FakeExchange:
    """`Exchange` with a client that gives `answers` by method; without one it cannot be asked."""

    def __init__(self, owner: str = "client", *, era: Era = Era.LEGACY) -> None:
        self.owner = owner
        self.era = era
        self.capabilities: Mapping[str, object] = EMPTY
        self.log_level = ""
        self.wants_progress = False
        self.answers: dict[str, Result] = {}
        self.told: list[tuple[str, Mapping[str, object]]] = []
        self.asked: list[Call] = []
        self.events: list[bytes] = []

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        self.told.append((method, params))

    async def emit(self, event: bytes) -> None:
        self.events.append(event)

    async def ask(self, call: Call) -> Result:
        self.asked.append(call)
        answer = self.answers.get(call.method)
        if answer is None:
            raise InvalidCall(f"the client did not declare what {call.method} needs")
        return answer


_exchange: type[Exchange] = FakeExchange

ANA = Identity(Entity("user", "user:ana"), tenant="acme", roles=("analyst",), method="api_key")
BO = Identity(Entity("user", "user:bo"), tenant="acme", roles=("analyst",), method="api_key")


async def _nothing_done(action: str, method: str, resource: Resource, params: Mapping[str, object]) -> Result:
    return Result(b"{}")


def not_held(box: BoxFacts | None, authorized: Authorized, relay: Relay) -> AbstractContextManager[object]:
    """A `Hold` where nothing is asked of boxes."""
    return nullcontext()


_hold: Hold = not_held


class FakeRelay:
    """`Relay` that answers as `answers` says (by method: JSON, a `Result` or an error to raise) and keeps what it saw.

    A modern client's answer to any other question is that it takes it along (`input_required`).
    """

    def __init__(
        self,
        owner: str = "client",
        *,
        era: Era = Era.LEGACY,
        capabilities: Mapping[str, object] | None = None,
        answers: Mapping[str, object] | None = None,
        log_level: str = "",
        wants_progress: bool = False,
    ) -> None:
        self.owner = owner
        self.era = era
        self.capabilities = capabilities or {}
        self.answers = answers or {}
        self.log_level = log_level
        self.wants_progress = wants_progress
        self.notified: list[tuple[str, Mapping[str, object]]] = []
        self.events: list[bytes] = []
        self.refuse_events: Exception | None = None
        self.asked: list[tuple[str, Mapping[str, object]]] = []
        self.asking = asyncio.Event()
        self.thinking: asyncio.Event | None = None
        """What a person at the client waits for before answering, if set."""
        self.acted: list[tuple[str, Resource, Mapping[str, object]]] = []
        self.notes: dict[str, object] = {}
        self.carry: Callable[[str, str, Resource, Mapping[str, object]], Awaitable[Result]] = _nothing_done
        """What carries out an action that `answers` does not answer."""

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        self.notified.append((method, params))

    async def ask(self, method: str, params: Mapping[str, object]) -> Result:
        self.asked.append((method, params))
        self.asking.set()
        if self.thinking is not None:
            await self.thinking.wait()
        answer = self.answers.get(method)
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, Result):
            return answer
        if self.era is Era.MODERN:
            return Result(b"{}", "input_required")
        return Result(codec.dumps(answer))

    async def emit(self, event: bytes) -> None:
        if self.refuse_events is not None:
            raise self.refuse_events
        self.events.append(event)

    async def act(
        self,
        action: str,
        method: str,
        resource: Resource,
        params: Mapping[str, object],
        *,
        by: Upstream | None = None,
        sink: Sink | None = None,
    ) -> Result:
        self.acted.append((action, resource, params))
        answer = self.answers.get(action)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, Result) else await self.carry(action, method, resource, params)

    def note(self, name: str, value: object) -> None:
        self.notes[name] = value


_relay: type[Relay] = FakeRelay
