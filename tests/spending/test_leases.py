"""What calls in flight hold is theirs while they run, and nobody's soon after the gateway died."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from gateway.authz.budgeting import BudgetFacts
from gateway.budgets.facts import BudgetLook
from gateway.budgets.wording import BudgetsUnavailable
from gateway.errors import InterlockError, QuotaExceeded
from gateway.ports import Relay
from gateway.spending import NOTHING, Line, Reserved, Short, Source
from gateway.types import Authorized, Call, Entity, Result, Usage
from tests.fake_budgets import FakeBudgetStore
from tests.spending.worlds import ANA, DAY_LEFT_S, NOW_MS, World, budget, cost, tool


def mute(world: World) -> tuple[anyio.Event, anyio.Event]:
    """Have the tool run until the second event is set; the first says that it runs."""
    started, go_on = anyio.Event(), anyio.Event()

    async def wait(authorized: Authorized, relay: Relay) -> Result:
        started.set()
        await go_on.wait()
        return Result(b"{}")

    world.answers = {"t": wait}
    return started, go_on


async def test_a_long_call_keeps_what_it_holds_and_one_that_died_does_not() -> None:
    store = FakeBudgetStore()
    world, other = World(store), World(store)
    world.rules = other.rules = {"t": [budget(calls=1)]}
    started, go_on = mute(world)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(world.call)
            await started.wait()
            for _ in range(10):
                world.now_ms = other.now_ms = world.now_ms + 11_000
                await world.ledger.tick()
            with pytest.raises(QuotaExceeded, match="calls in flight hold 1 calls"):
                await other.call()
            other.now_ms += 31_000  # as if nobody had renewed it any more
            await other.call()
            go_on.set()

    assert (await other.spent()).calls == 2


async def test_a_store_that_is_away_is_told_once_and_once_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeBudgetStore()
    world = World(store, lease_ms=3_000)
    world.rules = {"t": [budget(seconds=60)]}
    started, go_on = mute(world)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(world.call)
            await started.wait()
            world.now_ms += 1_500
            for _ in range(2):
                store.fail_with = InterlockError("down")
                for _ in range(20):
                    await world.ledger.tick()
                store.fail_with = None
                for _ in range(20):
                    await world.ledger.tick()
                world.now_ms += 1_500
            go_on.set()

    logged = [record.getMessage() for record in caplog.records]
    assert ["down" in each for each in logged] == [True, False] * 2
    assert ["answers again" in each for each in logged] == [False, True] * 2


async def test_time_is_charged_and_a_call_ends_when_it_is_used_up() -> None:
    world = World(step_ms=100, monotonic_s=time.monotonic)
    world.rules = {"t": [budget(scope="tenant", seconds=0.3, window_s=86_400)]}
    mute(world)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(world.ledger.run, lambda _: anyio.sleep(0.01))
            with pytest.raises(
                QuotaExceeded, match=r"ended in flight: the 0\.3 s of the budget of tenant acme"
            ) as over:
                await world.call()
            with pytest.raises(QuotaExceeded):
                await world.call()
            group.cancel_scope.cancel()

    assert (await world.spent("tenant")).millis >= 300
    assert over.value.retry_after_s == DAY_LEFT_S
    assert world.trail.records[0].outcome == "denied"


async def test_a_call_runs_on_while_there_is_time_and_is_charged_what_it_took() -> None:
    world = World(step_ms=800, monotonic_s=time.monotonic)  # no less: a busy machine keeps the ledger waiting, too
    world.rules = {"t": [budget(seconds=60)]}

    async def work(authorized: Authorized, relay: Relay) -> Result:
        with anyio.move_on_after(1):
            await anyio.sleep_forever()
        return Result(b"{}")

    world.answers = {"t": work}
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(world.ledger.run, lambda _: anyio.sleep(0.01))
            await world.call()
            group.cancel_scope.cancel()

    assert 1_000 <= (await world.spent()).millis < 10_000


async def test_time_of_a_call_within_a_call_is_counted_once() -> None:
    world = World()
    world.rules = {"t": [budget(seconds=60)], "inner": [budget(seconds=60)]}

    async def inner(authorized: Authorized, relay: Relay) -> Result:
        world.now_ms += 500
        return Result(b"{}")

    async def outer(authorized: Authorized, relay: Relay) -> Result:
        return await relay.act("sandbox.exec", "tools/call", tool("inner"), {})

    world.answers = {"t": outer, "inner": inner}
    await world.call()

    assert await world.spent() == Usage(millis=500, calls=2)


async def test_what_cannot_be_charged_is_charged_when_the_store_is_back(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeBudgetStore()
    world = World(store)
    world.rules = {"t": [budget(usd=1), cost(usd=0.4)]}

    async def lose(authorized: Authorized, relay: Relay) -> Result:
        store.fail_with = InterlockError("down")
        return Result(b"{}")

    world.answers = {"t": lose}
    await world.call()
    assert "charged later" in caplog.text
    world.now_ms += 11_000
    await world.ledger.tick()

    store.fail_with = None
    await world.ledger.tick()
    await world.ledger.aclose()

    assert await world.spent() == Usage(400_000_000, 0, 1)


async def test_a_call_that_ran_out_of_time_pays_for_what_it_did() -> None:
    world = World(step_ms=100, monotonic_s=time.monotonic)
    world.rules = {"t": [budget(usd=1, seconds=0.1), cost(usd=0.4)]}
    mute(world)

    with pytest.raises(QuotaExceeded, match="ended in flight"):
        await world.call()

    spent = await world.spent()
    assert (spent.nano_usd, spent.calls) == (400_000_000, 1)
    assert spent.millis >= 100


async def test_a_call_that_waited_long_for_its_reservation_has_all_of_its_time() -> None:
    class Slow(FakeBudgetStore):
        async def reserve(
            self, hold: str, lines: Sequence[Line], sources: Sequence[Source], now_ms: int, lease_ms: int
        ) -> Reserved | Short:
            world.now_ms += 3_000
            return await super().reserve(hold, lines, sources, now_ms, lease_ms)

    world = World(Slow())
    world.rules = {"t": [budget(seconds=3_600)]}

    async def work(authorized: Authorized, relay: Relay) -> Result:
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        world.now_ms += 100
        return Result(b"{}")

    world.answers = {"t": work}
    await world.call()

    assert await world.spent() == Usage(millis=100, calls=1)


async def test_calls_are_given_more_time_at_once_not_one_after_the_other() -> None:
    asked: list[str] = []
    both = anyio.Event()

    class Slow(FakeBudgetStore):
        async def reserve(
            self, hold: str, lines: Sequence[Line], sources: Sequence[Source], now_ms: int, lease_ms: int
        ) -> Reserved | Short:
            if lines[0].ask.calls == 0:  # more time
                asked.append(hold)
                if len(asked) == 2:
                    both.set()
                await both.wait()
            return await super().reserve(hold, lines, sources, now_ms, lease_ms)

    world = World(Slow())
    world.rules = {"t": [budget(seconds=60)]}
    running, go_on = [0], anyio.Event()

    async def wait(authorized: Authorized, relay: Relay) -> Result:
        running[0] += 1
        await go_on.wait()
        return Result(b"{}")

    world.answers = {"t": wait}
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(world.call)
            group.start_soon(world.call)
            while running[0] < 2:
                await anyio.lowlevel.checkpoint()
            world.now_ms += 1_500
            await world.ledger.tick()
            assert (await world.standings())["subject", ""].held.millis == 8_000
            go_on.set()


async def test_a_call_that_ran_out_of_time_is_told_whose_time_it_was() -> None:
    world = World()
    world.rules = {
        "used": [budget(seconds=10)],
        "other": [budget(seconds=10)],
        "t": [budget(seconds=10), budget(scope="tenant", seconds=2)],
    }
    running, go_on = [0], anyio.Event()

    async def use(authorized: Authorized, relay: Relay) -> Result:
        world.now_ms += 500
        return Result(b"{}")

    async def hold(authorized: Authorized, relay: Relay) -> Result:
        running[0] += 1
        await go_on.wait()
        return Result(b"{}")

    async def hang(authorized: Authorized, relay: Relay) -> Result:
        running[0] += 1
        await anyio.sleep_forever()
        raise AssertionError

    async def ended() -> None:
        with pytest.raises(QuotaExceeded, match=r"the 2 s of the budget of tenant acme are used up"):
            await world.call()

    world.answers = {"used": use, "other": hold, "t": hang}
    await world.call(tool("used"))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            async with anyio.create_task_group() as others:
                for _ in range(4):
                    others.start_soon(world.call, tool("other"))
                while running[0] < 4:
                    await anyio.lowlevel.checkpoint()
                group.start_soon(ended)  # the subject has 1.5 s for it now, and more when the others have ended
                while running[0] < 5:
                    await anyio.lowlevel.checkpoint()
                go_on.set()
            world.now_ms += 600
            await world.ledger.tick()
            world.now_ms += 1_500
            await world.ledger.tick()


async def test_a_call_that_gets_no_answer_in_time_is_not_told_that_its_budget_is_used_up() -> None:
    store = FakeBudgetStore()
    world = World(store, step_ms=100, monotonic_s=time.monotonic)
    world.rules = {"t": [budget(seconds=60)]}

    async def lose(authorized: Authorized, relay: Relay) -> Result:
        store.fail_with = InterlockError("down")
        await anyio.sleep_forever()
        raise AssertionError

    world.answers = {"t": lose}
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(world.ledger.run, lambda _: anyio.sleep(0.01))
            with pytest.raises(BudgetsUnavailable, match="nobody could say in time how many seconds are left"):
                await world.call()
            group.cancel_scope.cancel()

    assert world.record.error == "budgets_unavailable"


async def test_what_could_not_be_charged_yet_is_charged_when_the_gateway_ends() -> None:
    store = FakeBudgetStore()
    world = World(store)
    world.rules = {"t": [budget(usd=1), cost(usd=0.4)]}

    async def lose(authorized: Authorized, relay: Relay) -> Result:
        store.fail_with = InterlockError("down")
        return Result(b"{}")

    world.answers = {"t": lose}
    await world.call()
    store.fail_with = None
    await world.ledger.aclose()

    assert await world.spent() == Usage(400_000_000, 0, 1)


async def test_a_limit_that_is_near_is_told_before_it_is_met(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.rules = {"t": [budget(name="daily", calls=10, warn_at=0.8)]}
    look = BudgetFacts(BudgetLook(world.store, lambda: world.now_ms), lambda: True)
    asked = Call("x", "a", "m", tool(), session_id="s1")

    with caplog.at_level(logging.WARNING):
        for _ in range(7):
            await world.call()
        assert world.told["warnings"] == []
        before = await look.of_call(asked, ANA)
        await world.call()
        await world.call()

    after = await look.of_call(asked, ANA)
    assert before is not None
    assert after is not None
    assert (before["warns"], before["used"], after["warns"], after["used"]) == (False, 0.7, True, 0.9)
    assert after["calls"] == 9
    assert after["accounts"] == [
        {
            "scope": "subject",
            "name": "daily",
            "window_s": 0,
            "spent_usd": 0.0,
            "tokens": 0,
            "calls": 9,
            "seconds": 0.0,
            "limits": {"calls": 10},
            "used": 0.9,
            "warns": True,
        }
    ]
    (warning,) = world.told["warnings"]
    assert (warning["scope"], warning["name"], warning["used"]) == ("subject", "daily", 0.9)
    assert caplog.text.count("'daily' of subject user:ana is used to 80 %") == 1


async def test_facts_are_looked_up_only_where_a_rule_reads_them_and_once_for_a_call() -> None:
    store = FakeBudgetStore()
    look = BudgetLook(store, lambda: NOW_MS)
    asked = Call("x", "a", "m", tool())

    assert await BudgetFacts(look, lambda: False).of_call(asked, ANA) is None
    assert store.asked == 0
    facts = BudgetFacts(look, lambda: True)
    first = await facts.of_call(asked, ANA)
    assert await facts.of_result(asked, ANA) is first
    assert store.asked == 1


async def test_windows_begin_anew_and_sessions_agents_and_tenants_have_their_own() -> None:
    world = World()
    bo = replace(ANA, subject=Entity("user", "user:bo"))
    bot = replace(ANA, subject=Entity("agent", "agent:bot"), tenant="other")
    scopes = ("subject", "tenant", "agent", "session")

    async def passes(scope: str, who: object, session: str = "s1") -> bool:
        world.rules = {"t": [budget(scope=scope, calls=1, window_s=60)]}
        try:
            await world.call(who=who, session=session)  # type: ignore[arg-type]  # an identity
        except QuotaExceeded:
            return False
        return True

    assert [await passes(scope, ANA) for scope in scopes] == [True] * 4
    assert [await passes(scope, ANA) for scope in scopes] == [False] * 4
    assert [await passes(scope, bo) for scope in scopes] == [True, False, False, True]
    assert [await passes(scope, bot) for scope in scopes] == [True] * 4
    assert await passes("session", ANA, "s2")
    world.now_ms += 60_000
    assert [await passes(scope, ANA) for scope in scopes] == [True] * 4
    assert Usage() == NOTHING
