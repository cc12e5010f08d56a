"""The gate on the governed path: a held call passes it once, when enough people agreed to exactly that call.

An approval is a capability: bound to a digest, used up before the effect, kept over a crash. So a call that was
cut off in the middle is never carried out a second time on the same word; its caller asks again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from gateway.approvals.binding import binding_of, is_for_nobody_known, name_of, scopes_of, subjects_of
from gateway.approvals.wording import EXPIRES_S, Unreadable, covers_in, expires_s_in, shown_of, stages_in, title_of
from gateway.errors import ApprovalPending, InputTooLarge, PolicyDenied
from gateway.ports import Gate
from gateway.tickets import Approval, ApprovalStore, Ticket
from gateway.types import EMPTY, Call, Identity, NeedsApproval, Reason

ASK_AGAIN_S: Final = 5
"""When a client may look again whether people agreed."""


class Herald(Protocol):
    """Is told what becomes of tickets on this replica. It neither waits nor raises."""

    def opened(self, ticket: Ticket) -> None:
        """A call is held."""

    def voted(self, ticket: Ticket) -> None:
        """Somebody voted; `ticket` is what has become of it."""


class ApprovalGate:
    """Holds calls in `store`. `url_of` gives the page of a ticket, for the person who is to decide.

    A caller has at most `max_pending` tickets open; `expires_s` is how long one waits where rules do not say it.
    """

    def __init__(
        self,
        store: ApprovalStore,
        *,
        clock_ms: Callable[[], int],
        url_of: Callable[[str], str],
        herald: Herald,
        max_pending: int,
        expires_s: float = EXPIRES_S,
    ) -> None:
        self._store = store
        self._clock_ms = clock_ms
        self._url_of = url_of
        self._herald = herald
        self._expires_s = expires_s
        self._max_pending = max_pending

    async def admit(self, call: Call, identity: Identity, needs: NeedsApproval) -> Approval:
        """As the port says."""
        now_ms = self._clock_ms()
        ticket = await self._store.live_ticket(binding_of(call, identity, needs), now_ms)
        if ticket is not None and ticket.state == "approved" and ticket.spent_ms and not _goes_on(call):
            await self._use_up(ticket, now_ms)  # the call that it was given back to is begun anew: that is another one
            ticket = None
        if ticket is None or ticket.state == "pending":
            grant = await self._store.grant_for(scopes_of(call, identity, needs), now_ms)
            if grant is not None:
                return Approval(grant.id, grant.granted_by, covers_in(needs.request), standing=True)
        if ticket is None:
            ticket = await self._opened(call, identity, needs, now_ms)
        if ticket.state == "approved":
            return Approval(ticket.id, _agreed(ticket), ticket.covers, edited=ticket.edited)
        raise _denied(ticket, needs) if ticket.state == "denied" else self._pending(ticket, needs)

    async def spend(self, approval: Approval) -> None:
        """As the port says; of a standing grant, one use."""
        now_ms = self._clock_ms()
        if not approval.standing:
            await self._use_up(await self._store.ticket(approval.id), now_ms)
        elif not await self._store.use_grant(approval.id, now_ms):
            raise ApprovalPending("the standing grant was used up by other calls, or is over: make the call again")

    async def give_back(self, approval: Approval) -> None:
        """As the port says, for the next round of that call. Whatever keeps it from it, people are asked again."""
        if approval.standing:
            return
        ticket = await self._store.ticket(approval.id)
        if ticket is not None and ticket.state == "spent":
            await self._store.change_ticket(replace(ticket, state="approved"))

    async def _use_up(self, ticket: Ticket | None, now_ms: int) -> None:
        usable = ticket is not None and ticket.state == "approved" and now_ms < ticket.expires_ms
        if ticket is None or not usable or not await self._store.change_ticket(_spent(ticket, now_ms)):
            raise ApprovalPending("the approval was used for another call, or its time is over: make the call again")

    async def _opened(self, call: Call, identity: Identity, needs: NeedsApproval, now_ms: int) -> Ticket:
        """A new ticket for this call, or the one that another call just like it opened meanwhile."""
        if is_for_nobody_known(identity):
            raise _for_whom(identity, needs)
        made = self._made(call, identity, needs, now_ms)
        ticket = await self._store.open_ticket(made, now_ms, self._max_pending)
        if ticket is None:
            raise _too_many(self._max_pending, needs)
        if ticket.id == made.id:
            self._herald.opened(ticket)
        return ticket

    def _made(self, call: Call, identity: Identity, needs: NeedsApproval, now_ms: int) -> Ticket:
        try:
            stages = stages_in(needs.request)
            shown = shown_of(call, identity, needs)
        except (Unreadable, InputTooLarge) as exc:
            raise _nobody_to_ask(str(exc), needs) from exc
        expires_ms = now_ms + int(expires_s_in(needs.request, self._expires_s) * 1000)
        return Ticket(
            id=f"apr-{secrets.token_hex(16)}",
            binding=binding_of(call, identity, needs),
            requester=identity.principal,
            subjects=subjects_of(identity),
            stages=stages,
            title=title_of(needs.request, call),
            created_ms=now_ms,
            expires_ms=expires_ms,
            shown=shown,
            covers=covers_in(needs.request),
            scopes=scopes_of(call, identity, needs),
        )

    def _pending(self, ticket: Ticket, needs: NeedsApproval) -> ApprovalPending:
        url = self._url_of(ticket.id)
        asked = ticket.stages[min(ticket.stage, len(ticket.stages) - 1)].approvers
        error = ApprovalPending(
            f"held until {asked} agrees: {ticket.title} (ticket {ticket.id}, {url}); "
            "make the same call again to have it carried out once they did",
            decision_id=needs.decision_id,
            needs=needs,
            ticket_id=ticket.id,
            url=url,
            expires_ms=ticket.expires_ms,
            retry_after_s=ASK_AGAIN_S,
        )
        error.ruling = needs.ruling
        return error


def _agreed(ticket: Ticket) -> tuple[str, ...]:
    return tuple(vote.approver for vote in ticket.votes if vote.verdict == "approve")


def _goes_on(call: Call) -> bool:
    """Whether it is a later round of a call that has begun, and not the first one again.

    Its upstream left state, which no client can make; where there is nothing in that, it is answers that tell.
    """
    resume = call.resume or EMPTY
    state = resume.get("state")
    return isinstance(state, Mapping) and bool(state) and (any(state.values()) or bool(resume.get("responses")))


def _spent(ticket: Ticket, now_ms: int) -> Ticket:
    return replace(ticket, state="spent", spent_ms=now_ms)


def _denied(ticket: Ticket, needs: NeedsApproval) -> PolicyDenied:
    said = next((vote for vote in ticket.votes if vote.verdict == "deny"), None)
    why = f": {said.reason}" if said is not None and said.reason else ""
    return _refusal("approval_denied", f"{said.approver if said else 'an approver'} said no{why}", needs, "")


def _nobody_to_ask(what: str, needs: NeedsApproval) -> PolicyDenied:
    remedy = "the owner of the rule can correct its hold"
    return _refusal("hold_invalid", f"policy holds this call, but nobody can be asked: {what}", needs, remedy)


def _for_whom(identity: Identity, needs: NeedsApproval) -> PolicyDenied:
    message = f"people would have to agree, and {name_of(identity.subject)} does not say for whom it makes the call"
    remedy = "the agent hands on the header Interlock-Chain that it was called with"
    return _refusal("requester_unknown", message, needs, remedy)


def _too_many(most: int, needs: NeedsApproval) -> PolicyDenied:
    if not most:
        return _refusal("too_many_pending", "no call waits for people here", needs, "ask for limits.max_parked")
    remedy = "wait until people decided on those, or until their time is over; one taken back counts for an hour"
    return _refusal("too_many_pending", f"{most} calls of yours wait for people already", needs, remedy)


def _refusal(code: str, message: str, needs: NeedsApproval, remedy: str) -> PolicyDenied:
    reason = Reason(code, message, rule="gateway.approvals", public=True, remedy=remedy)
    error = PolicyDenied(f"{message} (decision {needs.decision_id})", decision_id=needs.decision_id, reasons=(reason,))
    error.ruling = needs.ruling
    return error


_: type[Gate] = ApprovalGate
