"""An index that compares with every vector: always right, in memory, filled from the store whenever it is asked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import anyio
from anyio import to_thread

from adapters.memory.exact_shard import Filter, Shard
from gateway.memory.ports import MemoryUnavailable, VectorFeed, VectorIndex
from gateway.memory.records import Hit, View

_PART: Final = 4_096
_NEVER_SUPERSEDED: Final = 2**63 - 2
MAX_BYTES: Final = 1 << 30


@dataclass(slots=True)
class _Slot:
    shard: Shard
    turn: anyio.Lock = field(default_factory=anyio.Lock)


class ExactIndex:
    """`VectorIndex` by brute force. Namespaces that were not asked for lately make room for others (`max_bytes`)."""

    def __init__(self, feed: VectorFeed, *, model: str, dimensions: int, max_bytes: int = MAX_BYTES) -> None:
        self._feed, self._model, self._dimensions, self._max_bytes = feed, model, dimensions, max_bytes
        self._shards: OrderedDict[tuple[str, str], _Slot] = OrderedDict()

    async def nearest(self, view: View, vector: bytes, limit: int) -> Sequence[Hit]:
        """The best matches of the view, exactly."""
        admitted = await self._feed.admitted(view)
        now = await self._feed.now_ms()
        hits: list[Hit] = []
        for namespace, classes in admitted.items():
            hits += await self._in(view.tenant, namespace, vector, _filter(view, classes, now), limit)
        return sorted(hits, key=lambda hit: (-hit.score, hit.row))[:limit]

    async def _in(self, tenant: str, namespace: str, vector: bytes, shown: Filter, limit: int) -> Sequence[Hit]:
        slot = self._slot(tenant, namespace)
        try:
            async with slot.turn:
                await self._catch_up(tenant, namespace, slot.shard)
                return await to_thread.run_sync(slot.shard.nearest, vector, shown, limit)
        except ValueError as exc:
            raise MemoryUnavailable(f"the index of the memory: {exc}: embed again with one embedder") from exc

    def _slot(self, tenant: str, namespace: str) -> _Slot:
        slot = self._shards.setdefault((tenant, namespace), _Slot(Shard(self._dimensions)))
        self._shards.move_to_end((tenant, namespace))
        return slot

    async def _catch_up(self, tenant: str, namespace: str, shard: Shard) -> None:
        more = True
        while more:
            changes = await self._feed.changes(tenant, namespace, self._model, shard.position, _PART)
            more = changes.more
            if changes.states or changes.vectors:
                await to_thread.run_sync(partial(shard.apply, changes))
            shard.position = changes.position
        self._make_room(keep=(tenant, namespace))

    def _make_room(self, keep: tuple[str, str]) -> None:
        size = sum(slot.shard.size for slot in self._shards.values())
        for key in [key for key in self._shards if key != keep]:
            if size <= self._max_bytes:
                return
            size -= self._shards.pop(key).shard.size

    async def purge(self, tenant: str) -> None:
        """Nothing of this is on disk; what is in memory goes now."""
        for key, slot in [(key, slot) for key, slot in self._shards.items() if key[0] == tenant]:
            async with slot.turn:
                await self._catch_up(*key, slot.shard)

    async def aclose(self) -> None:
        """Give the memory back."""
        self._shards.clear()


def _filter(view: View, classes: frozenset[int], now_ms: int) -> Filter:
    valid = now_ms if view.as_of_valid_ms is None else view.as_of_valid_ms
    recorded = _NEVER_SUPERSEDED if view.as_of_recorded_ms is None else view.as_of_recorded_ms
    return Filter(classes, view.statuses, valid, recorded)


_: type[VectorIndex] = ExactIndex
