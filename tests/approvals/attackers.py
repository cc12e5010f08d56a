"""The steps of somebody who tries what is not meant to work."""

from __future__ import annotations

from gateway.errors import ApprovalPending
from gateway.listeners.approvals.calls import ApprovalCalls
from gateway.tickets import Ticket
from gateway.types import Credentials, Result
from tests.approvals.worlds import World


def calls_of(world: World) -> ApprovalCalls:
    return ApprovalCalls(world.store, world.pipeline, world.identifier, lambda: "q", lambda: world.now_ms * 1_000_000)


async def vote(world: World, who: str, ticket_id: str, **params: object) -> Result:
    return await calls_of(world).vote("approvals/approve", ticket_id, params, Credentials(who))


async def ticket_of(world: World, held: ApprovalPending) -> Ticket:
    ticket = await world.store.ticket(held.ticket_id)
    assert ticket is not None
    return ticket
