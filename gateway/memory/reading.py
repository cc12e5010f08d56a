"""What is handed out: recalled, listed, exported or read by name. All of it taints the session that gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway import codec
from gateway.errors import InvalidCall
from gateway.memory.arguments import Export, Get, ListRecords, Recall
from gateway.memory.exchange import manifest_of, to_line
from gateway.memory.fusion import Found
from gateway.memory.markdown import file_name, to_markdown
from gateway.memory.provenance import read_one
from gateway.memory.recall import Asking, Recalling, Times, anything, conflicts, in_scratch
from gateway.memory.records import ACTIVE_ONLY, Kind, RecordClass, Status, Version, View
from gateway.memory.sessions import Session, Sessions
from gateway.memory.wording import in_full, moment_ms, shown
from gateway.types import Result

MAX_EXPORT: Final = 64 * 1024 * 1024
ALL: Final = frozenset(Status) - {Status.ERASED}

Note = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True, slots=True)
class Reading:
    """Answers questions, and remembers in the session what it answered."""

    recalling: Recalling
    sessions: Sessions

    async def recall(self, asking: Asking, session: Session, given: Recall, note: Note) -> Result:
        """The best records for a query, with why they are here and what speaks against them."""
        times, wanted = _times(given), _wanted(given)
        view = await self.recalling.view(asking, wanted=wanted, times=times)
        found = list(await self.recalling.best(view, given.query, given.limit, min_trust=float(given.min_trust)))
        if times == Times():
            scratch = await self._scratch(asking, session, wanted)
            found += [one for one in in_scratch(given.query, scratch) if one.version.trust >= given.min_trust]
            found = sorted(found, key=lambda one: -one.score)[: given.limit]
        against = conflicts([one.version for one in found])
        records = [{**_found(one), "contradicts": list(against.get(one.version.id, ()))} for one in found]
        note({"records": [one.version.id for one in found], "classes": len(view.classes)})
        return self._taken(session, {"records": records}, [one.version for one in found])

    async def listed(self, asking: Asking, session: Session, given: ListRecords) -> Result:
        """A page of what there is, newest first; the scratchpad stands on the first one."""
        times, wanted = _times(given), _wanted(given)
        view = await self.recalling.view(asking, wanted=wanted, times=times)
        scratch = [] if given.after or times != Times() else await self._scratch(asking, session, wanted)
        page = await self.recalling.store.page(view, namespace=given.namespace, after=given.after, limit=given.limit)
        versions = [*scratch, *page.versions]
        told = {"records": [shown(one) for one in versions], "after": page.after}
        return self._taken(session, told, versions)

    async def export(self, asking: Asking, given: Export, now_ms: int) -> Result:
        """All versions that the caller may read, as a file with its manifest, or as documents for people."""
        view = await self.recalling.view(asking, wanted=_wanted(given), whole=given.whole, statuses=_statuses(given))
        versions, size = list[Version](), 0
        async for version in self.recalling.store.everything(view):
            versions.append(version)
            size += len(version.text) + 1_000
            if size > MAX_EXPORT:
                raise InvalidCall("export: that is more than one answer holds: export namespace by namespace")
        if not given.whole:  # the past of what was forgotten or waits is in no answer
            present = {one.record for one in versions if one.superseded_at_ms is None}
            versions = [one for one in versions if one.record in present]
        manifest = manifest_of(asking.caller.tenant, versions, now_ms=now_ms)
        told: dict[str, object] = {"manifest": manifest.as_json().decode(), "versions": len(versions)}
        if given.format == "markdown":
            told["documents"] = {file_name(one): to_markdown(one) for one in versions}
        else:
            told["lines"] = b"".join(map(to_line, versions)).decode()
        return Result(codec.dumps(told), labels=_labels(versions))

    async def by_name(self, asking: Asking, session: Session, given: Get) -> Version | None:
        """The record of an id, or of a namespace and a key: of several scopes the narrowest."""
        if bool(given.id) == bool(given.namespace or given.key):
            raise InvalidCall("get: name an id, or a namespace and a key")
        if given.id:
            return await self.one(asking, session, given.id)
        scratch = await self._scratch(asking, session, anything)
        jotted = [one for one in scratch if (one.namespace, one.key) == (given.namespace, given.key)]
        if jotted:
            return jotted[0]
        view = await self.recalling.view(asking, wanted=lambda one: one.namespace == given.namespace)
        found = await self.recalling.store.by_key(view, given.namespace, given.key)
        return found[0] if found else None

    async def one(self, asking: Asking, session: Session, name: str, *, whole: bool = False) -> Version | None:
        """The record of an id, if policy lets the caller read it."""
        record = name.partition("@")[0]
        for jotted in await self._scratch(asking, session, anything):
            if jotted.record == record:
                return jotted
        return await read_one(self.recalling.store, await self.view_of_one(asking, whole), name)

    async def view_of_one(self, asking: Asking, whole: bool) -> View:
        """What may be read by name, whatever the class."""
        return await self.recalling.view(asking, whole=whole, statuses=ALL if whole else ACTIVE_ONLY)

    def handed_out(self, session: Session, name: str, versions: Sequence[Version]) -> Result:
        """Versions in full."""
        return self._taken(session, {name: [in_full(one) for one in versions]}, versions)

    async def _scratch(
        self, asking: Asking, session: Session, wanted: Callable[[RecordClass], bool]
    ) -> Sequence[Version]:
        """What is on the scratchpad, as far as policy still lets it be read."""
        jotted = [one for one in self.sessions.scratch(session) if wanted(one.record_class)]
        seen = set(await self.recalling.shown(asking, sorted({one.record_class for one in jotted})))
        return [one for one in jotted if one.record_class in seen]

    def _taken(self, session: Session, told: Mapping[str, object], versions: Sequence[Version]) -> Result:
        self.sessions.recalled(session, [one for one in reversed(versions) if one.kind is not Kind.SCRATCH])
        return Result(codec.dumps(told), labels=_labels(versions))


def _found(found: Found) -> dict[str, object]:
    ranks = {"words": found.by_words, "meaning": found.by_meaning}
    return {**shown(found.version), "score": round(found.score, 6), "ranks": ranks}


def _labels(versions: Iterable[Version]) -> tuple[str, ...]:
    return tuple(sorted({label for one in versions for label in one.labels}))


def _times(given: Recall | ListRecords) -> Times:
    return Times(moment_ms(given.as_of, "as_of"), moment_ms(given.as_recorded, "as_recorded"))


def _statuses(given: Export) -> frozenset[Status]:
    return ALL if given.whole else ACTIVE_ONLY


def _wanted(given: Recall | ListRecords | Export) -> Callable[[RecordClass], bool]:
    asked = {name: str(value) for name in ("namespace", "scope", "kind") if (value := getattr(given, name, None))}
    return lambda one: all(str(getattr(one, name)) == value for name, value in asked.items())


def names(node: Mapping[str, object], member: str) -> tuple[str, ...]:
    """All that a tree has in a member, from its root to its leaves."""
    own, parents = node.get(member), node.get("from")
    found = set(own) if isinstance(own, list) else set()
    for parent in parents if isinstance(parents, list) else ():
        found.update(names(parent, member))
    return tuple(sorted(found))
