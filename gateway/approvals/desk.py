"""Carries out what people do with held calls, once policy permits it: looking, voting, ending a standing grant.

The hard rules are looked at here again, whatever policy said: nobody approves their own call, only who is asked votes,
once, and on what they saw.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

from gateway import codec
from gateway.approvals.binding import name_of
from gateway.approvals.gate import Herald
from gateway.approvals.proposals import grant_of, proposal_in
from gateway.approvals.showing import grant_shown, summary_of, ticket_shown
from gateway.approvals.voting import agreed_to, is_somebody, may_see, obstacle_to, voted
from gateway.errors import InvalidCall, PolicyDenied, UnknownResource
from gateway.ports import Relay, Upstream
from gateway.tickets import ApprovalStore, StandingGrant, Ticket, TicketQuery, TicketState, Vote
from gateway.types import Authorized, Call, Identity, Reason, Result

LIST: Final = "approvals/list"
READ: Final = "approvals/read"
APPROVE: Final = "approvals/approve"
DENY: Final = "approvals/deny"
LIST_GRANTS: Final = "approvals/grants"
DROP_GRANT: Final = "approvals/drop"

TRIES: Final = 16
"""How often a vote is cast again when another one was faster."""
MOST_LISTED: Final = 1_000
MOST_PAGES: Final = 100
"""How many pages are looked through for them."""
PAGE: Final = 100
"""How many are in memory as a whole at a time: one may have 256 KiB, and anybody who is known may ask for a list."""

_WHY: Final = {
    "over": "it is decided already",
    "expired": "the time for it is over",
    "own": "nobody approves a call that is made by them, for them or through them",
    "voted": "you voted on it already",
    "not_asked": "its hold asks for somebody else at this stage",
    "moved": "it is at another stage by now: look at it again, then vote",
    "changed": "an approver changed what is agreed to: look at it again, then vote with its `agreeing_to` as `seen`",
}


class ApprovalDesk:
    """The `Upstream` of all actions `approvals.*`. `url_of` gives the page of a ticket."""

    def __init__(
        self,
        store: ApprovalStore,
        *,
        clock_ms: Callable[[], int],
        url_of: Callable[[str], str],
        herald: Herald,
    ) -> None:
        self._store = store
        self._clock_ms = clock_ms
        self._url_of = url_of
        self._herald = herald

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """What the call's method says. Raises `PolicyDenied` where a hard rule is in the way."""
        call, identity = authorized.call, authorized.identity
        match call.method:
            case "approvals/list":
                return _result({"approvals": await self._list(call, identity)})
            case "approvals/read":
                return _result(self._shown(await self._ticket(call.resource.id), identity))
            case "approvals/approve":
                return await self._vote(call, identity, "approve", relay)
            case "approvals/deny":
                return await self._vote(call, identity, "deny", relay)
            case "approvals/grants":
                return _result({"grants": [grant_shown(grant) for grant in await self._grants(call, identity)]})
            case "approvals/drop":
                return await self._drop(call)
        raise InvalidCall(f"{call.method} is nothing that is done with approvals")

    async def _list(self, call: Call, identity: Identity) -> list[dict[str, object]]:
        now_ms = self._clock_ms()
        state = call.params.get("state")
        asked = TicketQuery(state=_state(state), alive_at_ms=now_ms if state == "pending" else 0, limit=PAGE)
        listed: list[dict[str, object]] = []
        for _ in range(MOST_PAGES):  # what others have is in nobody's way
            tickets = await self._store.tickets(asked)
            seen = [ticket for ticket in tickets if _everybodys(call) or may_see(ticket, identity)]
            listed += [summary_of(ticket, identity, now_ms, self._url_of(ticket.id)) for ticket in seen]
            if len(tickets) < PAGE or len(listed) >= MOST_LISTED:
                break
            asked = replace(asked, before=(tickets[-1].created_ms, tickets[-1].id))
        return listed[:MOST_LISTED]

    async def _grants(self, call: Call, identity: Identity) -> list[StandingGrant]:
        grants = await self._store.grants(self._clock_ms())
        return [grant for grant in grants if _everybodys(call) or concerns(grant, identity)]

    async def _drop(self, call: Call) -> Result:
        if not await self._store.drop_grant(call.resource.id):
            raise UnknownResource("there is no such grant, or it is over already")
        return _result({"id": call.resource.id, "dropped": True})

    async def _vote(self, call: Call, identity: Identity, verdict: Literal["approve", "deny"], relay: Relay) -> Result:
        for _ in range(TRIES):
            ticket = await self._ticket(call.resource.id)
            changed = self._voted(ticket, call, identity, verdict)
            if await self._store.change_ticket(changed):
                break
        else:
            raise _blocked("changed")
        relay.note("approval_vote", {"verdict": verdict, "state": changed.state, "stage": ticket.stage})
        grant = grant_of(changed, f"grant-{secrets.token_hex(16)}", self._clock_ms())
        if grant is not None:
            await self._store.put_grant(grant)
            relay.note("approval_grant", grant.id)
        self._herald.voted(changed)
        shown = self._shown(changed, identity)
        return _result({**shown, "grant_id": grant.id if grant is not None else None})

    def _voted(self, ticket: Ticket, call: Call, identity: Identity, verdict: Literal["approve", "deny"]) -> Ticket:
        now_ms = self._clock_ms()
        obstacle = obstacle_to(ticket, identity, now_ms)
        if obstacle or not is_somebody(identity):
            raise _blocked(obstacle or "not_asked")
        reason = call.params.get("reason")
        vote = Vote(name_of(identity.subject), ticket.stage, verdict, reason if isinstance(reason, str) else "", now_ms)
        if verdict == "deny":
            return voted(ticket, vote)
        _check_seen(ticket, call)
        edited, standing = proposal_in(ticket, call.params)
        return voted(ticket, vote, edited=edited, standing=standing)

    async def _ticket(self, ticket_id: str) -> Ticket:
        ticket = await self._store.ticket(ticket_id)
        if ticket is None:
            raise UnknownResource("there is no such approval, or it is not open to you")
        return ticket

    def _shown(self, ticket: Ticket, identity: Identity) -> dict[str, object]:
        return ticket_shown(ticket, identity, self._clock_ms(), self._url_of(ticket.id))


def concerns(grant: StandingGrant, identity: Identity) -> bool:
    """Whether they use the grant, or gave it."""
    gave = is_somebody(identity) and name_of(identity.subject) in grant.granted_by
    return identity.principal == grant.requester or (gave and _tenant_of(grant) == identity.tenant)


def _tenant_of(grant: StandingGrant) -> object:
    subject = grant.shown.get("subject")
    properties = subject.get("properties") if isinstance(subject, dict) else None
    return properties.get("tenant", "") if isinstance(properties, dict) else None


def _check_seen(ticket: Ticket, call: Call) -> None:
    """What is agreed to must be what policy was asked about and, once an approver changed it, what the voter saw."""
    if call.facts.get("stage") != ticket.stage:
        raise _blocked("moved")
    now = agreed_to(ticket)
    seen = call.params.get("seen")
    as_made = ticket.edited is None and ticket.standing is None
    if call.facts.get("agreeing_to") != now or (seen != now if seen is not None else not as_made):
        raise _blocked("changed")


def _everybodys(call: Call) -> bool:
    """Whether policy allowed the list of all, and did not only let somebody see what is theirs."""
    return call.params.get("scope") == "all" and call.facts.get("granted") is not True


def _state(value: object) -> TicketState | Literal[""]:
    match value:
        case "pending" | "approved" | "denied" | "spent" | "withdrawn":
            return value
    return ""


def _blocked(why: str) -> PolicyDenied:
    reason = Reason(f"approval_{why}", _WHY[why], rule="gateway.approvals", public=True)
    return PolicyDenied(f"this vote does not count: {_WHY[why]}", reasons=(reason,))


def _result(value: object) -> Result:
    return Result(codec.dumps(value))


_: type[Upstream] = ApprovalDesk
