"""A memory without a file: the port's rules in a list, for tests of whatever is built on it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from struct import unpack

from gateway.errors import InvalidCall, UnknownResource
from gateway.memory.ports import MemoryConflict, MemoryStore, VectorIndex
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
    Scope,
    Source,
    SourceMatch,
    SourceType,
    Status,
    Version,
    View,
)
from gateway.types import Entity

LIVE = (Status.ACTIVE, Status.QUARANTINED)
BLANK = Source(SourceType.SYSTEM)


class FakeMemory:
    """`MemoryStore` in a list, in which a version's row is its place. Its vectors are what `FakeIndex` searches."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self.versions: list[Version] = []
        self.vectors: dict[tuple[str, str], Embedded] = {}
        """By tenant and text."""
        self.kept: dict[tuple[str, str], Hold] = {}
        self._clock, self._ids, self._last = clock_ms, count(1), 0

    async def aclose(self) -> None:
        """Nothing is open."""

    def now(self, after: int = 0) -> int:
        self._last = max(self._last, self._clock(), after)
        return self._last

    async def classes(
        self, tenant: str, reach: Reach, statuses: frozenset[Status] | None = None
    ) -> Sequence[RecordClass]:
        wanted = frozenset(Status) - {Status.ERASED} if statuses is None else statuses
        mine = [one for one in self.versions if one.tenant == tenant and one.status in wanted]
        return sorted({one.record_class for one in mine if reach.has(one.scope, one.owner)})

    def admitted(self, view: View) -> dict[int, Version]:
        return {row: one for row, one in enumerate(self.versions, 1) if view.admits(one)}

    def shown(self, view: View) -> dict[int, Version]:
        now = max(self._clock(), self._last)
        timeless = view.as_of_recorded_ms is None
        view = replace(view, as_of_recorded_ms=2**62) if timeless else view
        return {row: one for row, one in self.admitted(view).items() if view.holds(one, now)}

    async def get(self, view: View, record: str) -> Version | None:
        if "@" in record:
            return next((one for one in self.admitted(view).values() if one.id == record), None)
        return next((one for one in self.shown(view).values() if one.record == record), None)

    async def by_key(self, view: View, namespace: str, key: str) -> Sequence[Version]:
        found = [one for one in self.shown(view).values() if (one.namespace, one.key) == (namespace, key)]
        return sorted(found, key=lambda one: list(Scope).index(one.scope))

    async def history(self, view: View, record: str) -> Sequence[Version]:
        name = record.partition("@")[0]
        found = [one for one in self.admitted(view).values() if one.record == name]
        return sorted(found, key=lambda one: one.number)

    async def children(self, view: View, record: str) -> Sequence[Version]:
        name = record.partition("@")[0]
        wanted = {record, name} if "@" in record else None
        return [
            one
            for one in self.admitted(view).values()
            if any(up in wanted if wanted else up.partition("@")[0] == name for up in one.derived_from)
        ]

    async def page(self, view: View, *, namespace: str = "", after: str = "", limit: int = 50) -> Page:
        shown = {row: one for row, one in self.shown(view).items() if namespace in {"", one.namespace}}
        rows = [row for row in sorted(shown, reverse=True) if not after or row < int(after)]
        last = str(rows[limit - 1]) if len(rows) > limit else ""
        return Page(tuple(shown[row] for row in rows[:limit]), last)

    async def everything(self, view: View) -> AsyncIterator[Version]:
        for version in list(self.admitted(view).values()):
            yield version

    async def lexical(self, view: View, query: str, limit: int) -> Sequence[Hit]:
        words = set(query.casefold().split())
        scores = {row: len(words & set(one.text.casefold().split())) for row, one in self.shown(view).items()}
        best = sorted((row for row, score in scores.items() if score), key=lambda row: -scores[row])
        return [Hit(row, float(scores[row])) for row in best[:limit]]

    async def fetch(self, view: View, rows: Sequence[int]) -> Mapping[int, Version]:
        shown = self.shown(view)
        return {row: shown[row] for row in rows if row in shown}

    async def holds(self, tenant: str) -> Sequence[Hold]:
        return [hold for (of, _), hold in sorted(self.kept.items()) if of == tenant]

    async def add(self, tenant: str, draft: Draft, embedded: Embedded | None = None) -> Version:
        record = f"mem-{next(self._ids)}"
        self._check_key(tenant, record, draft)
        version = self._drafted(tenant, record, 1, draft, self.now(), embedded)
        self.versions.append(version)
        return version

    def _check_key(self, tenant: str, record: str, draft: Draft | Version) -> None:
        place = (tenant, draft.namespace, draft.key, draft.scope, draft.owner)
        for one in self.versions:
            taken = (one.tenant, one.namespace, one.key, one.scope, one.owner) == place and one.record != record
            if draft.key and taken and one.superseded_at_ms is None and one.status in LIVE:
                raise MemoryConflict("there is a record of that key: revise it, or take another key")

    def _drafted(
        self, tenant: str, record: str, number: int, draft: Draft, now: int, embedded: Embedded | None
    ) -> Version:
        start = now if draft.valid_from_ms is None else draft.valid_from_ms
        if draft.valid_to_ms is not None and draft.valid_to_ms <= start:
            raise InvalidCall("valid_to: must be after valid_from")
        if draft.status not in LIVE:
            raise InvalidCall(f"status: a text is written as active or quarantined, not as {draft.status}")
        if embedded is not None:
            self.vectors[tenant, draft.text] = embedded
        return Version(
            f"{record}@{number}", record, number, tenant, draft.namespace, draft.key or record, draft.text,
            hashlib.sha256(draft.text.encode()).hexdigest(), draft.scope, draft.owner, draft.kind,
            tuple(sorted(set(draft.labels))), draft.residency, draft.source, draft.source, draft.status, draft.trust,
            start, draft.valid_to_ms, now, None, "", draft.derived_from, tuple(sorted(set(draft.subjects))),
            draft.retain_until_ms, draft.signature, draft.note,
        )  # fmt: skip

    def _of(self, tenant: str, record: str) -> list[Version]:
        mine = [one for one in self.versions if (one.tenant, one.record) == (tenant, record)]
        return sorted(mine, key=lambda one: one.number)

    def _existing(self, tenant: str, record: str, expect: str) -> tuple[list[Version], int]:
        mine = self._of(tenant, record)
        current = said(mine)
        if not current:
            raise UnknownResource("there is no such record")
        if expect and expect not in {one.id for one in current}:
            raise MemoryConflict("the record has changed since: read it again")
        return mine, self.now(1 + max(one.recorded_at_ms for one in mine))

    def _change(self, old: Version, **changes: object) -> None:
        self.versions[self.versions.index(old)] = replace(old, **changes)  # type: ignore[arg-type]  # fields of it

    async def supersede(
        self, tenant: str, record: str, draft: Draft, embedded: Embedded | None = None, *, expect: str = ""
    ) -> Version:
        mine, now = self._existing(tenant, record, expect)
        draft = replace(draft, key=draft.key or said(mine)[-1].key)
        self._check_key(tenant, record, draft)
        number, last = mine[-1].number + 1, mine[-1]
        new = self._drafted(tenant, record, number, draft, now, embedded)
        start, end = new.valid_from_ms, 2**63 if new.valid_to_ms is None else new.valid_to_ms
        for old in [one for one in mine if one.superseded_at_ms is None]:
            old_end = 2**63 if old.valid_to_ms is None else old.valid_to_ms
            if old.valid_from_ms >= end or start >= old_end:
                continue
            last = old
            self._change(old, superseded_at_ms=now)
            spans = ((old.valid_from_ms, start), (end, old_end))
            for begin, until in spans:
                if begin < until:
                    number += 1
                    self._carry(old, number, now, draft.source, begin, None if until == 2**63 else until)
        self.versions.append(replace(new, supersedes=last.id))
        return self.versions[-1]

    def _carry(self, old: Version, number: int, now: int, by: Source, begin: int, until: int | None) -> None:
        carried = replace(old, id=f"{old.record}@{number}", number=number, recorded_at_ms=now, superseded_at_ms=None)
        carried = replace(carried, changed_by=by, supersedes=old.id, valid_from_ms=begin, valid_to_ms=until)
        self.versions.append(carried)

    async def set_status(
        self, tenant: str, record: str, status: Status, by: Source, *, note: str = "", expect: str = ""
    ) -> Version:
        if status is Status.ERASED:
            raise InvalidCall("status: erasing is an operation of its own")
        mine, _ = self._existing(tenant, record, expect)
        for one in said(mine):
            if status in LIVE and one.status not in LIVE:
                self._check_key(tenant, record, one)
        return self._restate(mine, [replace(one, status=status, note=note) for one in said(mine)], by)

    def _restate(self, mine: Sequence[Version], said: Iterable[Version], by: Source) -> Version:
        now, number = self.now(1 + max(one.recorded_at_ms for one in mine)), mine[-1].number
        for old in mine:
            if old.superseded_at_ms is None:
                self._change(old, superseded_at_ms=now)
        for one in sorted(said, key=lambda one: one.valid_from_ms):
            number += 1
            self._carry(one, number, now, by, one.valid_from_ms, one.valid_to_ms)
        return self.versions[-1]

    async def rollback(self, tenant: str, match: SourceMatch, since_ms: int, by: Source) -> RolledBack:
        if not match.wanted:
            raise InvalidCall("a rollback needs to know whose writes are meant")

        def bad(one: Version) -> bool:
            return one.recorded_at_ms >= since_ms and match.matches(one.source) and one.status in LIVE

        written = [one for one in self.versions if one.tenant == tenant and one.recorded_at_ms >= since_ms]
        records = list(dict.fromkeys(one.record for one in written if match.matches(one.source)))
        outcome = {}
        for record in records:
            mine = self._of(tenant, record)
            if any(bad(one) for one in mine if one.superseded_at_ms is None):
                outcome[record] = self._undo(mine, bad, by)
        spoiled = [one for one in self._derived(tenant, records) if one not in records]
        quarantined = tuple(one for one in spoiled if self._quarantine(tenant, one, by))
        good = tuple(record for record, restored in outcome.items() if restored)
        return RolledBack(good, tuple(record for record in outcome if record not in good), quarantined)

    def _undo(self, mine: Sequence[Version], bad: Callable[[Version], bool], by: Source) -> bool:
        for change in sorted({one.recorded_at_ms for one in mine}, reverse=True):
            then = [one for one in mine if one.recorded_at_ms <= change < (one.superseded_at_ms or 2**63)]
            if then and not any(map(bad, then)):
                good = [one for one in then if one.status is not Status.ERASED]
                if not good:
                    break
                self._restate(mine, [replace(one, note="restored by a rollback") for one in good], by)
                return True
        note = "retracted by a rollback"
        self._restate(mine, [replace(one, status=Status.RETRACTED, note=note) for one in said(mine)], by)
        return False

    def _quarantine(self, tenant: str, record: str, by: Source) -> bool:
        mine = self._of(tenant, record)
        if not any(one.status is Status.ACTIVE for one in said(mine)):
            return False
        note = "derived from what was rolled back"
        self._restate(mine, [replace(one, status=Status.QUARANTINED, note=note) for one in said(mine)], by)
        return True

    def _derived(self, tenant: str, records: Iterable[str]) -> list[str]:
        found = list(dict.fromkeys(records))
        for up in found:
            for one in self.versions:
                parents = {parent.partition("@")[0] for parent in one.derived_from}
                if one.tenant == tenant and up in parents and one.record not in found:
                    found.append(one.record)
        return found

    async def load(self, tenant: str, versions: Sequence[Version]) -> int:
        known, before = {one.id: one for one in self.versions if one.tenant == tenant}, len(self.versions)
        for version in versions:
            erased = version.status is Status.ERASED
            text_hash = "" if erased else hashlib.sha256(version.text.encode()).hexdigest()
            if version.tenant != tenant or version.content_hash != text_hash:
                raise InvalidCall(f"{version.id}: is not what it says")
            if known.get(version.id, version) != version:
                raise MemoryConflict(f"{version.id}: is here with other contents")
        self.versions += [version for version in versions if version.id not in known]
        return len(self.versions) - before

    async def set_hold(self, tenant: str, target: str, by: Entity, reason: str) -> None:
        self.kept[tenant, target] = Hold(target, by, reason, self.now())

    async def lift_hold(self, tenant: str, target: str) -> bool:
        return self.kept.pop((tenant, target), None) is not None

    async def erase_subject(self, tenant: str, subject: str, by: Source) -> Erased:
        mine = [one for one in self.versions if one.tenant == tenant and subject]
        about = [one.record for one in mine if subject in one.subjects or one.owner == subject]
        return self._erase(tenant, dict.fromkeys(self._derived(tenant, about)), by)

    async def erase_records(self, tenant: str, records: Sequence[str], by: Source) -> Erased:
        return self._erase(tenant, dict.fromkeys(self._derived(tenant, records)), by)

    async def sweep(self, tenant: str, limits_ms: Mapping[str, int]) -> Erased:
        now, over = self._clock(), dict[str, set[str]]()
        for one in self.versions:
            limit = limits_ms.get(one.namespace) or 2**62
            ends = min(one.recorded_at_ms + limit, one.retain_until_ms or 2**62)
            if one.tenant == tenant and one.status is not Status.ERASED and ends <= now:
                over.setdefault(one.record, set()).add(one.id)
        return self._erase(tenant, over, BLANK)

    def _erase(self, tenant: str, chosen: Mapping[str, set[str]] | Mapping[str, None], by: Source) -> Erased:
        erased, held, spaces = [], [], set()
        for record, ids in chosen.items():
            mine = [one for one in self._of(tenant, record) if one.status is not Status.ERASED]
            if any((tenant, target) in self.kept for target in (record, *(f"{one.namespace}/" for one in mine))):
                held.append(record)
            elif mine:
                erased.append(record)
                for one in mine:
                    spaces.add(one.namespace)
                    if ids is None or one.id in ids:
                        self._wipe(one, by)
        return Erased(tuple(erased), tuple(held), tuple(sorted(spaces)))

    def _wipe(self, one: Version, by: Source) -> None:
        self._change(
            one, key="", text="", content_hash="", owner="", labels=(), source=BLANK, changed_by=by, note="",
            status=Status.ERASED, derived_from=(), subjects=(), signature="",
        )  # fmt: skip

    async def without_vector(self, tenant: str, model: str, limit: int, after: int = 0) -> Sequence[tuple[int, str]]:
        found: dict[str, int] = {}
        for row, one in enumerate(self.versions, 1):
            known = self.vectors.get((tenant, one.text))
            if one.tenant == tenant and one.text and (known is None or known.model != model):
                found.setdefault(one.text, row)
        return [(row, text) for text, row in found.items() if row > after][:limit]

    async def put_vectors(self, tenant: str, model: str, vectors: Mapping[int, bytes]) -> None:
        for row, vector in vectors.items():
            if row <= len(self.versions) and self.versions[row - 1].tenant == tenant:
                self.vectors[tenant, self.versions[row - 1].text] = Embedded(model, vector)

    async def tenants(self) -> Sequence[str]:
        return list(dict.fromkeys(one.tenant for one in self.versions))


class FakeIndex:
    """`VectorIndex` over a `FakeMemory`."""

    def __init__(self, memory: FakeMemory, *, model: str) -> None:
        self._memory, self._model = memory, model

    async def nearest(self, view: View, vector: bytes, limit: int) -> Sequence[Hit]:
        hits = []
        for row, version in self._memory.shown(view).items():
            known = self._memory.vectors.get((view.tenant, version.text))
            if known is not None and known.model == self._model:
                hits.append(Hit(row, cosine(known.vector, vector)))
        return sorted(hits, key=lambda hit: (-hit.score, hit.row))[:limit]

    async def purge(self, tenant: str) -> None:
        """Nothing is kept."""

    async def aclose(self) -> None:
        """Nothing is open."""


def said(mine: Sequence[Version]) -> list[Version]:
    """What a record says now; what is erased says nothing."""
    return [one for one in mine if one.superseded_at_ms is None and one.status is not Status.ERASED]


def floats(vector: bytes) -> tuple[float, ...]:
    return unpack(f"<{len(vector) // 4}f", vector)


def cosine(one: bytes, other: bytes) -> float:
    a, b = floats(one), floats(other)
    length = float(sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
    return sum(x * y for x, y in zip(a, b, strict=True)) / (length or 1.0)


_store: type[MemoryStore] = FakeMemory
_index: type[VectorIndex] = FakeIndex
