"""What those who run the memory do with it: roll back, erase, take exports in, keep for the law."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.errors import InvalidCall
from gateway.memory.arguments import Rollback
from gateway.memory.exchange import from_line, split_lines
from gateway.memory.ports import MemoryStore, VectorIndex
from gateway.memory.provenance import acting
from gateway.memory.recall import WHOLE, Asking
from gateway.memory.records import Erased, Source, SourceMatch, SourceType, Status, View
from gateway.memory.sessions import Sessions
from gateway.memory.wording import moment_ms, moment_text
from gateway.types import Entity

BY_CONFIGURATION: Final = Entity("configuration", "memory.toml")


@dataclass(frozen=True, slots=True)
class Keeping:
    """Each leaves no more than is meant to be left: in the file, in the index, and in what sessions recalled."""

    store: MemoryStore
    index: VectorIndex
    sessions: Sessions
    clock_ms: Callable[[], int]
    legal_holds: frozenset[str] = frozenset()

    async def rollback(self, asking: Asking, given: Rollback) -> Mapping[str, Sequence[str]]:
        """Undo what such a source wrote since a moment."""
        match = SourceMatch(
            type=SourceType(given.type) if given.type else None,
            ref=given.ref,
            author_agent=given.agent,
            on_behalf_of=given.subject,
            session=given.session,
            call_id=given.call,
            model=given.model,
        )
        if not match.wanted:
            raise InvalidCall("rollback: say whose writes: type, ref, agent, subject, session, call or model")
        since_ms, tenant = moment_ms(given.since, "since"), asking.caller.tenant
        done = await self.store.rollback(tenant, match, since_ms or 0, acting(asking.call, asking.caller))
        self.sessions.forget(tenant, [*done.restored, *done.retracted, *done.quarantined])
        return {
            "restored": list(done.restored),
            "retracted": list(done.retracted),
            "quarantined": list(done.quarantined),
        }

    async def erase_subject(self, asking: Asking, subject: str) -> Mapping[str, Sequence[str]]:
        """Erase what is about somebody, or theirs, but for what the law keeps."""
        tenant = asking.caller.tenant
        await self.apply_holds(tenant)
        # Only the call: a gravestone that named whoever asked might name the subject.
        by = Source(SourceType.SYSTEM, ref="erasure", call_id=asking.call.id)
        erased = await self.store.erase_subject(tenant, subject, by)
        self.sessions.forget_subject(tenant, subject)
        await self._gone(tenant, erased)
        return {"erased": list(erased.records), "held": list(erased.held)}

    async def erase_records(self, tenant: str, records: Sequence[str], by: Source) -> Erased:
        """Erase these, and what was derived from them."""
        await self.apply_holds(tenant)
        erased = await self.store.erase_records(
            tenant, records, Source(SourceType.SYSTEM, ref="erasure", call_id=by.call_id)
        )
        await self._gone(tenant, erased)
        return erased

    async def sweep(self, tenant: str, limits_ms: Mapping[str, int]) -> Erased:
        """Erase what is kept no longer."""
        await self.apply_holds(tenant)
        erased = await self.store.sweep(tenant, limits_ms)
        self.sessions.forget(tenant, erased.records)
        await self.index.purge(tenant)  # also of what an erasure left that was interrupted
        return erased

    async def is_all_of(self, tenant: str, record: str, subject: str) -> bool:
        """Whether all that was derived from a record is of one subject."""
        view = View(tenant, frozenset(await self.store.classes(tenant, WHOLE)), WHOLE, frozenset(Status))
        left = [record]
        for name in left:  # grows as more is found
            for child in await self.store.children(view, name):
                if child.source.on_behalf_of != subject and child.status is not Status.ERASED:
                    return False
                left += [child.record] if child.record not in left else []
        return True

    async def apply_holds(self, tenant: str) -> None:
        """Have the store keep what configuration keeps, and no longer what it does not."""
        wanted = {f"{namespace}/" for namespace in self.legal_holds}
        known = {hold.target: hold for hold in await self.store.holds(tenant)}
        for target in sorted(wanted - known.keys()):
            await self.store.set_hold(tenant, target, BY_CONFIGURATION, "legal_hold in memory.toml")
        for target, hold in known.items():
            if hold.by == BY_CONFIGURATION and target not in wanted:
                await self.store.lift_hold(tenant, target)

    async def holds(self, tenant: str) -> Sequence[Mapping[str, object]]:
        """What is kept, and why."""
        await self.apply_holds(tenant)
        return [
            {"target": one.target, "by": one.by.id, "reason": one.reason, "since": moment_text(one.since_ms)}
            for one in await self.store.holds(tenant)
        ]

    async def load(self, tenant: str, lines: str) -> Mapping[str, int]:
        """Take the lines of an export in, as they were, all or none. It becomes the caller's tenant's."""
        versions = [replace(from_line(line), tenant=tenant) for line in split_lines(lines.encode())]
        return {"versions": len(versions), "new": await self.store.load(tenant, versions)}

    async def _gone(self, tenant: str, erased: Erased) -> None:
        self.sessions.forget(tenant, erased.records)
        await self.index.purge(tenant)  # also when nothing is new: the last time the index may not have been reached
