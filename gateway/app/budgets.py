"""Budgets of a gateway, put together: the ledger over its store, the desk, the facts for policy, the routes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import TaskGroup
from starlette.routing import BaseRoute

from adapters.stores.sql import SqlStore
from gateway.app.approvals import now_ms
from gateway.app.upkeep import DAY_S, KEPT_MS
from gateway.authz.budgeting import BudgetFacts
from gateway.budgets.desk import BudgetDesk
from gateway.budgets.facts import BudgetLook
from gateway.budgets.ledger import Ledger
from gateway.errors import InterlockError
from gateway.listeners.budgets import BudgetCalls, budget_routes
from gateway.listeners.guards import Guards
from gateway.listeners.mcp.quiet import Handler
from gateway.ports import Identifier
from gateway.spending import BudgetStore

log = logging.getLogger("interlock.budgets")

CLOSE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class BudgetParts:
    """What the governed path and the listener need of budgets."""

    ledger: Ledger
    desk: BudgetDesk
    facts: BudgetFacts

    def routes(
        self, handler: Handler, identifier: Identifier, guards: Guards, new_id: Callable[[], str]
    ) -> list[BaseRoute]:
        """The HTTP API."""
        return budget_routes(BudgetCalls(handler, identifier, new_id, self.desk.facts_of), guards)


def open_budgets(state: SqlStore, reads: Callable[[], bool], group: TaskGroup, stack: AsyncExitStack) -> BudgetParts:
    """All of it; leases are kept by `group`. `reads` says whether the policy in force reads what was spent."""
    store = state.budgets
    ledger = Ledger(store, clock_ms=now_ms)
    stack.push_async_callback(_closed, ledger)
    group.start_soon(ledger.run)
    group.start_soon(forget_budgets, store, now_ms)
    return BudgetParts(ledger, BudgetDesk(store, clock_ms=now_ms), BudgetFacts(BudgetLook(store, now_ms), reads))


async def _closed(ledger: Ledger) -> None:
    """Also when the gateway was cancelled: what calls spent is charged, as far as there is time."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
        await ledger.aclose()


async def forget_budgets(
    store: BudgetStore, clock_ms: Callable[[], int], *, wait: Callable[[float], Awaitable[None]] = anyio.sleep
) -> None:
    """Forget windows that ended long ago, at the start and once a day, until cancelled."""
    while True:
        try:
            forgotten = await store.prune(clock_ms() - KEPT_MS)
        except (InterlockError, TimeoutError) as exc:
            log.warning("old budgets were not forgotten, which is tried again in a day: %s", exc)
        else:
            if forgotten:
                log.info("forgotten: %d budgets whose window was over long ago", forgotten)
        await wait(DAY_S)
