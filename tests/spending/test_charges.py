"""What a call is charged: what it declares, what it reports, else what was estimated, and nothing that was not done."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from adapters.models.prices import litellm_prices
from adapters.stores.sql import open_store
from gateway.budgets.estimates import MOST
from gateway.errors import (
    InterlockError,
    InvalidCall,
    PolicyDenied,
    QuotaExceeded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.models import price_facts
from gateway.ports import Relay
from gateway.spending import NOTHING
from gateway.types import Authorized, FrozenDict, Reason, Resource, Result, Usage, freeze
from tests.fake_budgets import FakeBudgetStore
from tests.spending.worlds import DAY_LEFT_S, World, budget, cost, model, reporting, tool


def listed(name: str) -> Resource:
    """A model at the price of litellm's list."""
    price = litellm_prices().price(name)
    assert price is not None
    catalog = freeze(price_facts(price))
    assert isinstance(catalog, FrozenDict)
    return Resource("model", "p/m", "p", "m", catalog=catalog)


async def test_a_call_without_a_budget_asks_the_store_nothing() -> None:
    store = FakeBudgetStore()
    world = World(store)
    world.rules = {"t": [cost(usd=5)]}

    await world.call()

    assert store.asked == 0
    assert world.record.notes is None


async def test_a_tool_is_charged_what_policy_says_that_it_costs() -> None:
    world = World()
    world.rules = {"t": [budget(usd=0.05, calls=10), cost(usd=0.02, tokens=3)]}

    await world.call()
    await world.call()
    with pytest.raises(QuotaExceeded, match=r"0\.04 USD of 0\.05 USD are spent"):
        await world.call()

    assert await world.spent() == Usage(40_000_000, 6, 2)
    assert world.record.outcome == "denied"


async def test_what_a_model_reports_is_charged_and_the_rest_of_the_estimate_comes_back() -> None:
    world = World()
    world.rules = {"m": [budget(usd=1, tokens=1_000)]}
    world.answers = {"m": reporting(70_000, 60)}

    await world.call(model(), estimate=(100, 100))

    assert await world.spent() == Usage(70_000, 60, 1)
    assert world.told["charged"] == {"usd": 0.00007, "tokens": 60, "calls": 1, "seconds": 0.0}


async def test_what_is_not_reported_is_charged_as_it_was_estimated() -> None:
    world = World()
    world.rules = {"m": [budget(usd=1)]}

    await world.call(model(), estimate=(100, 50))

    assert await world.spent() == Usage(200_000, 150, 1)


async def test_tokens_that_are_reported_without_their_price_cost_no_less_than_they_may() -> None:
    world = World()
    world.rules = {"m": [budget(usd=1)]}
    world.answers = {"m": reporting(0, 10)}

    await world.call(model(), estimate=(100, 50))

    assert await world.spent() == Usage(20_000, 10, 1)


@pytest.mark.parametrize(
    ("reported", "charged"),
    [
        (Usage(-5, -7), Usage(0, 0, 1)),
        (Usage(10**40, 10**40), Usage(MOST, MOST, 1)),
    ],
)
async def test_what_no_provider_can_mean_neither_earns_anything_nor_breaks_the_store(
    reported: Usage, charged: Usage, tmp_path: Path
) -> None:
    opened = await open_store("", data_dir=tmp_path, clock_s=lambda: 0.0)
    world = World(opened.budgets)
    world.rules = {"m": [budget(tokens=1_000)]}
    world.answers = {"m": reporting(reported.nano_usd, reported.tokens)}
    try:
        await world.call(model(), estimate=(1, 1))
        assert await world.spent() == charged
    finally:
        await opened.aclose()


async def test_a_caller_that_asks_for_more_tokens_than_there_are_meets_its_budget(tmp_path: Path) -> None:
    opened = await open_store("", data_dir=tmp_path, clock_s=lambda: 0.0)
    world = World(opened.budgets)
    world.answers = {"m": reporting(1, 1)}
    try:
        world.rules = {"m": [budget(usd=1)]}
        with pytest.raises(QuotaExceeded):
            await world.call(model(), estimate=(1, 10**400))
        world.rules = {"m": [budget(calls=1, name="calls")]}
        await world.call(model(), estimate=(1, 10**400))
        assert await world.spent(name="calls") == Usage(1, 1, 1)
    finally:
        await opened.aclose()


async def test_an_estimate_that_does_not_fit_is_refused_before_the_call() -> None:
    world = World()
    world.rules = {"m": [budget(tokens=199, window_s=86_400, name="daily", owner="group:finance")]}

    with pytest.raises(QuotaExceeded) as refused:
        await world.call(model(), estimate=(100, 100))

    words = str(refused.value)
    assert "the budget 'daily' of subject user:ana per 86400 s is used up: 0 tokens of 199 tokens are spent" in words
    assert "this call may need 200 tokens" in words
    assert "group:finance can raise it" in words
    assert refused.value.retry_after_s == DAY_LEFT_S
    assert refused.value.ruling is not None
    assert world.record.error == "quota_exceeded"


async def test_a_call_that_may_pass_soon_is_told_so() -> None:
    world = World()
    world.rules = {"t": [budget(calls=1)]}
    refused: list[QuotaExceeded] = []

    async def twice(authorized: Authorized, relay: Relay) -> Result:
        world.answers = {}
        with pytest.raises(QuotaExceeded) as raised:
            await world.call()
        refused.append(raised.value)
        return Result(b"{}", "input_required")

    world.answers = {"t": twice}
    await world.call()

    assert refused[0].retry_after_s == 30
    assert "calls in flight hold 1 calls" in str(refused[0])
    assert await world.spent() == NOTHING  # the round that ends the call is charged


@pytest.mark.parametrize(
    ("error", "charged"),
    [
        (UpstreamUnavailable("x"), Usage(calls=1)),
        (InvalidCall("x"), Usage(calls=1)),
        (PolicyDenied("x", reasons=[Reason("x")]), NOTHING),
        (UpstreamTimeout("x"), Usage(200_000, 150, 1)),
        (UpstreamProtocolError("x"), Usage(200_000, 150, 1)),
        (ZeroDivisionError(), Usage(200_000, 150, 1)),
    ],
)
async def test_what_nobody_did_is_given_back_and_what_somebody_may_have_done_is_not(
    error: Exception, charged: Usage
) -> None:
    world = World()
    world.rules = {"m": [budget(usd=1)]}

    async def fail(authorized: Authorized, relay: Relay) -> Result:
        raise error

    world.answers = {"m": fail}
    with pytest.raises(type(error)):
        await world.call(model(), estimate=(100, 50))

    assert await world.spent() == charged


async def test_a_stream_that_is_cut_is_charged_its_estimate() -> None:
    world = World()
    world.rules = {"m": [budget(usd=1)]}

    async def cut(authorized: Authorized, relay: Relay) -> Result:
        await relay.emit(b"{}")
        raise UpstreamUnavailable("cut")

    world.answers = {"m": cut}
    with pytest.raises(UpstreamUnavailable):
        await world.call(model(), estimate=(100, 50))

    assert await world.spent() == Usage(200_000, 150, 1)


async def test_a_caller_that_leaves_has_spent_what_was_estimated() -> None:
    world = World()
    world.rules = {"m": [budget(usd=1)]}
    started = anyio.Event()

    async def hang(authorized: Authorized, relay: Relay) -> Result:
        started.set()
        await anyio.sleep_forever()
        return Result(b"{}")

    world.answers = {"m": hang}
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: world.call(model(), estimate=(100, 50)))
            await started.wait()
            group.cancel_scope.cancel()

    assert await world.spent() == Usage(200_000, 150, 1)
    assert world.record.outcome == "cancelled"
    assert world.told["charged"] == {"usd": 0.0002, "tokens": 150, "calls": 1, "seconds": 0.0}


async def test_callers_that_leave_while_they_reserve_lock_nobody_out_and_hold_nothing(tmp_path: Path) -> None:
    opened = await open_store("", data_dir=tmp_path, clock_s=lambda: 0.0)
    world = World(opened.budgets)
    world.rules = {"t": [budget(calls=1_000)]}
    try:
        with anyio.fail_after(20):
            for turns in range(100):
                call = asyncio.create_task(world.call())
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                call.cancel()  # as listeners do it, which no cancel scope of the store keeps off
                await asyncio.wait([call])
                await world.ledger.aclose()
                await world.call()
        assert (await world.standings())["subject", ""].held == NOTHING
    finally:
        await opened.aclose()


async def test_a_result_that_policy_withholds_was_paid_for() -> None:
    world = World()
    world.rules = {"m": [budget(usd=1)]}
    world.answers = {"m": reporting(5, 6)}

    def withhold(authorized: Authorized, result: Result) -> Result:
        raise PolicyDenied("no")

    world.decider.inspect_with = withhold
    with pytest.raises(PolicyDenied):
        await world.call(model(), estimate=(1, 1))

    assert await world.spent() == Usage(5, 6, 1)


async def test_an_unknown_price_is_refused_where_money_is_limited_unless_policy_allows_it() -> None:
    world = World()
    unpriced = model(price=None)
    world.rules = {"m": [budget(usd=1)]}
    with pytest.raises(PolicyDenied, match=r"unknown_price.*models\.toml"):
        await world.call(unpriced, estimate=(1, 1))

    for rules in ([budget(usd=1, unknown_price="allow")], [budget(tokens=9)], [budget(usd=1), cost(usd=0.1)]):
        world.rules = {"m": rules}
        await world.call(unpriced, estimate=(1, 1))

    world.rules = {"m": [budget(usd=1, unknown_price="allow"), budget(scope="tenant", usd=1)]}
    with pytest.raises(PolicyDenied, match="unknown_price"):
        await world.call(unpriced, estimate=(1, 1))


async def test_a_long_call_is_refused_at_the_price_of_long_calls() -> None:
    world, gemini = World(), listed("gemini/gemini-2.5-pro")
    world.rules = {"m": [budget(usd=0.4)]}

    await world.call(gemini, estimate=(200_000, 1_000))
    with pytest.raises(QuotaExceeded, match=r"this call may need 0\.5150025 USD"):
        await world.call(gemini, estimate=(200_001, 1_000))

    assert (await world.spent()).nano_usd == 200_000 * 1_250 + 1_000 * 10_000


async def test_a_refusal_tells_amounts_below_a_millionth_of_a_dollar() -> None:
    world = World()
    world.rules = {"m": [budget(usd=0.0000004)]}

    with pytest.raises(QuotaExceeded, match=r": 0 USD of 0\.0000004 USD are spent, .* need 0\.00000045 USD"):
        await world.call(model(price=(5, 40)), estimate=(10, 10))


async def test_priority_is_charged_its_own_price_and_refused_where_nobody_knows_it() -> None:
    world = World()
    world.rules = {"m": [budget(usd=1)]}

    await world.call(listed("gpt-4o"), estimate=(1_000, 100), service_tier="priority")
    assert (await world.spent()).nano_usd == 1_000 * 4_250 + 100 * 17_000
    with pytest.raises(PolicyDenied, match=r"costs with 'priority'.*leave service_tier.*unknown_price"):
        await world.call(listed("gpt-5-nano"), estimate=(1_000, 100), service_tier="priority")

    world.rules = {"m": [budget(usd=1, name="b", unknown_price="allow")]}
    await world.call(listed("gpt-5-nano"), estimate=(1_000, 100), service_tier="priority")
    assert (await world.spent(name="b")).nano_usd == 1_000 * 50 + 100 * 400


async def test_free_calls_pass_where_the_money_is_spent() -> None:
    world = World()
    world.rules = {"t": [budget(usd=0.01)], "m": [budget(usd=0.01)], "paid": [budget(usd=0.01), cost(usd=0.01)]}

    await world.call(tool("paid"))
    await world.call(tool())
    await world.call(model(price=(0, 0)), estimate=(100, 100))
    with pytest.raises(QuotaExceeded):
        await world.call(model(), estimate=(1, 0))


async def test_without_a_ledger_a_budget_is_a_refusal() -> None:
    world = World()
    world.pipeline.budgets = None
    world.rules = {"t": [budget(calls=1)]}

    with pytest.raises(PolicyDenied, match="nothing here keeps one"):
        await world.call()


async def test_while_the_store_is_down_nothing_is_spent_and_free_calls_go_on() -> None:
    store = FakeBudgetStore()
    world = World(store)
    world.rules = {"t": [budget(calls=1)]}
    store.fail_with = InterlockError("down")

    with pytest.raises(InterlockError, match="down"):
        await world.call()
    await world.call(tool("free"))

    store.fail_with = None
    await world.call()
    assert (await world.spent()).calls == 1
