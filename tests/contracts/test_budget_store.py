"""What every store of budgets promises, held against the fake, SQLite and PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import anyio
import pytest

from adapters.stores.sql import open_store
from gateway.spending import (
    NOTHING,
    Account,
    BudgetStore,
    Charge,
    Drawn,
    Limits,
    Line,
    Reserved,
    Short,
    Source,
    Standing,
    StandingQuery,
    Terms,
)
from gateway.types import Usage
from tests.contracts import postgres
from tests.fake_budgets import FakeBudgetStore

Stores: TypeAlias = tuple[BudgetStore, BudgetStore]

NOW = 1_000_000
LEASE = NOW + 30_000
DAY = Account("day", "k-ana", "subject", "user:ana", "daily", 86_400, 0, "acme")
EVER = Account("ever", "k-acme", "tenant", "acme")
TERMS = Terms(Limits(tokens=100), 0.5, "group:finance", allows_unknown_price=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    with postgres.cluster() as home:
        yield home


@pytest.fixture(params=["fake", "sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    """The same state as two replicas see it."""
    if request.param == "fake":
        fake = FakeBudgetStore()
        yield fake, fake
        return
    url = ""
    if request.param == "postgresql":
        url = postgres.create_database(request.getfixturevalue("cluster"), f"t{uuid4().hex}")
    async with AsyncExitStack() as stack:
        opened = [await open_store(url, data_dir=tmp_path / "data", clock_s=time.time) for _ in range(2)]
        for store in opened:
            stack.push_async_callback(store.aclose)
        yield opened[0].budgets, opened[1].budgets


def tokens(count: int, account: Account = DAY, terms: Terms = TERMS) -> Line:
    return Line(account, terms, Usage(tokens=count))


async def reserved(store: BudgetStore, hold: str, *lines: Line, sources: tuple[Source, ...] = ()) -> Reserved:
    made = await store.reserve(hold, lines, sources, NOW, LEASE)
    assert isinstance(made, Reserved)
    return made


async def standing(store: BudgetStore, account: Account = DAY, now_ms: int = NOW) -> Standing:
    (found,) = await store.standings(StandingQuery(now_ms, account=account.id))
    return found


async def test_what_is_reserved_is_held_and_what_is_charged_is_spent(stores: Stores) -> None:
    first, second = stores

    made = await reserved(first, "h1", tokens(60), tokens(60, EVER, replace(TERMS, limits=Limits())))
    assert [each.held.tokens for each in made.standings] == [60, 60]
    assert await standing(second) == Standing(DAY, TERMS, NOTHING, Usage(tokens=60), NOW)

    settled = await second.settle(
        "h1", [Charge("day", Usage(tokens=10)), Charge("ever", Usage(9, 8, 7, 6))], (), NOW + 5
    )
    assert {each.account.id: (each.spent, each.held) for each in settled} == {
        "day": (Usage(tokens=10), NOTHING),
        "ever": (Usage(9, 8, 7, 6), NOTHING),
    }
    assert await standing(first, EVER) == Standing(
        EVER, replace(TERMS, limits=Limits()), Usage(9, 8, 7, 6), NOTHING, NOW + 5
    )


async def test_of_several_accounts_all_give_or_none_does(stores: Stores) -> None:
    store = stores[0]
    await reserved(store, "h1", tokens(60, EVER))

    short = await store.reserve("h2", [tokens(60), tokens(41, EVER)], (), NOW, LEASE)

    assert isinstance(short, Short)
    assert (short.standing.account, short.dimension, short.ask) == (EVER, "tokens", 41)
    assert (await standing(store)).held == NOTHING
    await reserved(store, "h2", tokens(60), tokens(40, EVER))


async def test_a_call_is_charged_to_however_many_accounts_it_has(stores: Stores) -> None:
    store = stores[0]
    lines = [tokens(1, replace(DAY, id=f"day{number}")) for number in range(600)]

    made = await reserved(store, "h1", *lines)
    settled = await store.settle("h1", [Charge(line.account.id, Usage(tokens=2)) for line in lines], (), NOW)

    assert len(made.standings) == 600
    assert [each.spent.tokens for each in settled] == [2] * 600


async def test_what_costs_nothing_passes_where_nothing_is_left(stores: Stores) -> None:
    store = stores[0]
    await reserved(store, "h1", tokens(100))
    await store.settle("h1", [Charge("day", Usage(tokens=130))], (), NOW)

    await reserved(store, "h2", Line(DAY, TERMS, Usage(nano_usd=5, calls=1)))
    assert isinstance(await store.reserve("h3", [tokens(1)], (), NOW, LEASE), Short)


async def test_time_is_given_in_part_and_grows(stores: Stores) -> None:
    store = stores[0]
    terms = Terms(Limits(millis=2_500))
    line = Line(DAY, terms, Usage(millis=1_000))

    first = await reserved(store, "h1", line)
    grown = await reserved(store, "h1", line)
    last = await reserved(store, "h1", line)
    none = await store.reserve("h1", [line], (), NOW, LEASE)

    given = [made.given["day"].millis for made in (first, grown, last)]
    assert given == [1_000, 1_000, 500]
    assert isinstance(none, Short)
    assert (await standing(store)).held.millis == 2_500


async def test_what_a_call_causes_spends_its_reservation_first(stores: Stores) -> None:
    store = stores[0]
    await reserved(store, "root", tokens(80))
    source = (Source("root", Usage(tokens=10)),)

    child = await reserved(store, "child", tokens(75), sources=source)
    short = await store.reserve("other", [tokens(20)], source, NOW, LEASE)

    assert child.drawn == [Drawn("day", "root", Usage(tokens=70))]  # it keeps 10, so 5 come from the account
    assert (await standing(store)).held == Usage(tokens=85)
    assert isinstance(short, Short)
    assert short.ask == 20

    await store.settle("child", [Charge("day", Usage(tokens=30))], child.drawn, NOW)
    after = await standing(store)  # 45 were left of it, and go back to where they came from
    assert (after.spent, after.held) == (Usage(tokens=30), Usage(tokens=55))
    await reserved(store, "other", tokens(20), sources=source)
    assert (await standing(store)).held == Usage(tokens=55)


async def test_a_hold_is_settled_once(stores: Stores) -> None:
    await reserved(stores[0], "h1", tokens(10))

    for store in (*stores, stores[0]):
        await store.settle("h1", [Charge("day", Usage(tokens=7))], (), NOW)

    assert (await standing(stores[0])).spent == Usage(tokens=7)


async def test_a_hold_counts_until_its_lease_is_over_and_may_be_settled_after(stores: Stores) -> None:
    first, second = stores
    await reserved(first, "h1", tokens(100))
    await reserved(first, "h2", tokens(0))

    assert isinstance(await second.reserve("h3", [tokens(1)], (), LEASE - 1, LEASE), Short)
    await second.renew(["h1", "gone"], LEASE + 1)
    assert isinstance(await second.reserve("h3", [tokens(1)], (), LEASE, LEASE), Short)
    assert isinstance(await second.reserve("h3", [tokens(1)], (), LEASE + 1, LEASE + 9), Reserved)

    await first.settle("h1", [Charge("day", Usage(tokens=50))], (), LEASE + 2)
    after = await standing(second, now_ms=LEASE + 2)
    assert (after.spent, after.held) == (Usage(tokens=50), Usage(tokens=1))


async def test_of_many_at_once_no_more_get_something_than_there_is(stores: Stores) -> None:
    got: list[str] = []

    async def take(store: BudgetStore, hold: str) -> None:
        made = await store.reserve(hold, [tokens(7), tokens(1, EVER)], (), NOW, LEASE)
        if isinstance(made, Reserved):
            got.append(hold)
            await store.settle(hold, [Charge("day", Usage(tokens=7)), Charge("ever", Usage(tokens=1))], (), NOW)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(take, stores[number % 2], f"h{number}")

    assert len(got) == 14
    assert (await standing(stores[0])).spent == Usage(tokens=98)
    assert (await standing(stores[1], EVER)).spent == Usage(tokens=14)


async def test_of_many_children_at_once_none_spends_what_another_has(stores: Stores) -> None:
    await reserved(stores[0], "root", tokens(90))
    made: list[Reserved | Short] = []

    async def take(store: BudgetStore, hold: str) -> None:
        made.append(await store.reserve(hold, [tokens(7)], [Source("root")], NOW, LEASE))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(take, stores[number % 2], f"h{number}")

    granted = [each for each in made if isinstance(each, Reserved)]
    drawn = sum(item.usage.tokens for each in granted for item in each.drawn)
    assert (len(granted), drawn) == (14, 90)
    assert (await standing(stores[0])).held == Usage(tokens=98)


async def test_accounts_are_found_by_their_holders_while_their_window_lasts(stores: Stores) -> None:
    store = stores[0]
    await reserved(store, "h1", tokens(1))
    await store.reserve("h2", [tokens(1, EVER)], (), NOW + 1, LEASE)

    async def found(now_ms: int, keys: tuple[str, ...] | None) -> list[str]:
        return [each.account.id for each in await store.standings(StandingQuery(now_ms, keys))]

    assert await found(NOW, None) == ["ever", "day"]
    assert await found(NOW, ("k-ana", "k-bo")) == ["day"]
    assert await found(86_400_000, None) == ["ever"]
    assert await found(0, ("k-ana",)) == ["day"]
    assert [each.account.id for each in await store.standings(StandingQuery(NOW, limit=1))] == ["ever"]


async def test_a_reset_leaves_what_calls_in_flight_hold(stores: Stores) -> None:
    store = stores[0]
    await reserved(store, "h1", tokens(60))
    await reserved(store, "h2", tokens(40))
    await store.settle("h1", [Charge("day", Usage(tokens=60))], (), NOW)

    assert await store.reset("day", NOW)
    assert not await store.reset("none", NOW)

    after = await standing(store)
    assert (after.spent, after.held) == (NOTHING, Usage(tokens=40))


async def test_old_windows_and_idle_chains_are_forgotten(stores: Stores) -> None:
    store = stores[0]
    chain = Account("chain", "k-c1", "chain", "c1")
    await reserved(store, "h1", tokens(1), tokens(1, EVER), tokens(1, chain))

    assert await store.prune(NOW) == 0
    assert await store.prune(86_400_001) == 2

    assert [each.account.id for each in await store.standings(StandingQuery(NOW))] == ["ever"]


async def test_what_was_spent_never_gets_too_much_to_be_counted(stores: Stores) -> None:
    store = stores[0]
    unlimited = replace(TERMS, limits=Limits())
    for number in range(3):
        await reserved(store, f"h{number}", tokens(1, terms=unlimited))
        await store.settle(f"h{number}", [Charge("day", Usage(tokens=5 * 10**18))], (), NOW)

    assert (await standing(store)).spent.tokens >= 9 * 10**18
    assert isinstance(await store.reserve("last", [tokens(1)], (), NOW, LEASE), Short)
