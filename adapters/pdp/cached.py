"""Answers of pure policies, kept by exactly what the policy can see of a question."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import orjson

from adapters.pdp.projection import Path, Projection
from gateway import codec
from gateway.ports import Answer, Entrypoint, PolicyDecisionPoint

DENY_TTL_NS: Final = 1_000_000_000
MAX_ENTRIES: Final = 10_000
MAX_VALUE_BYTES: Final = 65_536
_ABSENT: Final = orjson.Fragment(b"~")  # no JSON text is one of these, so no value can pass for them
_NO_OBJECT: Final = orjson.Fragment(b"^")
_SCALARS: Final = frozenset({str, int, float, bool, type(None), list, tuple})

Plan: TypeAlias = "tuple[tuple[str, ...], tuple[tuple[str, Plan], ...]]"


class NotAKey(Exception):
    """The question holds something that is not JSON, so nothing is known of what the engine would see."""


class CachedPdp:
    """Asks `pdp` only what it has not answered before. Errors are never kept, denials for at most a second.

    `now_ns` is a monotonic clock. An entry point without a pure projection goes straight through.
    """

    def __init__(
        self,
        pdp: PolicyDecisionPoint,
        projections: Mapping[Entrypoint, Projection],
        *,
        revision: str = "",
        max_entries: int = MAX_ENTRIES,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._pdp = pdp
        self._keys = {name: KeyMaker(name, revision, p.paths) for name, p in projections.items() if p.pure}
        self._max_entries = max_entries
        self._now_ns = now_ns
        self._entries: OrderedDict[bytes, tuple[bytes, str, str, int]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    async def evaluate(self, entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
        """As the port says; `cached` is set when the engine was not asked."""
        maker = self._keys.get(entrypoint)
        if maker is None:
            return await self._pdp.evaluate(entrypoint, question)
        try:
            key = maker.key(question)
        except (NotAKey, orjson.JSONEncodeError):
            return await self._pdp.evaluate(entrypoint, question)
        entry = self._entries.get(key)
        if entry is not None and (not entry[3] or self._now_ns() < entry[3]):
            self._entries.move_to_end(key)
            self.hits += 1
            return Answer(orjson.loads(entry[0]), entry[1], entry[2], cached=True)
        self.misses += 1
        answer = await self._pdp.evaluate(entrypoint, question)
        self._keep(key, entrypoint, answer)
        return answer

    def purge(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def _keep(self, key: bytes, entrypoint: Entrypoint, answer: Answer) -> None:
        value = codec.dumps(answer.value)
        if len(value) > MAX_VALUE_BYTES:
            return
        until = 0 if _may_stay(entrypoint, answer.value) else self._now_ns() + DENY_TTL_NS
        self._entries[key] = (value, answer.revision, answer.engine, until)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)


def _may_stay(entrypoint: Entrypoint, value: object) -> bool:
    if entrypoint == "visible":
        return isinstance(value, list)
    return isinstance(value, dict) and value.get("decision") is True


class KeyMaker:
    """Turns questions into cache keys, by the values at `paths` and nothing else."""

    def __init__(self, entrypoint: str, revision: str, paths: tuple[Path, ...]) -> None:
        self._hasher = hashlib.blake2b(f"{entrypoint}\0{revision}\0".encode(), digest_size=16)
        self._plan = None if () in paths else _plan(paths)

    def key(self, question: Mapping[str, object]) -> bytes:
        """Equal for two questions only if they agree at every path. Raises `NotAKey` or `TypeError` for no JSON."""
        seen: list[object] = []
        if self._plan is None:
            seen.append(question)
        else:
            _gather(question, self._plan, seen)
        hasher = self._hasher.copy()
        hasher.update(orjson.dumps(seen))
        return hasher.digest()


def _plan(paths: tuple[Path, ...]) -> Plan:
    branches: dict[str, list[Path]] = {}
    for path in paths:
        branches.setdefault(path[0], []).append(path[1:])
    leaves = tuple(name for name, rest in branches.items() if () in rest)
    return leaves, tuple((name, _plan(tuple(rest))) for name, rest in branches.items() if () not in rest)


def _gather(node: Mapping[str, object], plan: Plan, seen: list[object]) -> None:
    leaves, branches = plan
    get = node.get
    for name in leaves:
        seen.append(get(name, _ABSENT))
    for name, below in branches:
        child = get(name)
        if isinstance(child, dict):
            _gather(child, below, seen)
        elif type(child) in _SCALARS:
            seen.append(_NO_OBJECT)  # a step into it is undefined in Rego, as into nothing
        else:
            raise NotAKey
