"""An in-memory double of every port; the contract suites hold each to what its real ones do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from gateway import codec
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
    Recorder,
    Relay,
    StateStore,
    Upstream,
)
from gateway.types import EMPTY, Authorized, Call, Credentials, Entity, Era, Identity, Permit, Resource, Result, Ruling


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
        self.inspected: list[Result] = []

    async def decide(self, call: Call, identity: Identity) -> Permit:
        self.asked.append(call)
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

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        self.told.append((method, params))

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

    async def act(
        self,
        action: str,
        method: str,
        resource: Resource,
        params: Mapping[str, object],
        *,
        by: Upstream | None = None,
    ) -> Result:
        self.acted.append((action, resource, params))
        answer = self.answers.get(action)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, Result) else await self.carry(action, method, resource, params)

    def note(self, name: str, value: object) -> None:
        self.notes[name] = value


_relay: type[Relay] = FakeRelay
