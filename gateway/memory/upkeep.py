"""Keeps the memory in order by itself: what is kept too long goes, and what has no vector yet gets one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio

from gateway.embedding import Embedder, EmbeddingRefused, EmbeddingUnavailable
from gateway.errors import InterlockError
from gateway.memory.keeping import Keeping
from gateway.memory.ports import MemoryStore

log = logging.getLogger("interlock.memory")

EVERY_S: Final = 60.0
_TEXTS: Final = 64
_HARMLESS: Final = "a text that every embedder takes"


@dataclass(frozen=True, slots=True)
class Upkeep:
    """`limits_ms` is how long records of a namespace are kept since they were recorded.

    What the embedder refused is asked for again when the gateway is started again.
    """

    store: MemoryStore
    keeping: Keeping
    embedder: Embedder
    limits_ms: Mapping[str, int]
    refused: set[int] = field(default_factory=set)

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
        """Embed what has no vector of this embedder. What it refuses is recalled by words, and nothing waits for it."""
        after = 0
        while page := await self.store.without_vector(tenant, self.embedder.name, _TEXTS, after):
            after = page[-1][0]
            texts = [one for one in page if hash((tenant, one[1])) not in self.refused]
            try:
                vectors = await self._embedded(texts)
            except EmbeddingRefused:
                await self.embedder.embed([_HARMLESS])  # refused, too: then not the texts are to blame
                vectors = await self._one_by_one(tenant, texts)
            await self.store.put_vectors(tenant, self.embedder.name, vectors)

    async def _embedded(self, texts: Sequence[tuple[int, str]]) -> dict[int, bytes]:
        vectors = await self.embedder.embed([text for _, text in texts])
        return dict(zip([number for number, _ in texts], vectors, strict=True))

    async def _one_by_one(self, tenant: str, texts: Sequence[tuple[int, str]]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for one in texts:
            try:
                found |= await self._embedded([one])
            except EmbeddingRefused as exc:
                self.refused.add(hash((tenant, one[1])))
                log.warning("a memory of %d characters is recalled by words alone: %s", len(one[1]), exc)
        return found
