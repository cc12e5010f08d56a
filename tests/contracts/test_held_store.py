"""What every store of held calls promises, held against the fake, SQLite and PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from adapters.stores.sql import open_store
from gateway.tickets import HeldCall, HeldCallStore
from tests.contracts import postgres
from tests.fake_held import FakeHeldCallStore

HELD = HeldCall("apr-1", "jwt\x1fhttps://idp\x1fuser\x1fana", b"\x00sealed\xff", 1_000, 1_000, 9_000)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    with postgres.cluster() as home:
        yield home


@pytest.fixture(params=["fake", "sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[HeldCallStore, HeldCallStore]]:
    """The same state as two replicas see it."""
    if request.param == "fake":
        fake = FakeHeldCallStore()
        yield fake, fake
        return
    url = ""
    if request.param == "postgresql":
        url = postgres.create_database(request.getfixturevalue("cluster"), f"t{uuid4().hex}")
    async with AsyncExitStack() as stack:
        opened = [await open_store(url, data_dir=tmp_path / "data", clock_s=time.time) for _ in range(2)]
        for store in opened:
            stack.push_async_callback(store.aclose)
        yield opened[0].held, opened[1].held


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
