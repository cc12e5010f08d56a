"""The operations of the memory: first what policy is to be asked about, then, with its permit, the operation itself."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

from gateway import codec
from gateway.embedding import Embedder, EmbeddingUnavailable
from gateway.errors import InvalidCall, UnknownResource
from gateway.memory import arguments as given_by
from gateway.memory.keeping import Keeping
from gateway.memory.ports import MemoryConflict, MemoryStore, VectorIndex
from gateway.memory.provenance import Caller, acting, caller_of, calls_in, tree_of
from gateway.memory.reading import Reading, names
from gateway.memory.recall import Asking, Policy, Recalling, Terms, class_facts
from gateway.memory.records import Embedded, Kind, Source, Status, Version
from gateway.memory.reviewing import Reviewing, check_person, merged_into, refused
from gateway.memory.sessions import Session, Sessions
from gateway.memory.trust import trust_of
from gateway.memory.wording import shown
from gateway.memory.writing import QUARANTINE, Circumstances, Proposal, Writing, of_facts
from gateway.ports import Relay
from gateway.types import Authorized, Call, Identity, Resource, Result

PREFIX: Final = "memory/"
ACTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("recall", "list", "export", "get", "why", "history", "review", "holds"), "memory.read"),
    **dict.fromkeys(("remember", "revise", "approve", "reject", "rollback", "import", "hold", "lift"), "memory.write"),
    **dict.fromkeys(("forget", "erase"), "memory.delete"),
}
"""Operation -> the action that it is. The call's method is `memory/OPERATION`."""
SCRATCH_S: Final = 3_600.0

Payload: TypeAlias = Mapping[str, object]


class Trail(Protocol):
    """Finds calls in the audit log."""

    async def entries(self, calls: Sequence[str]) -> Mapping[str, int]:
        """The sequence numbers of those that are found."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service is made of."""

    store: MemoryStore
    index: VectorIndex
    embedder: Embedder
    policy: Policy
    sessions: Sessions
    trail: Trail
    clock_ms: Callable[[], int]
    terms: Terms = Terms()  # noqa: RUF009  # frozen
    legal_holds: frozenset[str] = frozenset()
    """Namespaces that configuration keeps."""
    new_id: Callable[[], str] = lambda: f"scr-{secrets.token_hex(10)}"


class MemoryService:
    """Carries out memory for callers, each in their own tenant."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store, self._policy, self._terms = parts.store, parts.policy, parts.terms
        self._recalling = Recalling(parts.store, parts.index, parts.embedder, parts.policy, parts.terms)
        self._writing = Writing(parts.store, parts.terms, parts.clock_ms)
        self._reading = Reading(self._recalling, parts.sessions)
        self._reviewing = Reviewing(self._recalling)
        self._keeping = Keeping(parts.store, parts.index, parts.sessions, parts.clock_ms, parts.legal_holds)
        self._by_name: Mapping[str, Callable[[_Doing], Awaitable[Result]]] = {
            "remember": self._remember,
            "revise": self._revise,
            "forget": self._forget,
            "why": self._why,
            "history": self._history,
            "approve": self._approve,
            "reject": self._reject,
            "rollback": self._rollback,
            "erase": self._erase,
            "import": self._import,
            "holds": self._holds,
            "hold": self._hold,
            "lift": self._lift,
            "recall": self._recall,
            "list": self._list,
            "get": self._get,
            "export": self._export,
            "review": self._review,
        }

    # What policy is asked about

    async def resource_for(self, call: Call, identity: Identity) -> Resource:
        """What a call of `memory/OPERATION` acts on; one that is not `known` where there is nothing for the caller.

        The call has no resource yet. Raises `InvalidCall` for arguments that are none, and `Unauthenticated`.
        """
        operation = operation_of(call)
        given = given_by.read(operation, call.arguments)
        caller = caller_of(call, identity)
        doing = _Doing(Asking(call, identity, caller), given, self._session(call, caller))
        if isinstance(given, given_by.Remember | given_by.Revise):
            replaces = await self._old(doing, given)
            if isinstance(given, given_by.Revise) and replaces is None:
                return self._unknown(given.id)
            return (await self._proposed(doing, given, replaces)).resource
        name = getattr(given, "id", "")
        if name or isinstance(given, given_by.Get):
            return await self._of_one(doing, name)
        space, whole = getattr(given, "namespace", "") or "*", getattr(given, "whole", False) or operation in _WHOLE
        residency = self._terms.residency.get(space, "")
        facts = {"namespace": space, "residency": residency, "whole": whole, "person": caller.person}
        for member in ("scope", "kind"):
            if getattr(given, member, None):
                facts[member] = getattr(given, member)
        return self._terms.resource(f"{space}/*", facts)

    async def _of_one(self, doing: _Doing, name: str) -> Resource:
        version = await self._named(doing)
        return self._unknown(name or "*") if version is None else self._resource_of(doing, version)

    def _resource_of(self, doing: _Doing, version: Version) -> Resource:
        source = acting_as(doing, self._policy)
        facts = {
            **class_facts(version.record_class),
            "key": version.key,
            "source": str(source.type),
            "person": doing.asking.caller.person,
            "whole": operation_of(doing.asking.call) in _WHOLE or bool(getattr(doing.given, "whole", False)),
            "of": of_facts(version),
        }
        return self._terms.resource(version.resource_id, facts, version.labels)

    def _unknown(self, name: str) -> Resource:
        return Resource("memory", name, upstream=self._terms.name, name=name, known=False)

    # The operations

    async def carry_out(self, authorized: Authorized, relay: Relay) -> Result:
        """Do what a permitted call says."""
        call = authorized.call
        operation = operation_of(call)
        given = given_by.read(operation, call.arguments)
        caller = caller_of(call, authorized.identity)
        doing = _Doing(Asking(call, authorized.identity, caller), given, self._session(call, caller), authorized, relay)
        return await self._by_name[operation](doing)

    async def _remember(self, doing: _Doing) -> Result:
        given = doing.of(given_by.Remember)
        proposal = await self._as_judged(doing, given, None)
        if given.kind == "scratch":
            return self._jotted(doing, proposal, given)
        if proposal.copy_of is not None and proposal.copy_of.status is Status.ACTIVE:
            told = self._told(doing, proposal, proposal.copy_of)
            return Result(codec.dumps({**told, "stored": False}))
        why = self._why_doubted(doing, proposal)
        draft = proposal.waiting(why) if why else proposal.draft
        version = await self._store.add(doing.asking.caller.tenant, draft, await self._embedded(draft.text))
        return Result(codec.dumps({**self._told(doing, proposal, version), "stored": True}))

    def _jotted(self, doing: _Doing, proposal: Proposal, given: given_by.Remember) -> Result:
        version = proposal.scratch(doing.asking.caller.tenant, self._parts.new_id(), self._parts.clock_ms())
        self._parts.sessions.jot(doing.session, version, float(given.expires_s or SCRATCH_S))
        return Result(codec.dumps({**self._told(doing, proposal, version), "stored": True}))

    async def _revise(self, doing: _Doing) -> Result:
        given = doing.of(given_by.Revise)
        old = await self._old(doing, given)
        if old is None:
            raise MemoryConflict("the record is gone: somebody forgot it meanwhile")
        proposal = await self._as_judged(doing, given, old)
        tenant, vector = doing.asking.caller.tenant, await self._embedded(given.text)
        why = self._why_doubted(doing, proposal)
        if why:  # the record goes on saying what it said until somebody has looked
            version = await self._store.add(tenant, proposal.aside(old, f"{merged_into(old)} {why}"), vector)
        else:
            expect = given.expect or old.id
            version = await self._store.supersede(tenant, old.record, proposal.draft, vector, expect=expect)
        return Result(codec.dumps({**self._told(doing, proposal, version), "revises": old.id, "stored": True}))

    async def _forget(self, doing: _Doing) -> Result:
        given = doing.of(given_by.Forget)
        caller, record = doing.asking.caller, given.id.partition("@")[0]
        version = await self._still_judged(doing)
        if self._parts.sessions.wipe(doing.session, record):
            return Result(codec.dumps({"record": record, "forgotten": True, "erased": True}))
        await self._check_forgetting(doing, version, erase=given.erase)
        if given.erase:
            erased = await self._keeping.erase_records(caller.tenant, [record], acting(doing.asking.call, caller))
            doing.note({"erased": len(erased.records), "held": len(erased.held)})
            return Result(codec.dumps({"record": record, "forgotten": record in erased.records, "erased": True}))
        by = acting(doing.asking.call, caller)
        await self._store.set_status(caller.tenant, record, Status.RETRACTED, by, note=given.reason or "forgotten")
        self._parts.sessions.forget(caller.tenant, [record])
        doing.note({"records": [record]})
        return Result(codec.dumps({"record": record, "forgotten": True, "erased": False}))

    async def _still_judged(self, doing: _Doing) -> Version:
        """The record that policy was asked about. Raises `MemoryConflict` where it would be another one by now."""
        version = await self._named(doing)
        if version is None:
            raise MemoryConflict("the record is gone: somebody forgot it meanwhile")
        if self._resource_of(doing, version) != doing.asking.call.resource:
            raise MemoryConflict("the record has changed while policy was asked: do it again")
        return version

    async def _check_forgetting(self, doing: _Doing, version: Version, *, erase: bool) -> None:
        """Raises `PolicyDenied` for an agent that would take away what it could not replace, or what others made."""
        caller = doing.asking.caller
        if caller.person:
            return
        word = trust_of(acting_as(doing, self._policy).type)
        if version.trust > word and version.source.on_behalf_of != caller.subject:
            remedy = "revise it, which waits for a person, or have a person forget it"
            raise refused("record_protected", "the record is another's, and worth more than your word", remedy)
        if erase and not await self._keeping.is_all_of(caller.tenant, version.record, caller.subject):
            remedy = "forget it without `erase`, or have a person erase it"
            raise refused("others_derived", "others have records that were made with it and would go with it", remedy)

    async def _recall(self, doing: _Doing) -> Result:
        return await self._reading.recall(doing.asking, doing.session, doing.of(given_by.Recall), doing.note)

    async def _list(self, doing: _Doing) -> Result:
        return await self._reading.listed(doing.asking, doing.session, doing.of(given_by.ListRecords))

    async def _get(self, doing: _Doing) -> Result:
        version = await self._named(doing)
        if version is None:
            raise MemoryConflict("the record is gone: somebody forgot it meanwhile")
        self._parts.sessions.recalled(doing.session, [version])
        return Result(codec.dumps(shown(version)), labels=version.labels)

    async def _export(self, doing: _Doing) -> Result:
        return await self._reading.export(doing.asking, doing.of(given_by.Export), self._parts.clock_ms())

    async def _why(self, doing: _Doing) -> Result:
        version = await self._named(doing)
        if version is None:
            raise MemoryConflict("the record is gone: somebody forgot it meanwhile")
        view = await self._reading.view_of_one(doing.asking, bool(doing.of(given_by.Why).whole))
        tree = await tree_of(self._store, view, version)
        children = await self._store.children(view, version.id)
        audit = await self._parts.trail.entries(sorted(calls_in(tree)))
        told = {"record": tree, "made_from_it": [one.id for one in children], "audit": audit}
        self._parts.sessions.recalled(doing.session, [version])
        return Result(codec.dumps(told), labels=names(tree, "labels"))

    async def _history(self, doing: _Doing) -> Result:
        given = doing.of(given_by.Why)
        view = await self._reading.view_of_one(doing.asking, given.whole)
        return self._reading.handed_out(doing.session, "versions", await self._store.history(view, given.id))

    async def _review(self, doing: _Doing) -> Result:
        return await self._reviewing.queue(doing.asking, doing.of(given_by.Review))

    async def _approve(self, doing: _Doing) -> Result:
        await self._still_judged(doing)
        version = await self._reviewing.approved(doing.asking, doing.of(given_by.Verdict))
        doing.note({"records": [version.record], "verdict": "approved"})
        return Result(codec.dumps(shown(version)))

    async def _reject(self, doing: _Doing) -> Result:
        await self._still_judged(doing)
        version = await self._reviewing.rejected(doing.asking, doing.of(given_by.Verdict))
        doing.note({"records": [version.record], "verdict": "rejected"})
        return Result(codec.dumps(shown(version)))

    async def _rollback(self, doing: _Doing) -> Result:
        told = await self._keeping.rollback(doing.asking, doing.of(given_by.Rollback))
        doing.note({name: len(records) for name, records in told.items()})
        return Result(codec.dumps(told))

    async def _erase(self, doing: _Doing) -> Result:
        told = await self._keeping.erase_subject(doing.asking, doing.of(given_by.Erase).subject)
        doing.note({name: len(records) for name, records in told.items()})
        return Result(codec.dumps(told))

    async def _import(self, doing: _Doing) -> Result:
        check_person(doing.asking, "an import says who said what, so people make it")
        told = await self._keeping.load(doing.asking.caller.tenant, doing.of(given_by.Import).lines)
        doing.note(told)
        return Result(codec.dumps(told))

    async def _holds(self, doing: _Doing) -> Result:
        return Result(codec.dumps({"holds": await self._keeping.holds(doing.asking.caller.tenant)}))

    async def _hold(self, doing: _Doing) -> Result:
        given = doing.of(given_by.SetHold)
        caller, target = doing.asking.caller, given.target.partition("@")[0]
        found = target.endswith("/") or await self._reading.one(doing.asking, doing.session, target, whole=True)
        if not found:
            raise UnknownResource(f"record {target!r} does not exist or is not visible to you, so nothing is held")
        await self._store.set_hold(caller.tenant, target, doing.asking.identity.subject, given.reason)
        return Result(codec.dumps({"target": target, "held": True}))

    async def _lift(self, doing: _Doing) -> Result:
        given = doing.of(given_by.LiftHold)
        target = given.target.partition("@")[0]
        lifted = await self._store.lift_hold(doing.asking.caller.tenant, target)
        return Result(codec.dumps({"target": target, "lifted": lifted}))

    # What they share

    def _session(self, call: Call, caller: Caller) -> Session:
        return self._parts.sessions.of(caller.principal, call.session_id)

    async def _named(self, doing: _Doing) -> Version | None:
        """The one record that the arguments name, if the caller may have it."""
        given, operation = doing.given, operation_of(doing.asking.call)
        if isinstance(given, given_by.Get):
            return await self._reading.by_name(doing.asking, doing.session, given)
        name = str(getattr(given, "id", ""))
        if operation in {"approve", "reject"}:
            return await self._reviewing.waiting(doing.asking, name)
        whole = bool(getattr(given, "whole", False))
        return await self._reading.one(doing.asking, doing.session, name, whole=whole)

    async def _old(self, doing: _Doing, given: given_by.Remember | given_by.Revise) -> Version | None:
        if isinstance(given, given_by.Remember):
            return None
        found = await self._reading.one(doing.asking, doing.session, given.id.partition("@")[0])
        return None if found is None or found.kind is Kind.SCRATCH else found

    async def _proposed(
        self, doing: _Doing, given: given_by.Remember | given_by.Revise, replaces: Version | None
    ) -> Proposal:
        asking, session = doing.asking, doing.session
        named = [await self._reading.one(asking, session, name) for name in given.derived_from]
        if any(one is None for one in named):
            raise InvalidCall("derived_from: names a record that does not exist or is not visible to you")
        labels = self._policy.labels_of(asking.call, asking.identity)
        recalled = [*session.recalled.values(), *self._parts.sessions.scratch(session)]
        known = [one for one in named if one is not None]
        about = Circumstances(asking.call, asking.caller, labels, recalled, known, replaces)
        return await self._as_told(asking, await self._writing.proposed(given, about))

    async def _as_told(self, asking: Asking, proposal: Proposal) -> Proposal:
        """The proposal, which names nothing that policy does not let its caller read."""
        named = [*proposal.against, *([proposal.copy_of] if proposal.copy_of else [])]
        seen = set(await self._recalling.shown(asking, sorted({one.record_class for one in named})))
        copy = proposal.copy_of if proposal.copy_of and proposal.copy_of.record_class in seen else None
        return replace(
            proposal, copy_of=copy, against=tuple(one for one in proposal.against if one.record_class in seen)
        )

    async def _as_judged(
        self, doing: _Doing, given: given_by.Remember | given_by.Revise, replaces: Version | None
    ) -> Proposal:
        """The proposal that policy was asked about. Raises `MemoryConflict` where it would be another one by now."""
        proposal = await self._proposed(doing, given, replaces)
        if proposal.resource.catalog != doing.asking.call.resource.catalog:
            raise MemoryConflict("what is known has changed while policy was asked: do it again")
        return proposal

    def _why_doubted(self, doing: _Doing, proposal: Proposal) -> str:
        """Why people look at it first; empty where they do not, or have."""
        permit = doing.permitted.permit
        if permit.approved:
            return ""
        reasons = [*proposal.doubts, *(["policy"] if QUARANTINE in permit.labels else [])]
        return ", ".join(reasons)

    async def _embedded(self, text: str) -> Embedded | None:
        """Its vector; without one now, upkeep makes it later."""
        try:
            vector = (await self._parts.embedder.embed([text]))[0]
        except EmbeddingUnavailable:
            return None
        return Embedded(self._parts.embedder.name, vector)

    def _told(self, doing: _Doing, proposal: Proposal, version: Version) -> Payload:
        doing.note({"records": [version.id], "status": str(version.status), "findings": list(proposal.doubts)})
        told = shown(version)
        del told["text"]
        against = [one.id for one in proposal.against]
        return {**told, "findings": list(proposal.doubts), "contradicts": against}


_WHOLE: Final = frozenset({"review", "approve", "reject", "rollback", "erase", "import", "hold", "lift", "holds"})
"""Operations on everything that the tenant has, for those who run it."""


@dataclass(frozen=True, slots=True)
class _Doing:
    """One call, with its arguments read."""

    asking: Asking
    given: given_by.Given
    session: Session
    authorized: Authorized | None = None
    relay: Relay | None = None

    @property
    def permitted(self) -> Authorized:
        assert self.authorized is not None  # what is carried out was permitted
        return self.authorized

    def of(self, kind: type[given_by.T]) -> given_by.T:
        """The arguments, as what the operation takes."""
        assert isinstance(self.given, kind)
        return self.given

    def note(self, value: Mapping[str, object]) -> None:
        """Have this stand in the record of the call."""
        if self.relay is not None:
            self.relay.note("memory", dict(value))


def operation_of(call: Call) -> str:
    """What a call does. Raises `InvalidCall` for a method that is none of the memory's."""
    operation = call.method.removeprefix(PREFIX)
    if not call.method.startswith(PREFIX) or operation not in ACTIONS:
        raise InvalidCall(f"the memory has tools, records to read and nothing else, so it cannot do {call.method[:60]}")
    return operation


def acting_as(doing: _Doing, policy: Policy) -> Source:
    """Who changes or reads a record, as far as it can be trusted."""
    from_session = policy.labels_of(doing.asking.call, doing.asking.identity)
    return acting(doing.asking.call, doing.asking.caller, from_session)
