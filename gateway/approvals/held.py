"""Held calls for clients that ask after them: carried out once people agreed, by whoever asks next, and only once.

A client that goes away loses nothing. The call is made anew from what was kept, as any call is, and passes the gate on
its ticket, so that the ticket is spent before the effect: where a process ends in between, it is known that nothing
happened (the ticket is not spent, and the call is tried again) or not known what did (then it is never tried again).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeAlias

import anyio
from anyio.abc import TaskGroup

from gateway import codec
from gateway.approvals.gate import ASK_AGAIN_S
from gateway.errors import ApprovalPending, InterlockError
from gateway.tickets import ApprovalStore, HeldCall, HeldCallStore, HeldState, Ticket
from gateway.types import EMPTY, Identity

log = logging.getLogger("interlock.approvals")

POLL_MS: Final = ASK_AGAIN_S * 1000
KEPT_MS: Final = 3_600_000
"""How long what came of a call is there for its client."""
LEASE_MS: Final = 15_000
RENEW_S: Final = 5.0
SETTLE_S: Final = 2.0
"""How long who asks is kept waiting for a call that was begun just now."""
TRIES: Final = 16

UNKNOWN: Final = (
    "it is not known whether it took effect: the gateway ended while it was carried out; look, then make the call again"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a call was not carried out, or is not known to have been: `code` as in `gateway.errors`."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call, in the words of its protocol (JSON). With `again`, it is tried again if nothing was done."""

    told: Mapping[str, object]
    again: bool = False


Run: TypeAlias = Callable[[Mapping[str, object], Callable[[Outcome], Awaitable[None]]], Awaitable[Outcome]]
"""Makes the call that was kept. It may tell an outcome that holds before the call has ended. It does not raise."""


class Seal(Protocol):
    """Encrypts what is kept, bound to what it belongs to."""

    def seal(self, plain: bytes, bound: Sequence[str]) -> bytes: ...

    def open(self, sealed: bytes, bound: Sequence[str]) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Followed:
    """How a held call stands. `told` is the protocol's own; `fault` is ours; neither while it waits or runs."""

    held: HeldCall
    message: str
    url: str
    told: Mapping[str, object] | None = None
    fault: Fault | None = None
    until_ms: int = 0
    """When the time of its ticket is over."""

    @property
    def state(self) -> HeldState:
        """What became of it."""
        return self.held.state


class HeldCalls:
    """Held calls in `store`, their tickets in `tickets`, carried out in `group` by the process `instance`."""

    def __init__(
        self,
        store: HeldCallStore,
        tickets: ApprovalStore,
        seal: Seal,
        group: TaskGroup,
        *,
        instance: str,
        clock_ms: Callable[[], int],
        url_of: Callable[[str], str],
        settle_s: float = SETTLE_S,
    ) -> None:
        self._store = store
        self._tickets = tickets
        self._seal = seal
        self._group = group
        self._instance = instance
        self._clock_ms = clock_ms
        self._url_of = url_of
        self._settle_s = settle_s
        self._flights: dict[str, anyio.Event] = {}

    async def keep(self, pending: ApprovalPending, identity: Identity, kept: Mapping[str, object]) -> Followed | None:
        """Keep a call that is held. `None` when it has no ticket, or somebody else's."""
        if not pending.ticket_id:
            return None
        now_ms, until_ms = self._clock_ms(), pending.expires_ms + KEPT_MS
        new = HeldCall(pending.ticket_id, identity.principal, b"", now_ms, now_ms, until_ms)
        sealed = self._seal.seal(codec.dumps(kept), _bound(new, "call"))
        held = await self._store.keep_held(replace(new, sealed_call=sealed))
        return await self.shown(held) if held.owner == identity.principal else None

    async def find(self, ticket_id: str, identity: Identity, protocol: str) -> HeldCall | None:
        """The caller's own; `None` for a missing one as for somebody else's."""
        held = await self._store.held(ticket_id) if 0 < len(ticket_id) <= 64 else None
        if held is None or held.owner != identity.principal or self._clock_ms() >= held.expires_ms:
            return None
        return held if self.call_in(held).get("protocol") == protocol else None

    async def latest(self, held: HeldCall) -> HeldCall:
        """What became of it meanwhile."""
        return await self._store.held(held.ticket_id) or held

    def call_in(self, held: HeldCall) -> Mapping[str, object]:
        """What was kept of the call."""
        return _object(codec.loads(self._seal.open(held.sealed_call, _bound(held, "call"))))

    async def follow(self, held: HeldCall, run: Run) -> Followed:
        """How it stands now. Where people agreed, it is begun; its end is waited for a little."""
        if held.state == "running":
            held = await self._looked_after(held)
        if held.state == "waiting":
            held = await self._decided(held, run)
        flight = self._flights.get(held.ticket_id)
        if held.state == "running" and flight is not None:
            with anyio.move_on_after(self._settle_s):
                await flight.wait()
            held = await self.latest(held)
        return await self.shown(held)

    async def begin(self, held: HeldCall) -> None:
        """Before the effect: use the ticket up, also where policy let the call pass without one.

        Raises `ApprovalPending` where it is not this process's call any more.
        """
        for _ in range(TRIES):
            ticket, latest = await self._tickets.ticket(held.ticket_id), await self.latest(held)
            if ticket is None or latest.state != "running" or latest.runner != self._instance:
                break
            if ticket.state == "spent":
                return
            now_ms = self._clock_ms()
            if not _is_unspent(ticket, now_ms):
                break
            if await self._tickets.change_ticket(replace(ticket, state="spent", spent_ms=now_ms)):
                return
        raise ApprovalPending("the approval was used or taken back, or its time is over: make the call again")

    async def withdraw(self, held: HeldCall) -> Followed:
        """Take a call back that was not begun; of any other one, how it stands."""
        for _ in range(TRIES):
            ticket = await self._tickets.ticket(held.ticket_id)
            if held.state != "waiting" or ticket is None or ticket.state not in ("pending", "approved"):
                break
            if await self._tickets.change_ticket(replace(ticket, state="withdrawn")):
                held = await self._changed(replace(held, state="withdrawn"))
                break
        return await self.shown(held)

    async def answered(self, held: HeldCall, answer: str) -> None:
        """Note what the client's user did about the page."""
        if held.state == "waiting" and not held.answer:
            await self._changed(replace(held, answer=answer))

    async def shown(self, held: HeldCall) -> Followed:
        """How it stands, in words."""
        ticket = await self._tickets.ticket(held.ticket_id)
        url = self._url_of(held.ticket_id)
        until_ms = ticket.expires_ms if ticket is not None else 0
        if held.state in ("done", "failed"):
            result = _object(codec.loads(self._seal.open(held.sealed_result, _bound(held, "result"))))
            if "fault" not in result:
                return Followed(held, "", url, told=_object(result.get("told")), until_ms=until_ms)
            fault = _object(result["fault"])
            why = Fault(str(fault.get("code")), str(fault.get("message")))
            return Followed(held, why.message, url, fault=why, until_ms=until_ms)
        return Followed(held, _words(held, ticket, url), url, until_ms=until_ms)

    async def _decided(self, held: HeldCall, run: Run) -> HeldCall:
        """Begin it, or end it, as people decided."""
        ticket, now_ms = await self._tickets.ticket(held.ticket_id), self._clock_ms()
        fault = _fault_of(ticket, now_ms)
        if fault is not None:
            if ticket is not None and ticket.state == "withdrawn":
                return await self._changed(replace(held, state="withdrawn"))
            return await self._failed(held, fault)
        if ticket is None or ticket.state != "approved":
            return held
        lease_ms = now_ms + LEASE_MS
        begun = replace(held, state="running", runner=self._instance, lease_ms=lease_ms, updated_ms=now_ms)
        if not await self._store.change_held(begun):
            return await self.latest(held)
        flight = self._flights[held.ticket_id] = anyio.Event()
        begun = replace(begun, version=begun.version + 1)
        self._group.start_soon(self._carried_out, begun, run, flight)
        return begun

    async def _looked_after(self, held: HeldCall) -> HeldCall:
        """One that is being carried out, unless whoever did so is gone."""
        if held.ticket_id in self._flights or self._clock_ms() < held.lease_ms:
            return held
        return await self._abandoned(held)

    async def _abandoned(self, held: HeldCall) -> HeldCall:
        """One that nobody carries out any more: as if it had not been begun, or for good."""
        ticket = await self._tickets.ticket(held.ticket_id)
        if _is_unspent(ticket, self._clock_ms()):  # it ended before the gate, so nothing was done
            return await self._changed(replace(held, state="waiting", runner="", lease_ms=0))
        return await self._failed(held, Fault("internal", UNKNOWN))

    async def _carried_out(self, held: HeldCall, run: Run, done: anyio.Event) -> None:
        """Make the call, keep what comes of it, and say meanwhile that this process is at it."""
        flight = _Flight(held, done)

        async def settle(outcome: Outcome) -> None:
            async with flight.turn:
                flight.held = await self._settled(flight.held, outcome)
            if flight.held.state != "running":
                done.set()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._renewed, flight)
                await settle(await run(self.call_in(held), settle))
                group.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True), anyio.move_on_after(self._settle_s):
                await self._cut_off(flight.held)
            raise
        except Exception:  # one call does not end the others, nor the gateway
            log.exception("what became of the held call %s was not kept", held.ticket_id)
            await self._cut_off(flight.held)
        finally:
            self._flights.pop(held.ticket_id, None)
            done.set()

    async def _cut_off(self, held: HeldCall) -> None:
        """This process ends: whoever asks next need not wait for the end of its lease."""
        try:
            if held.state == "running":
                await self._abandoned(held)
        except InterlockError as exc:
            log.warning("what became of the held call %s was not kept: %s", held.ticket_id, exc)

    async def _renewed(self, flight: _Flight) -> None:
        """Say that this process is still at it, until cancelled."""
        while flight.held.state == "running":
            await anyio.sleep(RENEW_S)
            try:
                async with flight.turn:
                    flight.held = await self._changed(replace(flight.held, lease_ms=self._clock_ms() + LEASE_MS))
            except InterlockError as exc:
                log.warning("the held call %s goes on without the state store: %s", flight.held.ticket_id, exc)

    async def _settled(self, held: HeldCall, outcome: Outcome) -> HeldCall:
        """Keep what came of it. It was carried out: so it is tried again when the store does not answer."""
        for wait_s in (0.2, 0.5, 1.0, 2.0, 0.0):
            try:
                return await self._kept(held, outcome)
            except InterlockError as exc:
                log.warning("what came of the held call %s is not kept yet: %s", held.ticket_id, exc)
                await anyio.sleep(wait_s)
        return held

    async def _kept(self, held: HeldCall, outcome: Outcome) -> HeldCall:
        if held.state != "running":
            return held
        if outcome.again:
            ticket = await self._tickets.ticket(held.ticket_id)
            if _is_unspent(ticket, self._clock_ms()):
                return await self._changed(replace(held, state="waiting", runner="", lease_ms=0))
        return await self._ended(held, {"told": outcome.told}, failed=outcome.again)

    async def _failed(self, held: HeldCall, fault: Fault) -> HeldCall:
        return await self._ended(held, {"fault": {"code": fault.code, "message": fault.message}}, failed=True)

    async def _ended(self, held: HeldCall, result: Mapping[str, object], *, failed: bool) -> HeldCall:
        sealed = self._seal.seal(codec.dumps(result), _bound(held, "result"))
        expires_ms = max(held.expires_ms, self._clock_ms() + KEPT_MS)
        state: HeldState = "failed" if failed else "done"
        return await self._changed(replace(held, state=state, sealed_result=sealed, expires_ms=expires_ms))

    async def _changed(self, held: HeldCall) -> HeldCall:
        """What stands in the store afterwards: this, or what somebody else put there first."""
        changed = replace(held, updated_ms=self._clock_ms())
        if await self._store.change_held(changed):
            return replace(changed, version=changed.version + 1)
        return await self.latest(held)


@dataclass(slots=True)
class _Flight:
    """A call that this process carries out. Whoever changes what is kept of it takes a turn."""

    held: HeldCall
    done: anyio.Event
    turn: anyio.Lock = field(default_factory=anyio.Lock)


def _bound(held: HeldCall, what: str) -> tuple[str, ...]:
    return ("held", held.ticket_id, held.owner, what)


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else EMPTY


def _is_unspent(ticket: Ticket | None, now_ms: int) -> bool:
    return ticket is not None and ticket.state == "approved" and not ticket.spent_ms and now_ms < ticket.expires_ms


def _fault_of(ticket: Ticket | None, now_ms: int) -> Fault | None:
    """Why a call that waits will not be carried out on this ticket."""
    if ticket is None:
        return Fault("approval_expired", "the time in which people could agree is over: make the call again")
    if ticket.state == "denied":
        said = next((vote for vote in ticket.votes if vote.verdict == "deny"), None)
        why = f": {said.reason}" if said is not None and said.reason else ""
        return Fault("approval_denied", f"{said.approver if said else 'an approver'} said no{why}")
    if ticket.state == "spent" or ticket.spent_ms:
        return Fault("approval_used", "the same call was made again, and that one was carried out on the approval")
    if ticket.state == "withdrawn":
        return Fault("approval_withdrawn", "the call was taken back before people decided")
    if now_ms >= ticket.expires_ms:
        return Fault("approval_expired", "the time in which people could agree is over: make the call again")
    return None


def _words(held: HeldCall, ticket: Ticket | None, url: str) -> str:
    if held.state == "withdrawn":
        return "taken back before it was carried out"
    if held.state == "running":
        return "people agreed, and it is being carried out"
    if ticket is None or ticket.state != "pending":
        return "people decided; it goes on when it is asked after"
    asked = ticket.stages[min(ticket.stage, len(ticket.stages) - 1)].approvers
    return f"held until {asked} agrees: {ticket.title} (ticket {ticket.id}, {url})"
