"""What a call causes spends what that call reserved, and a tree of calls ends at the limits of its root."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from adapters.stores.sql import open_store
from gateway.errors import QuotaExceeded, UpstreamUnavailable
from gateway.ports import Relay
from gateway.spending import BudgetStore, Line, Reserved, Short, Source
from gateway.types import Authorized, FrozenDict, Resource, Result, Usage, freeze
from tests.contracts import postgres
from tests.fake_budgets import FakeBudgetStore
from tests.spending.worlds import ANA, World, budget, cost, model, reporting, tool

ALIAS = Resource("model", "auto", "models", "auto")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    with postgres.cluster() as home:
        yield home


@asynccontextmanager
async def sql(url: str, data_dir: Path) -> AsyncIterator[BudgetStore]:
    opened = await open_store(url, data_dir=data_dir, clock_s=lambda: 0.0)
    try:
        yield opened.budgets
    finally:
        await opened.aclose()


async def ask(relay: Relay, name: str) -> Result:
    """Cause a call of the tool of that name."""
    return await relay.act("mcp.tools.call", "tools/call", tool(name), {"name": name})


async def test_a_child_spends_what_its_parent_reserved_and_nothing_is_charged_twice() -> None:
    world = World()
    world.rules = {"auto": [budget(tokens=200)], "m": [budget(tokens=200)]}
    seen: list[Usage] = []

    async def route(authorized: Authorized, relay: Relay) -> Result:
        made = model()
        held = (await world.standings())["subject", ""].held
        call = await relay.act("model.call", "chat.completions", made, {"max_tokens": 199})
        seen.append(held)
        return replace(call, payload=b"{}")

    world.answers = {"auto": route, "m": reporting(5, 120)}
    priced = replace(ALIAS, catalog=model().catalog)
    await world.call(priced, estimate=(100, 100))

    assert seen == [Usage(300_000, 200, 1)]
    assert await world.spent() == Usage(5, 120, 2)


async def test_a_child_beyond_what_its_parent_reserved_takes_the_rest_from_the_account() -> None:
    world = World()
    world.rules = {
        "t": [budget(usd=1.0), cost(usd=0.1)],
        "a": [cost(usd=0.5)],
        "b": [cost(usd=0.4)],
        "c": [cost(usd=0.01)],
    }

    async def tree(authorized: Authorized, relay: Relay) -> Result:
        await ask(relay, "a")
        await ask(relay, "b")
        with pytest.raises(QuotaExceeded, match=r"0\.9 USD of 1 USD are spent, calls in flight hold 0\.1 USD"):
            await ask(relay, "c")
        return Result(b"{}")

    world.answers = {"t": tree}
    await world.call()

    assert (await world.spent()) == Usage(1_000_000_000, 0, 1)  # what policy sets on one call counts that call


async def test_a_chain_counts_every_call_of_its_tree() -> None:
    world = World()
    world.rules = {"t": [budget(scope="chain", calls=5)]}

    async def runaway(authorized: Authorized, relay: Relay) -> Result:
        return await ask(relay, "deeper")

    world.answers = {"t": runaway, "deeper": runaway}
    with pytest.raises(QuotaExceeded, match="of chain c1"):
        await world.call()

    assert len(world.decider.asked) == 6
    assert (await world.spent("chain")).calls == 5


async def test_each_tree_has_a_budget_of_its_own() -> None:
    world = World()
    world.rules = {"t": [budget(scope="chain", calls=1)]}

    await world.call()
    await world.call()

    assert len(world.trail.records) == 2


async def test_the_limits_of_a_parent_hold_for_children_that_have_wider_ones() -> None:
    world = World()
    world.rules = {"t": [budget(usd=0.5)], "a": [budget(usd=9), cost(usd=0.6)]}

    async def tree(authorized: Authorized, relay: Relay) -> Result:
        return await ask(relay, "a")

    world.answers = {"t": tree}
    with pytest.raises(QuotaExceeded, match=r"of 0\.5 USD"):
        await world.call()


async def test_what_a_long_call_causes_is_charged_to_the_window_that_it_is_made_in() -> None:
    world = World()
    world.rules = {"t": [budget(usd=1, window_s=60)], "a": [budget(usd=1, window_s=60), cost(usd=0.5)]}

    async def tree(authorized: Authorized, relay: Relay) -> Result:
        for _ in range(3):
            await ask(relay, "a")
            await ask(relay, "a")
            with pytest.raises(QuotaExceeded, match="1 USD of 1 USD are spent"):
                await ask(relay, "a")
            world.now_ms += 60_000
        await ask(relay, "a")
        return Result(b"{}")

    world.answers = {"t": tree}
    await world.call()

    assert await world.spent() == Usage(nano_usd=500_000_000, calls=1)


async def test_a_call_that_is_given_up_while_it_reserves_leaves_its_parent_what_that_one_has() -> None:
    made, go_on = anyio.Event(), anyio.Event()

    class Slow(FakeBudgetStore):
        async def reserve(
            self, hold: str, lines: Sequence[Line], sources: Sequence[Source], now_ms: int, lease_ms: int
        ) -> Reserved | Short:
            answer = await super().reserve(hold, lines, sources, now_ms, lease_ms)
            if sources:
                made.set()
                await go_on.wait()
            return answer

    world = World(Slow())
    world.rules = {"auto": [budget(tokens=1_000)], "m": []}

    async def route(authorized: Authorized, relay: Relay) -> Result:
        async with anyio.create_task_group() as group:
            group.start_soon(relay.act, "model.call", "chat.completions", model(), {"max_tokens": 150})
            await made.wait()
            group.cancel_scope.cancel()
        go_on.set()
        await world.ledger.aclose()
        assert (await world.standings())["subject", ""].held.tokens == 200
        return Result(b"{}")

    world.answers = {"auto": route}
    await world.call(ALIAS, estimate=(100, 100))


async def test_a_call_that_comes_back_through_agents_is_charged_to_the_chain_that_it_belongs_to() -> None:
    world = World()
    world.rules = {"t": [budget(scope="chain", calls=2)]}
    planner = replace(ANA, root="c1")

    async def agent(authorized: Authorized, relay: Relay) -> Result:
        await world.call(tool("other"), planner)  # policy says nothing of it, and it comes in from outside
        with pytest.raises(QuotaExceeded):
            await world.call(tool("other"), planner)
        return Result(b"{}")

    world.answers = {"t": agent}
    await world.call()

    assert (await world.spent("chain")).calls == 2


async def test_what_a_call_causes_after_its_end_is_held_to_the_budget_of_its_chain() -> None:
    world = World()
    world.rules = {"t": [budget(scope="chain", calls=2)]}
    kept: list[Relay] = []

    async def leave_something_behind(authorized: Authorized, relay: Relay) -> Result:
        kept.append(relay)
        return Result(b"{}")

    world.answers = {"t": leave_something_behind}
    await world.call()
    await ask(kept[0], "late")
    with pytest.raises(QuotaExceeded, match="of chain c1"):
        await ask(kept[0], "late")

    assert (await world.spent("chain")).calls == 2


async def test_a_call_pays_for_itself_when_what_it_caused_was_paid_for_and_then_refused() -> None:
    world = World()
    world.rules = {"t": [budget(usd=1), cost(usd=0.5)], "a": [cost(usd=0.3)]}

    async def tree(authorized: Authorized, relay: Relay) -> Result:
        await ask(relay, "a")
        return await ask(relay, "a")

    world.answers = {"t": tree}
    with pytest.raises(QuotaExceeded):
        await world.call()

    assert await world.spent() == Usage(800_000_000, 0, 1)


async def test_a_failed_route_costs_what_its_attempts_cost() -> None:
    world = World()
    world.rules = {"auto": [budget(usd=1)]}

    async def unreachable(authorized: Authorized, relay: Relay) -> Result:
        raise UpstreamUnavailable("x")

    async def route(authorized: Authorized, relay: Relay) -> Result:
        return await relay.act("model.call", "chat.completions", model(), {})

    world.answers = {"auto": route, "m": unreachable}
    with pytest.raises(UpstreamUnavailable):
        await world.call(ALIAS, estimate=(10, 10))

    assert await world.spent() == Usage(calls=1)


@pytest.mark.parametrize("kind", ["fake", "sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def test_two_hundred_callers_over_one_root_never_overspend_it(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = ""
    if kind == "postgresql":
        url = postgres.create_database(request.getfixturevalue("cluster"), f"t{uuid4().hex}")
    if kind == "fake":
        fake = FakeBudgetStore()
        await two_hundred(fake, fake)
        return
    async with sql(url, tmp_path) as store, sql(url, tmp_path) as replica:
        await two_hundred(store, replica)


async def two_hundred(store: BudgetStore, replica: BudgetStore) -> None:
    """Callers of one root, and as many elsewhere that are charged to the same account."""
    world, elsewhere = World(store), World(replica)
    rules = [budget(scope="chain", name="root", usd=1.0), budget(usd=1.2)]
    world.rules = {"t": rules, "m": []}
    elsewhere.rules = {"m": [budget(usd=1.2)]}
    done, refused = [0], [0]
    priced = model(price=(1_000_000, 1_000_000))

    async def counted(work: World, relay: Relay | None) -> None:
        try:
            if relay is not None:
                await relay.act("model.call", "x", replace(priced, catalog=with_cost()), {})
            else:
                await work.call(priced, estimate=(10, 20))
            done[0] += 1
        except QuotaExceeded:
            refused[0] += 1

    async def root(authorized: Authorized, relay: Relay) -> Result:
        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(counted, world, relay)
        return Result(b"{}")

    world.rules["m"] = [cost(usd=0.03)]
    world.answers = {"t": root, "m": reporting(0, 0)}
    elsewhere.answers = {"m": reporting(30_000_000, 30)}
    world.deadline_s = elsewhere.deadline_s = 120.0
    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            group.start_soon(world.call)
            for _ in range(10):
                group.start_soon(counted, elsewhere, None)

    assert done[0] + refused[0] == 210
    spent = (await world.spent("chain", "root")).nano_usd
    assert spent <= 1_000_000_000
    assert 1_200_000_000 - 30_000_000 <= (await world.spent()).nano_usd <= 1_200_000_000


def with_cost() -> FrozenDict:
    """Facts of a model that costs nothing by its tokens: what it costs, policy says."""
    frozen = freeze({"price": {"nano_usd_per_token_in": 0, "nano_usd_per_token_out": 0}})
    assert isinstance(frozen, FrozenDict)
    return frozen
