"""What the root of a chain was given holds for all of the chain: after a restart, elsewhere, and however long it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from adapters.stores.sql import open_store
from gateway.budgets.chains import MAX_CHAINS
from gateway.budgets.wording import BudgetsUnavailable
from gateway.errors import InterlockError, QuotaExceeded
from gateway.ports import Relay
from gateway.spending import BudgetStore
from gateway.types import Authorized, Call, Result, Usage
from tests.contracts import postgres
from tests.fake_budgets import FakeBudgetStore
from tests.fakes import permit_for
from tests.spending.worlds import ANA, World, budget, model, tool

PLANNER = replace(ANA, root="c1")
"""An agent that works on the first call of a world."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    with postgres.cluster() as home:
        yield home


@pytest.fixture(params=["fake", "sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[BudgetStore, BudgetStore]]:
    """The same state as two replicas see it."""
    if request.param == "fake":
        fake = FakeBudgetStore()
        yield fake, fake
        return
    url = ""
    if request.param == "postgresql":
        url = postgres.create_database(request.getfixturevalue("cluster"), f"t{uuid4().hex}")
    async with AsyncExitStack() as stack:
        opened = [await open_store(url, data_dir=tmp_path / "data", clock_s=lambda: 0.0) for _ in range(2)]
        for store in opened:
            stack.push_async_callback(store.aclose)
        yield opened[0].budgets, opened[1].budgets


async def ask(relay: Relay, name: str) -> Result:
    """Cause a call of the tool of that name."""
    return await relay.act("mcp.tools.call", "tools/call", tool(name), {"name": name})


async def test_the_budget_of_a_root_holds_at_replicas_that_never_saw_it(
    stores: tuple[BudgetStore, BudgetStore],
) -> None:
    first, second = World(stores[0]), World(stores[1])
    first.rules = {"t": [budget(scope="chain", calls=3)]}
    await first.call()

    await second.call(tool("other"), PLANNER)
    await second.call(tool("other"), PLANNER)
    with pytest.raises(QuotaExceeded, match="of chain c1"):
        await second.call(tool("other"), PLANNER)

    assert await second.spent("chain") == Usage(calls=3)


async def test_what_policy_says_of_unknown_prices_holds_there_as_well(stores: tuple[BudgetStore, BudgetStore]) -> None:
    first, second = World(stores[0]), World(stores[1])
    first.rules = {"t": [budget(scope="chain", usd=1, unknown_price="allow")]}
    await first.call()

    await second.call(model(price=None), PLANNER, estimate=(1, 1))

    assert (await second.spent("chain")).calls == 2


async def test_a_window_that_is_over_leaves_its_limit_to_the_next_one(stores: tuple[BudgetStore, BudgetStore]) -> None:
    first, second = World(stores[0]), World(stores[1])
    first.rules = {"t": [budget(scope="chain", calls=2, window_s=60)]}
    await first.call()
    second.now_ms += 60_000

    for _ in range(2):
        await second.call(tool("other"), PLANNER)
    with pytest.raises(QuotaExceeded, match="of chain c1 per 60 s"):
        await second.call(tool("other"), PLANNER)
    second.now_ms += 60_000
    await second.call(tool("other"), PLANNER)


async def test_a_budget_that_another_replica_gives_a_chain_holds_from_then_on() -> None:
    store = FakeBudgetStore()
    first, second = World(store), World(store)
    second.rules = {"deep": [budget(scope="chain", calls=1)]}

    await first.call(tool("other"), PLANNER)
    await second.call(tool("deep"), PLANNER)
    with pytest.raises(QuotaExceeded, match="of chain c1"):
        await first.call(tool("other"), PLANNER)


@pytest.mark.parametrize("of_root", [[], [budget(usd=1)]])
async def test_a_budget_that_a_call_gives_its_chain_holds_for_all_that_come_after_it(
    of_root: list[Mapping[str, object]],
) -> None:
    world = World()
    world.rules = {"t": of_root, "deep": [budget(scope="chain", calls=2)]}

    async def tree(authorized: Authorized, relay: Relay) -> Result:
        await ask(relay, "deep")
        await ask(relay, "other")
        with pytest.raises(QuotaExceeded, match="of chain c1"):
            await ask(relay, "other")
        return Result(b"{}")

    world.answers = {"t": tree}
    await world.call()

    assert (await world.spent("chain")).calls == 2


async def test_while_nobody_knows_the_budget_of_a_chain_nothing_of_it_is_carried_out() -> None:
    store = FakeBudgetStore()
    world = World(store)
    store.fail_with = InterlockError("down")
    done: list[Call] = []

    async def note(authorized: Authorized, relay: Relay) -> Result:
        done.append(authorized.call)
        return Result(b"{}")

    world.answers = {"other": note}
    with pytest.raises(BudgetsUnavailable, match="try again later"):
        await world.call(tool("other"), PLANNER)

    assert done == []
    assert world.record.error == "budgets_unavailable"


async def test_calls_without_a_budget_and_all_that_they_cause_ask_the_store_nothing() -> None:
    store = FakeBudgetStore()
    world = World(store)
    kept: list[Relay] = []

    async def inner(authorized: Authorized, relay: Relay) -> Result:
        kept.append(relay)
        return await ask(relay, "innermost")

    async def outer(authorized: Authorized, relay: Relay) -> Result:
        return await ask(relay, "inner")

    world.answers = {"t": outer, "inner": inner}
    await world.call()
    await ask(kept[0], "late")

    assert len(world.trail.records) == 4
    assert store.asked == 0


async def test_a_chain_that_was_forgotten_among_many_is_found_again() -> None:
    world = World()
    world.rules = {"t": [budget(scope="chain", calls=2)]}
    kept: list[Relay] = []

    async def leave_something_behind(authorized: Authorized, relay: Relay) -> Result:
        kept.append(relay)
        return Result(b"{}")

    world.answers = {"t": leave_something_behind}
    await world.call()
    for number in range(MAX_CHAINS):
        other = Call(f"x{number}", "mcp.tools.call", "tools/call", tool("other"))
        assert await world.ledger.reserve(Authorized(other, ANA, permit_for(other, ANA))) is None

    await ask(kept[0], "late")
    with pytest.raises(QuotaExceeded, match="of chain c1"):
        await ask(kept[0], "late")
