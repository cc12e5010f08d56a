"""An in-memory double of every port; the contract suites hold each to what its real ones do."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gateway.errors import AuditUnavailable
from gateway.ports import Answer, ApiKey, CallRecord, Entrypoint, Pin, PolicyDecisionPoint, Recorder, StateStore


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
