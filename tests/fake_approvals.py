"""An in-memory double of the store of approvals; the contract suite holds it to what the real one does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway.tickets import (
    LIVE,
    WITHDRAWN_COUNTS_MS,
    ApprovalStore,
    NoticeStore,
    StandingGrant,
    Switch,
    SwitchKind,
    Ticket,
    TicketQuery,
)


class FakeApprovalStore:
    """`ApprovalStore` and `NoticeStore` in memory; `fail_with` makes the next answers fail as a lost database would.

    `before_change` runs before a ticket is changed, for a test in which somebody else is faster.
    """

    def __init__(self) -> None:
        self.fail_with: Exception | None = None
        self.before_change: Callable[[], None] = lambda: None
        self._tickets: dict[str, Ticket] = {}
        self._grants: dict[str, StandingGrant] = {}
        self._switches: dict[tuple[SwitchKind, str], Switch] = {}
        self._notices: dict[tuple[str, str], int] = {}

    def _answer(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with

    async def live_ticket(self, binding: str, now_ms: int) -> Ticket | None:
        self._answer()
        live = [each for each in self._tickets.values() if each.binding == binding and each.state in LIVE]
        return next((each for each in reversed(live) if now_ms < each.expires_ms), None)

    async def open_ticket(self, ticket: Ticket, now_ms: int, max_pending: int) -> Ticket | None:
        live = await self.live_ticket(ticket.binding, now_ms)
        if live is not None:
            return live
        mine = [each for each in self._tickets.values() if each.requester == ticket.requester]
        if sum(_is_open(each, now_ms) for each in mine) >= max_pending:
            return None
        self._tickets[ticket.id] = ticket
        return ticket

    async def ticket(self, ticket_id: str) -> Ticket | None:
        self._answer()
        return self._tickets.get(ticket_id)

    async def change_ticket(self, ticket: Ticket) -> bool:
        self._answer()
        self.before_change()
        held = self._tickets.get(ticket.id)
        if held is None or held.version != ticket.version:
            return False
        self._tickets[ticket.id] = replace(ticket, version=ticket.version + 1)
        return True

    def steal(self, ticket_id: str, **changes: object) -> None:
        """Change a ticket as another replica would, behind the back of whoever read it."""
        held = self._tickets[ticket_id]
        self._tickets[ticket_id] = replace(held, version=held.version + 1, **changes)  # type: ignore[arg-type]  # fields of it

    async def tickets(self, query: TicketQuery) -> Sequence[Ticket]:
        self._answer()
        found = [
            each
            for each in self._tickets.values()
            if query.state in ("", each.state)
            and query.requester in ("", each.requester)
            and query.alive_at_ms < each.expires_ms
            and (not query.untold_at_ms or self._is_untold(each, query.untold_at_ms))
            and (query.before is None or (each.created_ms, each.id) < query.before)
        ]
        return sorted(found, key=lambda each: (each.created_ms, each.id), reverse=True)[: query.limit]

    def _is_untold(self, ticket: Ticket, now_ms: int) -> bool:
        arrived = sum(1 for (ticket_id, _), until in self._notices.items() if ticket_id == ticket.id and until < 0)
        late = ticket.state == "pending" and ticket.expires_ms <= now_ms
        return arrived < (2 if late or ticket.state in ("approved", "spent", "denied") else 1)

    async def put_grant(self, grant: StandingGrant) -> None:
        self._answer()
        self._grants[grant.id] = grant

    async def grants(self, now_ms: int) -> Sequence[StandingGrant]:
        self._answer()
        found = [each for each in self._grants.values() if _holds(each, now_ms)]
        return sorted(found, key=lambda each: (each.created_ms, each.id), reverse=True)

    async def grant_for(self, scopes: Sequence[str], now_ms: int) -> StandingGrant | None:
        found = [each for each in await self.grants(now_ms) if each.scope in scopes]
        return min(found, key=lambda each: (scopes.index(each.scope), each.expires_ms, each.id), default=None)

    async def use_grant(self, grant_id: str, now_ms: int) -> bool:
        self._answer()
        grant = self._grants.get(grant_id)
        if grant is None or not _holds(grant, now_ms):
            return False
        self._grants[grant_id] = replace(grant, uses_left=grant.uses_left - 1, used_ms=now_ms)
        return True

    async def drop_grant(self, grant_id: str) -> bool:
        self._answer()
        return self._grants.pop(grant_id, None) is not None

    async def put_switch(self, switch: Switch) -> None:
        self._answer()
        self._switches[switch.kind, switch.value] = switch

    async def drop_switch(self, kind: SwitchKind, value: str) -> bool:
        self._answer()
        return self._switches.pop((kind, value), None) is not None

    async def switches(self) -> Sequence[Switch]:
        self._answer()
        return [self._switches[key] for key in sorted(self._switches)]

    async def prune_tickets(self, before_ms: int) -> int:
        self._answer()
        tickets = [each.id for each in self._tickets.values() if each.expires_ms < before_ms]
        grants = [each.id for each in self._grants.values() if each.expires_ms < before_ms]
        self._tickets = {key: each for key, each in self._tickets.items() if key not in tickets}
        self._grants = {key: each for key, each in self._grants.items() if key not in grants}
        self._notices = {key: until for key, until in self._notices.items() if key[0] not in tickets}
        return len(tickets) + len(grants)

    async def claim_notice(self, ticket_id: str, event: str, now_ms: int, until_ms: int) -> bool:
        self._answer()
        until = self._notices.get((ticket_id, event), 0)
        if until < 0 or until > now_ms:
            return False
        self._notices[ticket_id, event] = until_ms
        return True

    async def release_notice(self, ticket_id: str, event: str) -> None:
        self._answer()
        if self._notices.get((ticket_id, event), 0) > 0:
            self._notices[ticket_id, event] = 0

    async def settle_notice(self, ticket_id: str, event: str) -> None:
        self._answer()
        self._notices[ticket_id, event] = -1

    async def sent_notices(self, ticket_ids: Sequence[str]) -> frozenset[tuple[str, str]]:
        self._answer()
        return frozenset(key for key, until in self._notices.items() if until < 0 and key[0] in ticket_ids)


def _is_open(ticket: Ticket, now_ms: int) -> bool:
    withdrawn = ticket.state == "withdrawn" and now_ms < ticket.created_ms + WITHDRAWN_COUNTS_MS
    return withdrawn or (ticket.state == "pending" and now_ms < ticket.expires_ms)


def _holds(grant: StandingGrant, now_ms: int) -> bool:
    unfaded = not grant.idle_ms or now_ms < grant.used_ms + grant.idle_ms
    return now_ms < grant.expires_ms and grant.uses_left > 0 and unfaded


_approvals: type[ApprovalStore] = FakeApprovalStore
_notices: type[NoticeStore] = FakeApprovalStore
