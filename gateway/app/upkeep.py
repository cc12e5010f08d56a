"""What is forgotten in time: tasks that ended long ago, push configurations that no agent took up, old tickets."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import anyio

from gateway.a2a.push_records import PushRecords
from gateway.errors import InterlockError
from gateway.ports import TaskStore
from gateway.tickets import ApprovalStore

log = logging.getLogger("interlock.a2a")

DAY_S: Final = 86_400.0
KEPT_MS: Final = 30 * 86_400_000
"""How long a task is known after its end. Then nobody owns it, so it is not found by anybody."""


async def forget_in_time(
    tasks: TaskStore,
    pushes: PushRecords,
    agents: Callable[[], Iterable[str]],
    clock_ms: Callable[[], int],
    *,
    wait: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> None:
    """Look once at the start, then once a day, until cancelled."""
    while True:
        try:
            forgotten = await tasks.prune(clock_ms() - KEPT_MS)
            dropped = sum([await pushes.sweep(agent) for agent in agents()])
        except (InterlockError, TimeoutError) as exc:
            log.warning("old tasks were not forgotten, which is tried again in a day: %s", exc)
        else:
            if forgotten or dropped:
                log.info("forgotten: %d tasks that ended long ago, %d pending webhooks", forgotten, dropped)
        await wait(DAY_S)


async def forget_tickets(
    store: ApprovalStore, clock_ms: Callable[[], int], *, wait: Callable[[float], Awaitable[None]] = anyio.sleep
) -> None:
    """Forget held calls whose time was over long ago, at the start and once a day, until cancelled."""
    while True:
        try:
            forgotten = await store.prune_tickets(clock_ms() - KEPT_MS)
        except (InterlockError, TimeoutError) as exc:
            log.warning("old approvals were not forgotten, which is tried again in a day: %s", exc)
        else:
            if forgotten:
                log.info("forgotten: %d approvals whose time was over long ago", forgotten)
        await wait(DAY_S)
