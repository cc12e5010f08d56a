"""The store of record in one SQLite file: texts, versions, provenance, words and vectors, changed together or not."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from anyio import to_thread

from adapters.memory import sqlite_erasure as erasure
from adapters.memory import sqlite_feed as feed
from adapters.memory import sqlite_reads as reads
from adapters.memory import sqlite_writes as writes
from adapters.memory.sqlite_file import prepare
from adapters.memory.sqlite_threads import Readers, Work, Writer
from adapters.memory.sqlite_words import Words
from gateway.memory.ports import Changes, MemoryStore, VectorFeed
from gateway.memory.records import (
    Draft,
    Embedded,
    Erased,
    Hit,
    Hold,
    Page,
    Reach,
    RecordClass,
    RolledBack,
    Source,
    SourceMatch,
    Status,
    Version,
    View,
)
from gateway.types import Entity

_PART: Final = 500
"""How many versions of an export are read at a time."""


def new_record_id() -> str:
    """A name that nobody can guess."""
    return f"mem-{secrets.token_hex(10)}"


async def open_memory(
    file: Path, *, clock_ms: Callable[[], int], new_id: Callable[[], str] = new_record_id
) -> SqliteMemory:
    """Open the file, made when there is none. Raises `ConfigError` when it cannot be used."""
    await to_thread.run_sync(prepare, file)
    return SqliteMemory(file, clock_ms=clock_ms, new_id=new_id)


class SqliteMemory:
    """`MemoryStore` and `VectorFeed` on one prepared file. Use `open_memory`."""

    def __init__(self, file: Path, *, clock_ms: Callable[[], int], new_id: Callable[[], str]) -> None:
        self._clock, self._new_id = clock_ms, new_id
        self._readers, self._writer, self._words = Readers(file), Writer(file), Words()

    async def aclose(self) -> None:
        """Finish what was begun, and close the file."""
        await self._writer.aclose()
        await self._readers.aclose()

    async def classes(
        self, tenant: str, reach: Reach, statuses: frozenset[Status] | None = None
    ) -> Sequence[RecordClass]:
        return await self._readers.run(lambda c: reads.classes(c, tenant, reach, statuses))

    async def get(self, view: View, record: str) -> Version | None:
        return await self._readers.run(lambda c: reads.get(c, view, record, self._clock()))

    async def by_key(self, view: View, namespace: str, key: str) -> Sequence[Version]:
        return await self._readers.run(lambda c: reads.by_key(c, view, namespace, key, self._clock()))

    async def history(self, view: View, record: str) -> Sequence[Version]:
        return await self._readers.run(lambda c: reads.history(c, view, record))

    async def children(self, view: View, record: str) -> Sequence[Version]:
        return await self._readers.run(lambda c: reads.children(c, view, record))

    async def page(self, view: View, *, namespace: str = "", after: str = "", limit: int = 50) -> Page:
        return await self._readers.run(lambda c: reads.page(c, view, namespace, after, limit, self._clock()))

    async def lexical(self, view: View, query: str, limit: int) -> Sequence[Hit]:
        return await self._readers.run(lambda c: self._words.find(c, view, query, limit, self._clock()))

    async def fetch(self, view: View, rows: Sequence[int]) -> Mapping[int, Version]:
        return await self._readers.run(lambda c: reads.fetch(c, view, rows, self._clock()))

    async def everything(self, view: View) -> AsyncIterator[Version]:
        after, at = 0, await self._readers.run(reads.state)  # not one long question: erasure would wait for its end
        while part := await self._part(view, after, at):
            for after, version in part:  # noqa: B007  # the last one is where the next part starts
                yield version

    async def _part(self, view: View, after: int, at: tuple[int, int]) -> list[tuple[int, Version]]:
        return await self._readers.run(lambda c: reads.some(c, view, after, _PART, at))

    async def holds(self, tenant: str) -> Sequence[Hold]:
        return await self._readers.run(lambda c: reads.holds(c, tenant))

    async def add(self, tenant: str, draft: Draft, embedded: Embedded | None = None) -> Version:
        record = self._new_id()
        return await self._writer.run(lambda c: writes.add(c, tenant, record, draft, embedded, self._clock()))

    async def supersede(
        self, tenant: str, record: str, draft: Draft, embedded: Embedded | None = None, *, expect: str = ""
    ) -> Version:
        return await self._writer.run(
            lambda c: writes.supersede(c, tenant, record, draft, embedded, expect, self._clock())
        )

    async def set_status(
        self, tenant: str, record: str, status: Status, by: Source, *, note: str = "", expect: str = ""
    ) -> Version:
        return await self._writer.run(
            lambda c: writes.set_status(c, tenant, record, status, by, note, expect, self._clock())
        )

    async def rollback(self, tenant: str, match: SourceMatch, since_ms: int, by: Source) -> RolledBack:
        return await self._writer.run(lambda c: writes.rollback(c, tenant, match, since_ms, by, self._clock()))

    async def load(self, tenant: str, versions: Sequence[Version]) -> int:
        return await self._writer.run(lambda c: writes.load(c, tenant, versions))

    async def set_hold(self, tenant: str, target: str, by: Entity, reason: str) -> None:
        await self._writer.run(lambda c: writes.set_hold(c, tenant, target, by, reason, self._clock()))

    async def lift_hold(self, tenant: str, target: str) -> bool:
        return await self._writer.run(lambda c: writes.lift_hold(c, tenant, target))

    async def erase_subject(self, tenant: str, subject: str, by: Source) -> Erased:
        return await self._erased(lambda c: erasure.erase_subject(c, tenant, subject, by))

    async def erase_records(self, tenant: str, records: Sequence[str], by: Source) -> Erased:
        return await self._erased(lambda c: erasure.erase_records(c, tenant, records, by))

    async def sweep(self, tenant: str, limits_ms: Mapping[str, int]) -> Erased:
        return await self._erased(lambda c: erasure.sweep(c, tenant, limits_ms, self._clock()))

    async def _erased(self, work: Work[Erased]) -> Erased:
        erased = await self._writer.run(work, cleans=True)
        if erased.records:
            self._words.forget()  # what was common need not be so any more
        return erased

    async def without_vector(self, tenant: str, model: str, limit: int, after: int = 0) -> Sequence[tuple[int, str]]:
        return await self._readers.run(lambda c: writes.without_vector(c, tenant, model, limit, after))

    async def put_vectors(self, tenant: str, model: str, vectors: Mapping[int, bytes]) -> None:
        await self._writer.run(lambda c: writes.put_vectors(c, tenant, model, vectors))

    async def tenants(self) -> Sequence[str]:
        return await self._readers.run(reads.tenants)

    async def identity(self) -> str:
        return await self._readers.run(feed.identity)

    async def shards(self) -> Sequence[tuple[str, str]]:
        return await self._readers.run(feed.shards)

    async def changes(self, tenant: str, namespace: str, model: str, since: int, limit: int) -> Changes:
        return await self._readers.run(lambda c: feed.changes(c, tenant, namespace, model, since, limit))

    async def admitted(self, view: View) -> Mapping[str, frozenset[int]]:
        return await self._readers.run(lambda c: feed.admitted(c, view))

    async def eligible(self, view: View, namespace: str, texts: Sequence[int]) -> Mapping[int, int]:
        return await self._readers.run(lambda c: feed.eligible(c, view, namespace, texts, self._clock()))

    async def now_ms(self) -> int:
        return await self._readers.run(lambda c: reads.latest(c, self._clock()))


_store: type[MemoryStore] = SqliteMemory
_feed: type[VectorFeed] = SqliteMemory
