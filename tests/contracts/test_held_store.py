"""What every store of held calls promises, held against the fake, SQLite and PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from gateway.tickets import HeldCall, HeldCallStore
from tests.contracts.conftest import Replicas
from tests.fake_held import FakeHeldCallStore

HELD = HeldCall("apr-1", "jwt\x1fhttps://idp\x1fuser\x1fana", b"\x00sealed\xff", 1_000, 1_000, 9_000)


@pytest.fixture
async def stores(replicas: Replicas) -> tuple[HeldCallStore, HeldCallStore]:
    """The same state as two replicas see it."""
    if replicas is None:
        fake = FakeHeldCallStore()
        return fake, fake
    return (await replicas()).held, (await replicas()).held


async def test_what_is_kept_comes_back_as_it_was_from_every_replica(
    stores: tuple[HeldCallStore, HeldCallStore],
) -> None:
    first, second = stores

    assert await first.held("apr-1") is None
    assert await first.keep_held(HELD) == HELD
    assert await second.held("apr-1") == HELD


async def test_whoever_keeps_it_first_owns_it(stores: tuple[HeldCallStore, HeldCallStore]) -> None:
    first, second = stores
    await first.keep_held(HELD)

    assert await second.keep_held(replace(HELD, owner="bo", sealed_call=b"")) == HELD


async def test_change_comes_back_and_leaves_owner_and_call_alone(
    stores: tuple[HeldCallStore, HeldCallStore],
) -> None:
    first, second = stores
    await first.keep_held(HELD)
    changed = replace(
        HELD,
        state="done",
        sealed_result=b"\xff" * 100_000,
        runner="r",
        lease_ms=2_000,
        answer="accept",
        updated_ms=3_000,
        expires_ms=10_000,
    )

    assert await first.change_held(replace(changed, owner="bo", sealed_call=b"", created_ms=5))

    assert await second.held("apr-1") == replace(changed, version=1)


async def test_of_many_who_change_it_at_once_one_does(stores: tuple[HeldCallStore, HeldCallStore]) -> None:
    await stores[0].keep_held(HELD)
    won: list[bool] = []

    async def change(store: HeldCallStore, runner: str) -> None:
        won.append(await store.change_held(replace(HELD, state="running", runner=runner)))

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(change, stores[number % 2], str(number))

    assert sorted(won) == [False] * 7 + [True]
    assert not await stores[0].change_held(replace(HELD, ticket_id="apr-none"))


async def test_those_that_expired_are_forgotten(stores: tuple[HeldCallStore, HeldCallStore]) -> None:
    store = stores[0]
    await store.keep_held(HELD)
    await store.keep_held(replace(HELD, ticket_id="apr-2", expires_ms=9_001))

    assert await store.prune_held(9_001) == 1

    assert await store.held("apr-1") is None
    assert await store.held("apr-2") is not None
