"""Keeps the memory in order by itself: what is kept too long goes, and what has no vector yet gets one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import anyio

from gateway.embedding import Embedder, EmbeddingUnavailable
from gateway.errors import InterlockError
from gateway.memory.keeping import Keeping
from gateway.memory.ports import MemoryStore

log = logging.getLogger("interlock.memory")

EVERY_S: Final = 60.0
_TEXTS: Final = 64


@dataclass(frozen=True, slots=True)
class Upkeep:
    """`limits_ms` is how long records of a namespace are kept since they were recorded."""

    store: MemoryStore
    keeping: Keeping
    embedder: Embedder
    limits_ms: Mapping[str, int]

    async def run(self, *, wait: Callable[[float], Awaitable[None]] = anyio.sleep) -> None:
        """Look after it, at the start and once a minute, until cancelled."""
        while True:
            try:
                await self.once()
            except (InterlockError, EmbeddingUnavailable, OSError) as exc:
                log.warning("the memory was not looked after, which is tried again in a minute: %s", exc)
            await wait(EVERY_S)

    async def once(self) -> None:
        """Everything that is due now."""
        for tenant in await self.store.tenants():
            erased = await self.keeping.sweep(tenant, self.limits_ms)
            if erased.records:
                log.info("memory: %d records were kept long enough and are erased", len(erased.records))
        for tenant in await self.store.tenants():  # whatever the embedder says, all that is over is erased by now
            await self.fill(tenant)

    async def fill(self, tenant: str) -> None:
        """Embed what has no vector of this embedder."""
        while texts := await self.store.without_vector(tenant, self.embedder.name, _TEXTS):
            vectors = await self.embedder.embed([text for _, text in texts])
            numbers = [number for number, _ in texts]
            await self.store.put_vectors(tenant, self.embedder.name, dict(zip(numbers, vectors, strict=True)))
