"""Held calls that clients ask after, put together (`gateway.approvals.held`)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from adapters.stores.sql import SqlStore
from gateway.app.approvals import ApprovalParts, now_ms
from gateway.approvals.held import HeldCalls
from gateway.errors import InterlockError
from gateway.identity.push_seal import PushSealer
from gateway.ports import Exchange, Upstream
from gateway.tickets import HeldCallStore
from gateway.types import Call, Credentials, Identity, Result

log = logging.getLogger("interlock.approvals")

LOOK_S: Final = 600.0


class Path(Protocol):
    """The governed path, for what carries calls out by itself: what is asked of a held call."""

    async def handle(
        self,
        call: Call,
        credentials: Credentials | Identity,
        exchange: Exchange,
        *,
        by: Upstream | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> Result: ...


async def open_held(store: SqlStore, approvals: ApprovalParts, group: TaskGroup) -> HeldCalls:
    """All of it; calls are carried out in `group`. Raises `StateUnavailable`."""
    group.start_soon(forget_held, store.held, now_ms)
    return HeldCalls(
        store.held,
        store.approvals,
        PushSealer([await store.secret("held")]),
        group,
        instance=secrets.token_hex(8),
        clock_ms=now_ms,
        url_of=approvals.url_of,
    )


async def forget_held(
    store: HeldCallStore, clock_ms: Callable[[], int], *, wait: Callable[[float], Awaitable[None]] = anyio.sleep
) -> None:
    """Forget those that expired, at the start and every ten minutes, until cancelled."""
    while True:
        try:
            await store.prune_held(clock_ms())
        except (InterlockError, TimeoutError) as exc:
            log.warning("held calls that expired were not forgotten, which is tried again: %s", exc)
        await wait(LOOK_S)
