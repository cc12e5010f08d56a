"""The one path: identify, decide, wait for people where policy asks, reserve what it may cost, execute under the
permit, decide on the result, settle, record.

The order is the security property, so it is code in one method and never configuration (architecture, "The spine").
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

from gateway.a2a.facts import facts_of
from gateway.errors import (
    ApprovalPending,
    AuditUnavailable,
    InputTooLarge,
    InterlockError,
    IsolationUnavailable,
    PolicyDenied,
    QuotaExceeded,
    Unauthenticated,
    UnknownResource,
    UpstreamProtocolError,
)
from gateway.models.calls import ACTION as MODEL_CALL
from gateway.models.calls import call_facts
from gateway.ports import Budgets, Exchange, Gate, Identifier, Recorder, Relay, Sink, Switches, Upstream
from gateway.progress import Budgeted, Progress, intent_of, note, note_approval, record_of
from gateway.tickets import Approval
from gateway.types import (
    EMPTY,
    MAX_LEAVES,
    MAX_MODEL_LEAVES,
    Authorized,
    Call,
    Credentials,
    Era,
    FrozenDict,
    Identity,
    Permit,
    Reason,
    Resource,
    Result,
    freeze,
)

VERSIONS: Final[Mapping[str, str]] = {"mcp": "2026-07-28", "a2a": "1.0", "model": "1"}
"""What a call speaks that the gateway makes across a bridge."""

CALLBACK_ACTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "elicitation/create": ("mcp.elicitation.create", "elicitation"),
    "sampling/createMessage": ("mcp.sampling.create", "model"),
    "roots/list": ("mcp.roots.list", "roots"),
}
"""Questions that an upstream may put to the client -> (action, resource type) of the call that each becomes."""

_CALL_NOTIFICATIONS: Final = frozenset({"notifications/progress", "notifications/message"})
"""What an upstream may tell the client of a call; anything else would be a word of the gateway's own."""

_OF_AGENTS: Final = frozenset({"agent", "a2a_task"})
"""Resources that are quarantined with the card of their agent."""

MAX_EDITS: Final = 2
"""How often in a row people may make another call of a held one, before it is held without a ticket."""

_REFUSALS: Final = (
    Unauthenticated,
    PolicyDenied,
    ApprovalPending,
    QuotaExceeded,
    UnknownResource,
    InputTooLarge,
    IsolationUnavailable,
)


class Decider(Protocol):
    """What the spine asks of the authorization stage. Every method raises rather than answer a doubtful yes."""

    async def decide(self, call: Call, identity: Identity, approval: Approval | None = None) -> Permit: ...

    def carry_out(self, call: Call, permit: Permit) -> tuple[Call, Permit]: ...

    async def inspect(self, authorized: Authorized, result: Result) -> Result: ...


class Trail(Recorder, Protocol):
    """A recorder that says beforehand whether it could keep one more record."""

    @property
    def accepting(self) -> bool: ...


class Pipeline:
    """Takes every action of every agent through the governed path.

    `upstream_for` finds what carries a resource's calls out, and raises `UnknownResource` when nothing does. Without a
    `gate`, what policy holds is refused, and without `budgets` what it sets a budget for.
    """

    def __init__(
        self,
        *,
        identifier: Identifier,
        authz: Decider,
        upstream_for: Callable[[Call], Upstream],
        trail: Trail,
        clock_ns: Callable[[], int] = time.time_ns,
        new_id: Callable[[], str],
        gate: Gate | None = None,
        switches: Switches | None = None,
    ) -> None:
        self.budgets: Budgets | None = None
        """What keeps budgets, once there is something."""
        self.sampler: Callable[[str], Upstream | None] = _no_sampler
        """What answers a question of an upstream in the client's place, if anything does."""
        self._gate = gate
        self._switches = switches
        self._flying: dict[Progress, Identity] = {}
        self._identifier = identifier
        self._authz = authz
        self._upstream_for = upstream_for
        self._trail = trail
        self._clock_ns = clock_ns
        self._new_id = new_id

    async def handle(
        self,
        call: Call,
        credentials: Credentials | Identity,
        exchange: Exchange,
        *,
        by: Upstream | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> Result:
        """Carry out one call, or raise the error that says why not. Either way one record is left.

        `credentials` is an `Identity` only for a call that another call of that identity caused, or a box of ours.
        `by` carries the call out instead of the upstream that its resource belongs to. `before` is awaited when all
        is decided, before the effect; the call ends with what it raises.
        """
        progress = Progress(call, time.perf_counter_ns(), asyncio.current_task())
        try:
            identity = await self._identify(progress, credentials)
            self._flying[progress] = identity
            permit = await self._decide(progress, identity)
            authorized = Authorized(progress.call, identity, permit)
            async with Budgeted(self.budgets, progress, authorized):
                await self._use_approvals(progress)
                if before is not None:
                    await before()
                await self._commit_intent(authorized)
                result = await self._execute(progress, authorized, exchange, by)
                result = await self._inspect(progress, authorized, result)
            if progress.killed is not None:  # whoever carried it out took no notice of the cancellation
                raise asyncio.CancelledError
        except asyncio.CancelledError:
            if progress.killed is not None:
                raise self._ended(progress, progress.killed) from None
            with suppress(AuditUnavailable):  # a cancellation goes on whether or not it can be recorded
                self._record(progress, "cancelled", "")
            raise
        except InterlockError as error:
            if progress.killed is not None:
                raise self._ended(progress, progress.killed) from error
            self._record(progress, "denied" if isinstance(error, _REFUSALS) else "failed", error.code, error)
            raise
        except BaseException as error:
            if progress.killed is not None and isinstance(error, Exception):  # a group of what its tasks ended with
                raise self._ended(progress, progress.killed) from error
            self._record(progress, "failed", "internal")
            raise
        finally:
            self._flying.pop(progress, None)
        self._record(progress, result.outcome, "")
        return result

    def end_killed(self) -> int:
        """End the calls in flight for which a kill switch is set now. Gives how many."""
        ended, ending = 0, set[asyncio.Task[object] | None]()
        for progress, identity in list(self._flying.items()) if self._switches else ():
            if progress.task in ending:  # of nested calls the outermost, which is the first one, ends the rest
                continue
            if progress.killed is None:
                progress.killed = self._switches.refusal(progress.call, identity) if self._switches else None
                ended += self._cancelled(progress)
            if progress.killed is not None:
                ending.add(progress.task)
        return ended

    def _cancelled(self, progress: Progress) -> bool:
        """Whether it ends now. The one that sets the switch is not cancelled: it sees at its end that it is killed."""
        if progress.killed is None or progress.task is None:
            return False
        if progress.task is not asyncio.current_task():
            progress.task.cancel()
        return True

    def _ended(self, progress: Progress, reason: Reason) -> PolicyDenied:
        """The refusal of a call that was ended in flight, recorded."""
        if progress.task is not None:
            progress.task.uncancel()  # the cancellation was ours, and ends here
        error = _killed(reason)
        self._record(progress, "denied", error.code, error)
        return error

    async def _identify(self, progress: Progress, credentials: Credentials | Identity) -> Identity:
        if isinstance(credentials, Identity):
            identity = credentials
        else:
            identity = await self._identifier.identify(credentials)
        progress.identity = identity
        progress.identified = time.perf_counter_ns()
        return identity

    async def _decide(self, progress: Progress, identity: Identity) -> Permit:
        call = progress.call
        if not self._trail.accepting:
            raise AuditUnavailable("the audit log cannot take records now; no call is carried out without one")
        if not call.resource.known:
            raise UnknownResource(
                f"{call.resource.type} {call.resource.name!r} does not exist or is not visible to you"
            )
        if self._switches is not None and (reason := self._switches.refusal(call, identity)) is not None:
            raise _killed(reason)
        try:
            permit = await self._authz.decide(call, identity)
        except ApprovalPending as held:
            permit = await self._approved(progress, identity, held)
        progress.permit = permit
        progress.call, permit = self._authz.carry_out(progress.call, permit)
        progress.decided = time.perf_counter_ns()
        return permit

    async def _approved(
        self, progress: Progress, identity: Identity, held: ApprovalPending, *, edits: int = MAX_EDITS
    ) -> Permit:
        """The permit for a held call to which people agreed: decided again with what they agreed to."""
        if self._gate is None or held.needs is None:
            raise held
        approval = await self._gate.admit(progress.call, identity, held.needs)
        if approval.edited is not None:  # another call than the one that was made, so it is decided as what it is
            progress.call = progress.call.with_arguments(approval.edited)
        try:
            permit = await self._authz.decide(progress.call, identity, approval)
        except ApprovalPending as again:
            if approval.edited is None or not edits:
                raise
            # Policy holds the edited call as another one: people have to agree to that as well.
            permit = await self._approved(progress, identity, again, edits=edits - 1)
        progress.agreed.append(approval)
        return permit

    async def _use_approvals(self, progress: Progress) -> None:
        """Use up what people agreed to, last before the effect: what is refused until then leaves it as it is."""
        for approval in progress.agreed:
            if self._gate is not None:
                await self._gate.spend(approval)
            note_approval(progress, approval)

    async def _commit_intent(self, authorized: Authorized) -> None:
        """Where policy asks for it, the record is on disk before the effect (obligation `audit`, `durable`)."""
        for obligation in authorized.permit.obligations:
            if obligation.type == "audit" and obligation.properties.get("durable") is True:
                await self._trail.commit(intent_of(authorized, self._clock_ns()))

    async def _execute(
        self, progress: Progress, authorized: Authorized, exchange: Exchange, by: Upstream | None
    ) -> Result:
        call = authorized.call
        if call.resource.quarantine:
            raise _quarantined(authorized)
        progress.started_executing = True
        try:
            relay: Relay = _GovernedRelay(self, authorized, exchange, progress)
            sampler = self.sampler(call.method) if call.method in CALLBACK_ACTIONS else None
            if call.method in CALLBACK_ACTIONS and sampler is None:
                return await exchange.ask(call)
            return await (sampler or by or self._upstream_for(call)).execute(authorized, relay)
        finally:
            progress.executed = time.perf_counter_ns()

    async def _inspect(self, progress: Progress, authorized: Authorized, result: Result) -> Result:
        progress.result = result
        if progress.labels:  # what a call learns from others, it tells on
            result = replace(result, labels=tuple(dict.fromkeys([*result.labels, *sorted(progress.labels)])))
        result = await self._authz.inspect(authorized, result)
        progress.result = result
        progress.inspected = time.perf_counter_ns()
        if result.outcome == "input_required" and self._gate is not None:
            for approval in progress.approvals:
                await self._gate.give_back(approval)
        return result

    async def inspect_event(self, authorized: Authorized, event: bytes) -> Result:
        """A part of a streamed result as the caller may have it. Raises `PolicyDenied` to withhold it."""
        return await self._authz.inspect(authorized, Result(event))

    def _record(self, progress: Progress, outcome: str, code: str, error: InterlockError | None = None) -> None:
        self._trail.record(record_of(progress, outcome, code, error, self._clock_ns()))

    async def ask_client(
        self, parent: Authorized, exchange: Exchange, method: str, params: Mapping[str, object]
    ) -> Result:
        """Turn an upstream's question into a call of its own, which travels the same path to the client.

        Raises `UpstreamProtocolError` for a question that is not in MCP.
        """
        if method not in CALLBACK_ACTIONS:
            words = f"upstream {parent.call.resource.upstream!r} asked its client for something that is not in MCP"
            raise UpstreamProtocolError(words)
        action, resource_type = CALLBACK_ACTIONS[method]
        return await self.act_for(parent, exchange, action, method, _asker(resource_type, parent.call.resource), params)

    async def act_for(  # what a call is made of
        self,
        parent: Authorized,
        exchange: Exchange,
        action: str,
        method: str,
        resource: Resource,
        params: Mapping[str, object],
        by: Upstream | None = None,
        sink: Sink | None = None,
    ) -> Result:
        """Take something that a call causes through the same path, as a call of its own with that one as its parent."""
        frozen = freeze(dict(params), max_leaves=MAX_MODEL_LEAVES if action == MODEL_CALL else MAX_LEAVES)
        call = replace(
            parent.call,
            id=self._new_id(),
            action=action,
            method=method,
            resource=resource,
            params=frozen if isinstance(frozen, FrozenDict) else FrozenDict(),
            parent_id=parent.call.id,
            root_id=parent.call.root_id or parent.call.id,
            resume=None,
            facts=EMPTY,
        )
        if (protocol := action.partition(".")[0]) in VERSIONS and protocol != call.protocol:  # over a bridge
            call = replace(call, protocol=protocol, protocol_version=VERSIONS[protocol], session_id="")
            exchange = _Overheard(exchange, sink or exchange.emit, EMPTY)  # what it can do, it can in its own protocol
        elif sink:
            exchange = _Overheard(exchange, sink, exchange.capabilities)
        if call.protocol == "a2a":  # rules read these of calls that a client makes, and hold for this one as well
            call = replace(call, facts=FrozenDict(facts_of(method, call.params)))
        elif action == MODEL_CALL:
            call = replace(call, facts=call_facts(method, resource, call.params))
        return await self.handle(call, parent.identity, exchange, by=by)


class _GovernedRelay:
    """The client of one call as its upstream may reach it: questions pass policy, redaction covers notifications."""

    def __init__(self, pipeline: Pipeline, authorized: Authorized, exchange: Exchange, progress: Progress) -> None:
        self._progress = progress
        self._pipeline = pipeline
        self._authorized = authorized
        self._exchange = exchange
        self._redacting = any(obligation.type == "redact" for obligation in authorized.permit.obligations)

    @property
    def owner(self) -> str:
        return self._exchange.owner

    @property
    def era(self) -> Era:
        return self._exchange.era

    @property
    def capabilities(self) -> Mapping[str, object]:
        known = self._exchange.capabilities
        sampled = "sampling" not in known and self._pipeline.sampler("sampling/createMessage") is not None
        return {**known, "sampling": {}} if sampled else known

    @property
    def log_level(self) -> str:
        return self._exchange.log_level

    @property
    def wants_progress(self) -> bool:
        return self._exchange.wants_progress

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        if method not in _CALL_NOTIFICATIONS:
            return
        if self._redacting:
            # What policy redacts from the result must not leave by another door: numbers pass, texts do not.
            if method != "notifications/progress":
                return
            params = {key: value for key, value in params.items() if key != "message"}
        await self._exchange.notify(method, params)

    async def ask(self, method: str, params: Mapping[str, object]) -> Result:
        return await self._pipeline.ask_client(self._authorized, self._exchange, method, params)

    async def emit(self, event: bytes) -> None:
        self._progress.answering = True
        inspected = await self._pipeline.inspect_event(self._authorized, event)
        self._progress.labels.update(inspected.labels)
        self._progress.streamed += len(inspected.payload)
        await self._exchange.emit(inspected.payload)

    async def act(  # what a call is made of
        self,
        action: str,
        method: str,
        resource: Resource,
        params: Mapping[str, object],
        *,
        by: Upstream | None = None,
        sink: Sink | None = None,
    ) -> Result:
        authorized, exchange = self._authorized, self._exchange
        result = await self._pipeline.act_for(authorized, exchange, action, method, resource, params, by, sink)
        self._progress.labels.update(result.labels)
        return result

    def note(self, name: str, value: object) -> None:
        note(self._progress, name, value)


class _Overheard:
    """The client of a call, of which another takes the streamed events."""

    def __init__(self, exchange: Exchange, sink: Sink, capabilities: Mapping[str, object]) -> None:
        self._exchange = exchange
        self._sink = sink
        self.owner, self.era = exchange.owner, exchange.era
        self.capabilities, self.log_level = capabilities, exchange.log_level
        self.wants_progress = exchange.wants_progress

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        await self._exchange.notify(method, params)

    async def ask(self, call: Call) -> Result:
        return await self._exchange.ask(call)

    async def emit(self, event: bytes) -> None:
        await self._sink(event)


def _no_sampler(_method: str) -> None:
    """Clients answer themselves."""


def _asker(resource_type: str, asking: Resource) -> Resource:
    """The resource of a callback: the upstream that asks, named after what was called, with what we know of that."""
    upstream = asking.upstream
    return Resource(resource_type, upstream, upstream=upstream, name=asking.name, catalog=asking.catalog)


def _killed(reason: Reason) -> PolicyDenied:
    return PolicyDenied(f"stopped: {reason.message}", reasons=(reason,))


def _quarantined(authorized: Authorized) -> PolicyDenied:
    resource = authorized.call.resource
    message = f"{resource.type} {resource.id!r} is quarantined: its definition is not the one that was accepted"
    look = "agents show" if resource.type in _OF_AGENTS else "pins diff"
    remedy = f"an operator looks at it with `interlock {look} {resource.upstream}` and accepts it, or removes it"
    reason = Reason("quarantined", message, rule="gateway.pins", public=True, remedy=remedy)
    return PolicyDenied(message, decision_id=authorized.permit.decision_id, reasons=(reason,))
