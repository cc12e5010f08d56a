"""Approvals of a gateway, put together: the gate, the desks, kill switches, webhooks, and the routes to them."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import TaskGroup
from starlette.routing import BaseRoute

from adapters.stores.approvals import SqlApprovalStore
from adapters.stores.sql import SqlStore
from gateway.app.upkeep import forget_tickets
from gateway.approvals.desk import ApprovalDesk
from gateway.approvals.gate import ApprovalGate
from gateway.approvals.notices import WEBHOOKS, Notifier
from gateway.approvals.switch_desk import SwitchDesk
from gateway.approvals.switches import KillSwitches
from gateway.config.tree import Settings
from gateway.identity.seal import Sealer
from gateway.listeners.approvals.calls import PROTOCOL, ApprovalCalls
from gateway.listeners.approvals.endpoints import approval_routes
from gateway.listeners.approvals.page import page_routes
from gateway.listeners.guards import Guards
from gateway.listeners.mcp.quiet import Handler
from gateway.ports import Identifier, Upstream
from gateway.tickets import ApprovalStore, Ticket
from gateway.types import Call

log = logging.getLogger("interlock.approvals")

SWITCHES: Final = "switches/"
PATIENCE_S: Final = 20.0
"""How long a client whose user went to the page is kept waiting: less than clients and proxies wait by themselves."""
LOOK_S: Final = 0.5


def now_ms() -> int:
    """Wall clock, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Heralds:
    """Tells several of what becomes of tickets."""

    on_change: list[Callable[[Ticket], None]] = field(default_factory=list)

    def opened(self, ticket: Ticket) -> None:
        """A call is held. Rules put arguments into titles, which are nothing for a log."""
        log.info("held: a call waits for people (ticket %s)", ticket.id)
        self._tell(ticket)

    def voted(self, ticket: Ticket) -> None:
        """Somebody voted on it."""
        log.info("ticket %s is %s", ticket.id, ticket.state)
        self._tell(ticket)

    def _tell(self, ticket: Ticket) -> None:
        for tell in self.on_change:
            tell(ticket)


class ApprovalParts:
    """What the governed path and the listener need of approvals."""

    def __init__(self, store: ApprovalStore, max_pending: int, url: str) -> None:
        self.store = store
        self.heralds = Heralds()
        self.switches = KillSwitches()
        self.ends: list[Callable[[], int]] = []
        """What ends calls in flight: that of the pipeline, once there is one."""
        self._url = url
        self.gate = ApprovalGate(
            store,
            clock_ms=now_ms,
            url_of=self.url_of,
            herald=self.heralds,
            max_pending=max_pending,
        )
        self._desk = ApprovalDesk(store, clock_ms=now_ms, url_of=self.url_of, herald=self.heralds)
        self._switch_desk = SwitchDesk(store, self.switches, clock_ms=now_ms, changed=self.end_killed)

    def url_of(self, ticket_id: str) -> str:
        """The page where people decide on a ticket."""
        return f"{self._url}/approvals/{ticket_id}/page"

    def end_killed(self) -> int:
        """End the calls in flight that a switch is set for; how many."""
        return sum(end() for end in self.ends)

    def desk_for(self, call: Call) -> Upstream | None:
        """What carries out a call of this API; `None` for any other call."""
        if call.protocol != PROTOCOL:
            return None
        return self._switch_desk if call.method.startswith(SWITCHES) else self._desk

    def routes(
        self, handler: Handler, identifier: Identifier, guards: Guards, new_id: Callable[[], str], sealer: Sealer
    ) -> list[BaseRoute]:
        """The page for browsers, and the HTTP API."""
        calls = ApprovalCalls(self.store, handler, identifier, new_id)
        return [*page_routes(calls, guards, sealer, self._url), *approval_routes(calls, guards)]

    async def patience(self, ticket_id: str) -> None:
        """Return when people decided on a ticket, at this replica or another, and after `PATIENCE_S` in any case."""
        with anyio.move_on_after(PATIENCE_S):
            while True:
                ticket = await self.store.ticket(ticket_id)
                if ticket is None or ticket.state != "pending":
                    return
                await anyio.sleep(LOOK_S)

    async def follow(self) -> None:
        """Notice switches that another process set. Raises `StateUnavailable`."""
        if await self.switches.follow(self.store):
            ended = self.end_killed()
            log.warning("the kill switches changed; calls that were ended: %d", ended)


async def open_approvals(
    settings: Settings, state: SqlStore, url: str, group: TaskGroup, stack: AsyncExitStack
) -> ApprovalParts:
    """All of it, with the kill switches that are set already. Raises `StateUnavailable`."""
    store = state.approvals
    parts = ApprovalParts(store, settings.limits.max_parked, url)
    await parts.follow()
    group.start_soon(forget_tickets, store, now_ms)
    if settings.approvals.webhook_url:
        key = await state.secret(WEBHOOKS)
        notifying = _notifying(settings.approvals.webhook_url, key, store, parts.url_of)
        parts.heralds.on_change.append((await stack.enter_async_context(notifying)).changed)
    return parts


@asynccontextmanager
async def _notifying(
    receiver: str, key: bytes, store: SqlApprovalStore, url_of: Callable[[str], str]
) -> AsyncIterator[Notifier]:
    """A notifier that runs, in a group of its own: it has to end before the connection that it sends on."""
    from adapters.notices.webhook import Webhook  # only where one is configured

    async with Webhook(receiver, key, url_of=url_of) as webhook, anyio.create_task_group() as group:
        notifier = Notifier(store, webhook, now_ms, random.random)
        group.start_soon(notifier.run)
        yield notifier
        group.cancel_scope.cancel()
