"""Held calls that expired are forgotten, also after the state store was away."""

from __future__ import annotations

import anyio

from gateway.app.held import forget_held
from gateway.errors import UpstreamUnavailable
from gateway.tickets import HeldCall
from tests.fake_held import FakeHeldCallStore


async def test_expired_held_calls_are_forgotten_once_the_store_is_back() -> None:
    store, looked = FakeHeldCallStore(), 0
    await store.keep_held(HeldCall("apr-1", "ana", b"", 1, 1, expires_ms=9))
    await store.keep_held(HeldCall("apr-2", "ana", b"", 1, 1, expires_ms=11))
    store.fail_with = UpstreamUnavailable("away")

    async def wait(_: float) -> None:
        nonlocal looked
        looked += 1
        store.fail_with = None
        if looked == 2:
            group.cancel_scope.cancel()
        await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await forget_held(store, lambda: 10, wait=wait)

    assert list(store.kept) == ["apr-2"]
