"""The queue of what people look at before anybody reads it, and what they say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway import codec
from gateway.errors import PolicyDenied, UnknownResource
from gateway.memory.arguments import Review, Verdict
from gateway.memory.provenance import acting
from gateway.memory.recall import Asking, Recalling
from gateway.memory.records import ACTIVE_ONLY, Draft, Status, Version, View
from gateway.memory.wording import in_full
from gateway.types import Reason, Result

_MERGES: Final = "revises:"
_REVIEWS: Final = "people review records themselves"
_WAITING: Final = frozenset({Status.QUARANTINED})


def merged_into(old: Version) -> str:
    """The beginning of the note of a revision that waits."""
    return f"{_MERGES}{old.record}"


@dataclass(frozen=True, slots=True)
class Reviewing:
    """For people, and never for whoever wrote it."""

    recalling: Recalling

    async def queue(self, asking: Asking, given: Review) -> Result:
        """What waits, newest first. The texts are not to be trusted: this taints no session, since no agent asks."""
        check_person(asking, _REVIEWS)
        view = await self._view(asking, given.namespace)
        page = await self.recalling.store.page(view, namespace=given.namespace, after=given.after, limit=given.limit)
        told = {"records": [in_full(one) for one in page.versions], "after": page.after}
        labels = tuple(sorted({label for one in page.versions for label in one.labels}))
        return Result(codec.dumps(told), labels=labels)

    async def waiting(self, asking: Asking, name: str) -> Version | None:
        """One of them."""
        return await self.recalling.store.get(await self._view(asking), name.partition("@")[0])

    async def approved(self, asking: Asking, given: Verdict) -> Version:
        """Let it be read: it counts from now on. A revision takes the place of what it revises."""
        version = await self._judged(asking, given)
        by, tenant = acting(asking.call, asking.caller), asking.caller.tenant
        note = given.reason or f"approved by {asking.caller.subject}"
        if not version.note.startswith(_MERGES):
            return await self.recalling.store.set_status(
                tenant, version.record, Status.ACTIVE, by, note=note, expect=version.id
            )
        target = version.note.removeprefix(_MERGES).partition(" ")[0]
        old = await self.recalling.store.get(await self._view(asking, statuses=ACTIVE_ONLY), target)
        if old is None:
            raise UnknownResource("what it revises does not exist any more, or is not visible to you: reject it")
        merged = await self.recalling.store.supersede(tenant, target, _revision(version, old), expect=old.id)
        done = f"became {merged.id}"
        await self.recalling.store.set_status(tenant, version.record, Status.RETRACTED, by, note=done)
        return merged

    async def rejected(self, asking: Asking, given: Verdict) -> Version:
        """Keep it out for good; it stays in the history."""
        version = await self._judged(asking, given)
        by = acting(asking.call, asking.caller)
        note = given.reason or f"rejected by {asking.caller.subject}"
        store, tenant = self.recalling.store, asking.caller.tenant
        return await store.set_status(tenant, version.record, Status.RETRACTED, by, note=note, expect=version.id)

    async def _judged(self, asking: Asking, given: Verdict) -> Version:
        check_person(asking, _REVIEWS)
        version = await self.waiting(asking, given.id)
        if version is None:
            raise UnknownResource("nothing of that id waits for a review")
        if asking.caller.subject in {version.source.on_behalf_of, version.changed_by.on_behalf_of}:
            raise refused("own_record", "nobody reviews what was written by them or for them")
        return version

    async def _view(self, asking: Asking, namespace: str = "", *, statuses: frozenset[Status] = _WAITING) -> View:
        return await self.recalling.view(
            asking, wanted=lambda one: namespace in {"", one.namespace}, whole=True, statuses=statuses
        )


def _revision(version: Version, old: Version) -> Draft:
    return Draft(
        namespace=old.namespace,
        text=version.text,
        scope=old.scope,
        kind=old.kind,
        source=version.source,
        key=old.key,
        owner=old.owner,
        labels=tuple(sorted({*version.labels, *old.labels})),
        residency=old.residency,
        subjects=tuple(sorted({*version.subjects, *old.subjects})),
        derived_from=version.derived_from,
        trust=version.trust,
        valid_from_ms=None,
        valid_to_ms=version.valid_to_ms,
        retain_until_ms=version.retain_until_ms,
    )


def check_person(asking: Asking, words: str) -> None:
    """Raises `PolicyDenied` with these words for whoever is no person."""
    if not asking.caller.person:
        raise refused("needs_a_person", f"{words}, with keys of their own, over HTTP")


def refused(code: str, message: str, remedy: str = "") -> PolicyDenied:
    """The refusal of a rule that no policy takes away."""
    reason = Reason(code, message, rule="gateway.memory", public=True, remedy=remedy)
    return PolicyDenied(message, reasons=(reason,))
