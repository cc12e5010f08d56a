"""What memory needs from the outside, as protocols. Every operation names one tenant, and sees nothing of another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from gateway.errors import InterlockError
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


class MemoryUnavailable(InterlockError):
    """The memory cannot answer now. What was acknowledged is kept."""

    http_status: ClassVar[int] = 503
    code: ClassVar[str] = "memory_unavailable"


class MemoryConflict(InterlockError):
    """Somebody else was faster, or the key is taken: read again, then decide."""

    http_status: ClassVar[int] = 409
    rpc_code: ClassVar[int] = -32602
    code: ClassVar[str] = "memory_conflict"


class MemoryReader(Protocol):
    """Answers questions about one tenant's records, within a `View`."""

    async def classes(
        self, tenant: str, reach: Reach, statuses: frozenset[Status] | None = None
    ) -> Sequence[RecordClass]:
        """The classes that there are records of within reach: what policy is asked about before a search."""

    async def get(self, view: View, record: str) -> Version | None:
        """What a record says at the view's times; for an id with `@`, exactly that version."""

    async def by_key(self, view: View, namespace: str, key: str) -> Sequence[Version]:
        """What the records of that key say, the narrowest scope first."""

    async def history(self, view: View, record: str) -> Sequence[Version]:
        """Every version, in the order of recording, whatever the view's times."""

    async def children(self, view: View, record: str) -> Sequence[Version]:
        """The versions that were derived from a record (or, for an id with `@`, from that version)."""

    async def page(self, view: View, *, namespace: str = "", after: str = "", limit: int = 50) -> Page:
        """All that hold at the view's times, newest first; everything ever recorded is `everything`."""

    async def lexical(self, view: View, query: str, limit: int) -> Sequence[Hit]:
        """The best matches by words (BM25), among those of the view only."""

    async def fetch(self, view: View, rows: Sequence[int]) -> Mapping[int, Version]:
        """The versions of these hits, without those that the view does not show."""

    def everything(self, view: View) -> AsyncIterator[Version]:
        """Every version that the view admits, in the order of recording, whatever its times: what an export takes."""

    async def holds(self, tenant: str) -> Sequence[Hold]: ...


class MemoryWriter(Protocol):
    """Changes one tenant's records. Whatever returns is on disk for good."""

    async def add(self, tenant: str, draft: Draft, embedded: Embedded | None = None) -> Version:
        """Remember a new record. Raises `MemoryConflict` when its key is in use."""

    async def supersede(
        self, tenant: str, record: str, draft: Draft, embedded: Embedded | None = None, *, expect: str = ""
    ) -> Version:
        """Have a record say something else for the draft's valid time; before and after it says what it said.

        The draft's namespace, scope, owner and key may differ: the record moves. Raises `MemoryConflict` when the
        latest version is not `expect`, `UnknownResource` when there is no such record.
        """

    async def set_status(
        self, tenant: str, record: str, status: Status, by: Source, *, note: str = "", expect: str = ""
    ) -> Version:
        """Quarantine, release or retract what a record says now, as a new version. `ERASED` is `erase_records`."""

    async def rollback(self, tenant: str, match: SourceMatch, since_ms: int, by: Source) -> RolledBack:
        """Undo all that such sources wrote since then, as new versions; what was derived from it is quarantined."""

    async def load(self, tenant: str, versions: Sequence[Version]) -> int:
        """Take versions as they are (an import), all or none; how many were new.

        Raises `MemoryConflict` when one of them is here with other contents.
        """

    async def set_hold(self, tenant: str, target: str, by: Entity, reason: str) -> None:
        """Keep a record, or a namespace (its name and `/`), from erasure and retention."""

    async def lift_hold(self, tenant: str, target: str) -> bool: ...


class MemoryUpkeep(Protocol):
    """Keeps no more than is allowed, and vectors for all of it. Each leaves no trace in the store's files."""

    async def erase_subject(self, tenant: str, subject: str, by: Source) -> Erased:
        """Erase what is about or owned by a subject, and what was derived from that; their name goes everywhere."""

    async def erase_records(self, tenant: str, records: Sequence[str], by: Source) -> Erased:
        """Erase these, with what was derived from them."""

    async def sweep(self, tenant: str, limits_ms: Mapping[str, int]) -> Erased:
        """Erase the versions whose time is over: their own, or that of their namespace since they were recorded."""

    async def without_vector(self, tenant: str, model: str, limit: int, after: int = 0) -> Sequence[tuple[int, str]]:
        """Texts (number, text) that have no vector of that embedder, in the order of their numbers, after this one."""

    async def put_vectors(self, tenant: str, model: str, vectors: Mapping[int, bytes]) -> None:
        """The vectors of such texts. A text that is gone since is left out."""

    async def tenants(self) -> Sequence[str]:
        """Who has memory here: for upkeep, which does the above for each."""


class MemoryStore(MemoryReader, MemoryWriter, MemoryUpkeep, Protocol):
    """The store of record."""

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class State:
    """What a vector index has to know of a version to answer for a view. Times are as stored: the end is a number."""

    row: int
    text: int
    class_id: int
    valid_from_ms: int
    valid_to_ms: int
    recorded_at_ms: int
    superseded_at_ms: int
    status: Status
    gone: bool
    """The text does not exist any more: its vector is to go, too."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What an index missed. It is up to date at `position` where there is no `more`."""

    position: int
    vectors: tuple[tuple[int, bytes], ...] = field(repr=False)
    states: tuple[State, ...] = field(repr=False)
    more: bool = False


class VectorFeed(Protocol):
    """The side of the store that an index is made from, and made again from. Positions only grow."""

    async def identity(self) -> str:
        """A name that no other store has: an index of another one is worth nothing here."""

    async def shards(self) -> Sequence[tuple[str, str]]:
        """All pairs of tenant and namespace."""

    async def changes(self, tenant: str, namespace: str, model: str, since: int, limit: int) -> Changes:
        """What changed there after a position, in order."""

    async def admitted(self, view: View) -> Mapping[str, frozenset[int]]:
        """By namespace, the numbers (`State.class_id`) of the classes in the view."""

    async def eligible(self, view: View, namespace: str, texts: Sequence[int]) -> Mapping[int, int]:
        """Those of these texts that the view shows, each with its version's row."""

    async def now_ms(self) -> int:
        """The store's clock, which never goes back behind what is recorded."""


class VectorIndex(Protocol):
    """Finds the nearest vectors. Derived: whatever it lost, it takes from the store."""

    async def nearest(self, view: View, vector: bytes, limit: int) -> Sequence[Hit]:
        """The best matches by meaning (cosine), among those of the view only."""

    async def purge(self, tenant: str) -> None:
        """Leave nothing of what was erased in the tenant's files. Called after every erasure and sweep."""

    async def aclose(self) -> None: ...
