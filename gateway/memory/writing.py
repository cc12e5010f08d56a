"""The rules of writing: what a call would have remembered, and everything about it that policy is to judge.

A record is as labelled as its session, derives from what the session recalled, and has the source of what it repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.memory.arguments import Remember, Revise
from gateway.memory.poisoning import Claim, doubts_of
from gateway.memory.ports import MemoryReader
from gateway.memory.provenance import Caller, source_of
from gateway.memory.recall import WHOLE, Terms
from gateway.memory.records import Draft, Kind, Scope, Source, SourceType, Status, Version, View
from gateway.memory.reviewing import refused
from gateway.memory.similarity import NEAR, TOUCHES, contradicts, repeats, words
from gateway.memory.trust import MARK, trust_of
from gateway.memory.wording import moment_ms
from gateway.types import Call, Resource

QUARANTINE: Final = "quarantine"
"""A rule that labels a write so has people look at it first; the label itself goes onto nothing."""
MAX_PARENTS: Final = 64
MAX_LABELS: Final = 64
_NEIGHBOURS: Final = 24
_ASKED: Final = 600
_PRESENT: Final = frozenset({Status.ACTIVE, Status.QUARANTINED})
_KNOWN: Final = _PRESENT | {Status.RETRACTED}


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a write would do."""

    draft: Draft
    resource: Resource
    """As policy is asked about it."""
    doubts: tuple[str, ...] = ()
    copy_of: Version | None = None
    """The record that says exactly this already, in the same place."""
    against: tuple[Version, ...] = ()
    """What the caller may read that says something else."""
    replaces: Version | None = None

    def waiting(self, why: str) -> Draft:
        """The record, for people to look at first."""
        return replace(self.draft, status=Status.QUARANTINED, note=why)

    def aside(self, old: Version, why: str) -> Draft:
        """A revision as a record of its own, until people have looked at it."""
        return replace(self.waiting(why), key="", derived_from=(old.id, *self.draft.derived_from)[:MAX_PARENTS])

    def scratch(self, tenant: str, record: str, now_ms: int) -> Version:
        """The same as something that is in no store."""
        draft = self.draft
        return Version(
            id=f"{record}@1",
            record=record,
            number=1,
            tenant=tenant,
            namespace=draft.namespace,
            key=draft.key or record,
            text=draft.text,
            content_hash="",
            scope=draft.scope,
            owner=draft.owner,
            kind=draft.kind,
            labels=draft.labels,
            residency=draft.residency,
            source=draft.source,
            changed_by=draft.source,
            status=Status.ACTIVE,
            trust=draft.trust,
            valid_from_ms=now_ms,
            valid_to_ms=None,
            recorded_at_ms=now_ms,
            superseded_at_ms=None,
            derived_from=draft.derived_from,
            subjects=draft.subjects,
        )


@dataclass(frozen=True, slots=True)
class Circumstances:
    """A write, with what its session has read."""

    call: Call
    caller: Caller
    labels: Sequence[str]
    recalled: Sequence[Version]
    named: Sequence[Version] = ()
    """What the caller says that it was made from, as far as they may read it."""
    replaces: Version | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record goes."""

    namespace: str
    key: str
    scope: Scope
    owner: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Standing:
    """What others say of the same: copies of it, and who of them is independent."""

    near: Sequence[Version]
    copied: Sequence[Version]
    sources: int


@dataclass(frozen=True, slots=True)
class Writing:
    """Words proposals."""

    reader: MemoryReader
    terms: Terms
    clock_ms: Callable[[], int]

    async def proposed(self, given: Remember | Revise, about: Circumstances) -> Proposal:
        """What would be written. Raises `InvalidCall` for a place that is not the caller's."""
        place = _place(given, about)
        labels = _labels(given, about)
        source = source_of(about.call, about.caller, given.source, labels)
        standing = await self._standing(given.text, place, source, about)
        source, labels = _inherited(source, labels, standing)
        if source.type is SourceType.TOOL:
            labels = sorted({*labels, MARK})
        if len(labels) > MAX_LABELS:  # to leave one out would be to wash the text
            words = f"a record has at most {MAX_LABELS} labels; with those of its session and its origins it would have"
            raise refused("too_many_labels", f"{words} {len(labels)}", "write in a session that has read less")
        trust = trust_of(source.type, sources=standing.sources, parents=_parents(given.text, about, standing))
        draft = self._draft(given, place, about, source, tuple(labels), trust)
        copied = [one.id for one in standing.copied if about.caller.reach.has(one.scope, one.owner)]
        draft = replace(draft, derived_from=tuple(dict.fromkeys([*copied, *draft.derived_from]))[:MAX_PARENTS])
        return self._weighed(draft, standing, about)

    def _draft(
        self,
        given: Remember | Revise,
        place: _Place,
        about: Circumstances,
        source: Source,
        labels: tuple[str, ...],
        trust: float,
    ) -> Draft:
        own = {about.caller.subject} if place.scope in {Scope.SESSION, Scope.AGENT} else set()
        expires_s = given.expires_s if isinstance(given, Remember) else 0
        return Draft(
            namespace=place.namespace,
            text=given.text,
            scope=place.scope,
            kind=place.kind,
            source=source,
            key=place.key,
            owner=place.owner,
            labels=labels,
            residency=self.terms.residency.get(place.namespace, ""),
            subjects=tuple(sorted({*given.subjects, *own, *(about.replaces.subjects if about.replaces else ())})),
            derived_from=_derived_from(about),
            trust=trust,
            valid_from_ms=moment_ms(given.valid_from, "valid_from"),
            valid_to_ms=moment_ms(given.valid_to, "valid_to"),
            retain_until_ms=self.clock_ms() + 1000 * expires_s if expires_s else None,
        )

    async def _standing(self, text: str, place: _Place, source: Source, about: Circumstances) -> _Standing:
        near = await self._neighbours(text, place.namespace, about)
        same = [one for one in _unique([*about.recalled, *about.named, *near]) if _same(text, one.text)]
        apart = [one for one in same if _independent(one, source, about) and await self._own_words(one, source, about)]
        copied = [one for one in same if one not in apart and one != about.replaces]
        return _Standing(near, copied, 1 + len({(one.source.on_behalf_of, one.source.author_agent) for one in apart}))

    async def _own_words(self, one: Version, source: Source, about: Circumstances) -> bool:
        """Whether it was copied from nobody whom it is to confirm. An origin that is no more might have been one."""
        tenant = about.caller.tenant
        view = View(tenant, frozenset(await self.reader.classes(tenant, WHOLE)), WHOLE, _KNOWN)
        left = list(one.derived_from)
        for name in left:  # grows as copies of copies are found
            parent = await self.reader.get(view, name) if len(left) <= 2 * MAX_PARENTS else None
            if parent is None:
                return False
            if _same(one.text, parent.text):
                if not _independent(parent, source, about):
                    return False
                left += [above for above in parent.derived_from if above not in left]
        return True

    async def _neighbours(self, text: str, namespace: str, about: Circumstances) -> Sequence[Version]:
        """What the tenant has about the same, whoever's it is: nobody is told what is in it."""
        tenant = about.caller.tenant
        known = await self.reader.classes(tenant, WHOLE, _PRESENT)
        view = View(tenant, frozenset(one for one in known if one.namespace == namespace), WHOLE, _PRESENT)
        if not view.classes:
            return ()
        hits = await self.reader.lexical(view, text[:_ASKED], _NEIGHBOURS)
        found = await self.reader.fetch(view, [hit.row for hit in hits])
        return [one for one in found.values() if about.replaces is None or one.record != about.replaces.record]

    def _weighed(self, draft: Draft, standing: _Standing, about: Circumstances) -> Proposal:
        claim = Claim(draft.text, draft.source.type, draft.scope, draft.kind, draft.trust, standing.sources)
        rivals = [one for one in standing.near if one.status is Status.ACTIVE and _meets(one, draft, about)]
        doubts = doubts_of(claim, rivals, replaces=about.replaces)
        if draft.kind is Kind.SCRATCH:
            doubts = ()  # nobody but this session ever reads it
        against = tuple(one for one in rivals if _readable(one, about) and contradicts(draft.text, one.text))
        copies = [one for one in standing.near if _copy(one, draft)] if about.replaces is None else []
        facts = self._facts(draft, doubts, standing.sources, about, bool(against))
        resource = self.terms.resource(_name(draft, about), facts, draft.labels)
        return Proposal(draft, resource, doubts, copies[0] if copies else None, against, about.replaces)

    def _facts(
        self, draft: Draft, doubts: Sequence[str], sources: int, about: Circumstances, against: bool
    ) -> Mapping[str, object]:
        return {
            "namespace": draft.namespace,
            "scope": str(draft.scope),
            "kind": str(draft.kind),
            "residency": draft.residency,
            "key": draft.key,
            "source": str(draft.source.type),
            "ref": draft.source.ref,
            "person": about.caller.person,
            "sources": sources,
            "derived": len(draft.derived_from),
            "trust": round(100 * draft.trust),
            "findings": sorted(doubts),
            "quarantine": bool(doubts),
            "contradicts": against,
            "of": of_facts(about.replaces),
        }


def of_facts(version: Version | None) -> Mapping[str, object]:
    """What is known of a record that is to be changed."""
    if version is None:
        return {}
    return {
        "source": str(version.source.type),
        "trust": round(100 * version.trust),
        "subject": version.source.on_behalf_of,
    }


def _name(draft: Draft, about: Circumstances) -> str:
    key = about.replaces.key if about.replaces else draft.key
    return f"{draft.namespace}/{key or '*'}"


def _place(given: Remember | Revise, about: Circumstances) -> _Place:
    old = about.replaces
    if isinstance(given, Remember):
        kind, scope = Kind(given.kind), Scope(given.scope)
        scope = Scope.SESSION if kind is Kind.SCRATCH else scope
        return _Place(given.namespace, given.key, scope, about.caller.owner(scope, given.team), kind)
    assert old is not None  # a revision is of something
    return _Place(old.namespace, old.key, old.scope, old.owner, old.kind)


def _labels(given: Remember | Revise, about: Circumstances) -> list[str]:
    old = about.replaces.labels if about.replaces else ()
    named = [label for one in about.named for label in one.labels]
    return sorted({*about.labels, *given.labels, *old, *named} - {QUARANTINE})


def _inherited(source: Source, labels: list[str], standing: _Standing) -> tuple[Source, list[str]]:
    """What repeats a record has its source, unless a person says it: then they answer for it."""
    every = sorted({*labels, *(label for one in standing.copied for label in one.labels)} - {QUARANTINE})
    if not standing.copied or source.type is SourceType.USER:
        return source, every
    first = min(standing.copied, key=lambda one: (one.trust, one.recorded_at_ms))
    if trust_of(first.source.type) > trust_of(source.type):
        return source, every
    # Who writes it stays: whoever words another's text anew answers for that, and is found by a rollback.
    return replace(source, type=first.source.type, ref=first.source.ref, model=first.source.model), every


def _parents(text: str, about: Circumstances, standing: _Standing) -> list[Version]:
    """What the text is made of, as far as words show it; what only was in sight does not count."""
    touched = [one for one in about.recalled if repeats(text, one.text) >= TOUCHES]
    return [*about.named, *touched, *standing.copied]


def _derived_from(about: Circumstances) -> tuple[str, ...]:
    names = [one.id for one in (*about.named, *reversed(about.recalled)) if one.kind is not Kind.SCRATCH]
    if about.replaces:
        names = [name for name in names if name.partition("@")[0] != about.replaces.record]
    return tuple(dict.fromkeys(names))[:MAX_PARENTS]


def _same(text: str, other: str) -> bool:
    return repeats(text, other) >= NEAR and not contradicts(text, other)


def _copy(one: Version, draft: Draft) -> bool:
    place = (one.namespace, one.scope, one.owner, one.kind) == (draft.namespace, draft.scope, draft.owner, draft.kind)
    key = draft.key in {"", one.key}
    return place and key and words(one.text) == words(draft.text) and set(draft.labels) <= set(one.labels)


def _meets(one: Version, draft: Draft, about: Circumstances) -> bool:
    """Whether there are readers who get both. What others keep for themselves is not to be guessed by it."""
    of_the_caller = about.caller.reach.has(one.scope, one.owner)
    return one.scope is Scope.ORG or (of_the_caller and (draft.scope is Scope.ORG or one.owner == draft.owner))


def _readable(one: Version, about: Circumstances) -> bool:
    return one.status is Status.ACTIVE and about.caller.reach.has(one.scope, one.owner)


def _independent(one: Version, source: Source, about: Circumstances) -> bool:
    """Whether that record is another's own knowledge: neither of the same hand, nor something they could have read."""
    theirs = one.source
    same_hand = (
        theirs.on_behalf_of == source.on_behalf_of
        or theirs.author_agent == source.author_agent
        or theirs.session == source.session
    )
    same_place = source.type is SourceType.TOOL and theirs.type is SourceType.TOOL and theirs.ref == source.ref
    known = one.id in {seen.id for seen in about.recalled}
    return not (same_hand or same_place or known or _readable(one, about))


def _unique(versions: Iterable[Version]) -> list[Version]:
    return list({one.id: one for one in versions}.values())
