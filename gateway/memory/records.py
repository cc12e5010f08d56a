"""What is remembered, as frozen values: a record is its versions, and no version is ever overwritten.

Every version holds in two times: valid time (when it is so in the world) and recorded time (when the store believed
it). Times are milliseconds since the epoch; an end that is `None` has not come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from gateway.types import Entity


class Scope(StrEnum):
    """Who shares a record. All but `ORG` belong to an `owner`: a session, an agent, a team."""

    SESSION = "session"
    AGENT = "agent"
    TEAM = "team"
    ORG = "org"


class Kind(StrEnum):
    """What sort of thing is remembered."""

    SCRATCH = "scratch"
    EPISODIC = "episodic"
    SEMANTIC = "semantic"
    PROCEDURAL = "procedural"


class Status(StrEnum):
    """What may be done with a version. That it was superseded is its recorded time, not its status."""

    ACTIVE = "active"
    QUARANTINED = "quarantined"
    RETRACTED = "retracted"
    """Taken back (forgotten, rolled back): in the history, in no answer."""
    ERASED = "erased"
    """A gravestone: that there was something, and nothing of what."""


class SourceType(StrEnum):
    """Where a text comes from."""

    USER = "user"
    TOOL = "tool"
    AGENT = "agent"
    MODEL = "model"
    IMPORT = "import"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Source:
    """Provenance: by which call, of which agent, and for whom. The audit log finds the call by its id."""

    type: SourceType
    ref: str = ""
    """What exactly: `upstream/tool`, a URL, a file."""
    call_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    args_hash: str = ""
    author_agent: str = ""
    on_behalf_of: str = ""
    """The subject, as policy names it."""
    model: str = ""
    session: str = ""


@dataclass(frozen=True, slots=True, order=True)
class RecordClass:
    """All that policy has to know of a record to judge whether it may be read: one answer for all of a class."""

    namespace: str
    scope: Scope
    kind: Kind
    labels: tuple[str, ...] = ()
    residency: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A text that is to be remembered."""

    namespace: str
    text: str
    scope: Scope
    kind: Kind
    source: Source
    key: str = ""
    """The caller's name for it, one per namespace, scope and owner; empty for the record's id."""
    owner: str = ""
    """The session, agent or team that a record of such a scope belongs to."""
    labels: tuple[str, ...] = ()
    residency: str = ""
    subjects: tuple[str, ...] = ()
    """Whom it is about: what is erased with them."""
    derived_from: tuple[str, ...] = ()
    """Ids of the versions that it was made from."""
    trust: float = 0.5
    status: Status = Status.ACTIVE
    valid_from_ms: int | None = None
    """`None` is now."""
    valid_to_ms: int | None = None
    retain_until_ms: int | None = None
    signature: str = ""
    note: str = ""
    """Why it is as it is, such as what people are to look at."""


@dataclass(frozen=True, slots=True)
class Version:
    """What a record said from one moment on."""

    id: str
    """The record's id, `@`, and the number of the version."""
    record: str
    number: int
    tenant: str
    namespace: str
    key: str
    text: str
    content_hash: str
    """SHA-256 of the text; empty once it is erased, since a short text can be guessed from it."""
    scope: Scope
    owner: str
    kind: Kind
    labels: tuple[str, ...]
    residency: str
    source: Source
    """Who wrote the text."""
    changed_by: Source
    """Who made this version of it: another one than `source` where only its state changed."""
    status: Status
    trust: float
    valid_from_ms: int
    valid_to_ms: int | None
    recorded_at_ms: int
    superseded_at_ms: int | None
    supersedes: str = ""
    """The version whose place it took, or whose text it carries on."""
    derived_from: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    retain_until_ms: int | None = None
    signature: str = ""
    note: str = ""
    """Why it is as it is: a reviewer's, a rule's, a rollback's reason."""

    @property
    def record_class(self) -> RecordClass:
        """What policy judges it by."""
        return RecordClass(self.namespace, self.scope, self.kind, self.labels, self.residency)

    @property
    def resource_id(self) -> str:
        """Its name in a policy question: namespace/key (policy contract, `memory.*`)."""
        return f"{self.namespace}/{self.key}"


@dataclass(frozen=True, slots=True)
class Reach:
    """Whose records a caller can have at all, before policy is asked: its own session, its agent, its teams.

    An empty reach reaches nothing. `whole` is everything the tenant has, for those who run it.
    """

    owners: frozenset[tuple[Scope, str]] = frozenset()
    whole: bool = False

    @classmethod
    def of(cls, *, session: str = "", agent: str = "", teams: Iterable[str] = (), org: bool = True) -> Reach:
        """The reach of one caller; what is empty adds nothing."""
        owners = {(Scope.TEAM, team) for team in teams if team}
        owners |= {(scope, owner) for scope, owner in ((Scope.SESSION, session), (Scope.AGENT, agent)) if owner}
        return cls(frozenset(owners | ({(Scope.ORG, "")} if org else set())))

    def has(self, scope: Scope, owner: str) -> bool:
        """Whether records of that owner are within it."""
        return self.whole or (scope, owner) in self.owners


ACTIVE_ONLY: Final = frozenset({Status.ACTIVE})


@dataclass(frozen=True, slots=True)
class View:
    """What one question may touch: of one tenant, within reach, of the classes that policy lets be seen."""

    tenant: str
    classes: frozenset[RecordClass]
    reach: Reach
    statuses: frozenset[Status] = ACTIVE_ONLY
    as_of_valid_ms: int | None = None
    """`None` is now."""
    as_of_recorded_ms: int | None = None

    def admits(self, version: Version) -> bool:
        """Whether it may be seen in this view, whatever the time."""
        return (
            version.tenant == self.tenant
            and version.status in self.statuses
            and version.record_class in self.classes
            and self.reach.has(version.scope, version.owner)
        )

    def holds(self, version: Version, now_ms: int) -> bool:
        """Whether the version holds at the view's two times."""
        valid = now_ms if self.as_of_valid_ms is None else self.as_of_valid_ms
        recorded = now_ms if self.as_of_recorded_ms is None else self.as_of_recorded_ms
        return within(valid, version.valid_from_ms, version.valid_to_ms) and within(
            recorded, version.recorded_at_ms, version.superseded_at_ms
        )


def within(moment: int, start: int, end: int | None) -> bool:
    """Whether a moment lies in a half-open span."""
    return start <= moment and (end is None or moment < end)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A vector (float32, little-endian) and the name of the embedder that made it."""

    model: str
    vector: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search: `row` is the store's number of a version (`MemoryStore.fetch`); more is better."""

    row: int
    score: float


@dataclass(frozen=True, slots=True)
class Page:
    """Some versions, and where the next ones start; `after` is empty on the last page."""

    versions: tuple[Version, ...]
    after: str = ""


@dataclass(frozen=True, slots=True)
class SourceMatch:
    """Which writes are meant: those whose source agrees in everything that is not empty. All empty matches nothing."""

    type: SourceType | None = None
    ref: str = ""
    author_agent: str = ""
    on_behalf_of: str = ""
    session: str = ""
    call_id: str = ""
    model: str = ""

    @property
    def wanted(self) -> Mapping[str, str]:
        """The members that must agree."""
        names = ("type", "ref", "author_agent", "on_behalf_of", "session", "call_id", "model")
        return {name: str(getattr(self, name)) for name in names if getattr(self, name)}

    def matches(self, source: Source) -> bool:
        """Whether this is one of them."""
        wanted = self.wanted
        return bool(wanted) and all(getattr(source, name) == value for name, value in wanted.items())


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback did, by record id."""

    restored: tuple[str, ...] = ()
    """These say again what they said before."""
    retracted: tuple[str, ...] = ()
    """These said nothing before."""
    quarantined: tuple[str, ...] = ()
    """These were derived from what was rolled back."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did, by record id."""

    records: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    """Kept for a legal hold."""
    namespaces: tuple[str, ...] = ()
    """Where they were: an index that keeps files is to be purged there."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold on a record, or on a namespace with all that is in it. It is kept until it is lifted."""

    target: str
    by: Entity
    reason: str
    since_ms: int
