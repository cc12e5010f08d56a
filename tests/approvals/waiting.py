"""Held calls that clients ask after, over fakes: for the tests of the core and of both listeners."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from anyio.abc import TaskGroup

from gateway.approvals.gate import ApprovalGate
from gateway.approvals.held import HeldCalls
from gateway.errors import ApprovalPending
from gateway.identity.push_seal import PushSealer
from gateway.tickets import Approval, Ticket, TicketState, Vote
from gateway.types import Call, Identity, Permit
from tests.approvals.worlds import NOW_MS, FakeHerald, needs
from tests.fake_held import FakeHeldCallStore
from tests.fakes import FakeApprovalStore, FakeDecider, permit_for

HELD: Final = frozenset({"mcp.tools.call", "a2a.message.send", "a2a.message.stream"})


class HoldingCalls(FakeDecider):
    """Policy that holds calls of tools and messages until people agreed, while it `holds`, and permits the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.revision = "r1"
        self.holds = True

    async def decide(self, call: Call, identity: Identity, approval: Approval | None = None) -> Permit:
        self.asked.append(call)
        if self.holds and call.action in HELD and approval is None:
            raise ApprovalPending("held", decision_id="d-1", needs=needs(self.revision))
        return permit_for(call, identity)


@dataclass
class Waiting:
    """A gate, the stores, and people who decide. `now_ms` is what every clock says."""

    now_ms: int = NOW_MS
    tickets: FakeApprovalStore = field(default_factory=FakeApprovalStore)
    store: FakeHeldCallStore = field(default_factory=FakeHeldCallStore)
    decider: HoldingCalls = field(default_factory=HoldingCalls)

    def __post_init__(self) -> None:
        self.gate = ApprovalGate(
            self.tickets, clock_ms=lambda: self.now_ms, url_of=page, herald=FakeHerald(), expires_s=600, max_pending=8
        )

    def calls(self, group: TaskGroup, *, instance: str = "one", settle_s: float = 5.0) -> HeldCalls:
        """As one process of the gateway has them; another `instance` is another process."""
        seal = PushSealer([b"k" * 32])
        return HeldCalls(
            self.store,
            self.tickets,
            seal,
            group,
            instance=instance,
            clock_ms=lambda: self.now_ms,
            url_of=page,
            settle_s=settle_s,
        )

    async def decided(self, ticket_id: str, state: TicketState, *votes: Vote) -> None:
        """Have people decide."""
        ticket = await self.ticket(ticket_id)
        assert await self.tickets.change_ticket(replace(ticket, state=state, votes=votes))

    async def approved(self, ticket_id: str) -> None:
        """Have Bo agree."""
        await self.decided(ticket_id, "approved", Vote("user:bo", 0, "approve"))

    async def denied(self, ticket_id: str) -> None:
        """Have Bo say no."""
        await self.decided(ticket_id, "denied", Vote("user:bo", 0, "deny", "not today"))

    async def ticket(self, ticket_id: str) -> Ticket:
        """A ticket that there is."""
        ticket = await self.tickets.ticket(ticket_id)
        assert ticket is not None
        return ticket


def page(ticket_id: str) -> str:
    """Where a ticket is decided on."""
    return f"http://gate/approvals/{ticket_id}/page"
