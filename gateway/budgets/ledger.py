"""The ledger: reserves what a call may need before its effect, keeps that while it runs, and settles it after.

A reservation is a lease: a process that dies gives back what its calls held once the lease is over. What a call that
another one caused needs is taken from the reservation of that one first, and whatever it spends is charged to the
accounts of that one as well: so a tree of calls ends at the limits of its root.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import anyio

from gateway.budgets.accounts import account_of
from gateway.budgets.chains import STORE_S, Chains
from gateway.budgets.estimates import charged, estimate_of
from gateway.budgets.spending import Entry, OpenSpending, counting_at, inherited, joined
from gateway.budgets.wording import (
    BudgetsUnavailable,
    amounts,
    out_of_time,
    over_budget,
    unknown_price,
    unreadable,
    warning,
)
from gateway.errors import InterlockError
from gateway.ports import Budgets, Spending, Spent
from gateway.spending import (
    Budget,
    BudgetStore,
    Charge,
    Cost,
    Line,
    Reserved,
    Short,
    Standing,
    Terms,
)
from gateway.types import Authorized, Usage

log = logging.getLogger("interlock.budgets")

T = TypeVar("T")
LEASE_MS: Final = 30_000
STEP_MS: Final = 2_000
"""How much time a call takes from an account at once."""
MARGIN_MS: Final = 1_000
TICK_S: Final = 0.25
MAX_WARNED: Final = 10_000


class Ledger:
    """Keeps budgets over one store; `run` has to run for leases to last. Clocks and ids are for tests to replace."""

    def __init__(
        self,
        store: BudgetStore,
        *,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic_s: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = lambda: os.urandom(16).hex(),
        lease_ms: int = LEASE_MS,
        step_ms: int = STEP_MS,
    ) -> None:
        self._store = store
        self._clock_ms = clock_ms
        self._monotonic_s = monotonic_s
        self._new_id = new_id
        self._lease_ms = lease_ms
        self._step_ms = step_ms
        self._open: dict[str, OpenSpending] = {}
        self._late: dict[str, tuple[OpenSpending, Sequence[Charge]]] = {}
        self._chains = Chains(store, clock_ms)
        self._warned: OrderedDict[str, None] = OrderedDict()
        self._away = False
        self._tasks: set[asyncio.Task[object]] = set()

    async def reserve(self, authorized: Authorized) -> OpenSpending | None:
        """Set aside what the call may need, on all of its accounts or on none; `None` where it has no account.

        Raises `OverBudget`, `PolicyDenied` for an unknown price, and what the store raises.
        """
        call = authorized.call
        parent = self._open.get(call.parent_id) if call.parent_id else None
        above = await self._chains.of(authorized)
        if parent is not None:  # whose chain may have been given more since it began
            above = {**above, **counting_at(parent.entries, self._clock_ms() // 1_000)}
        if not above and not any(item.type == "budget" for item in authorized.permit.obligations):
            self._chains.remember(authorized, {})
            return None
        spending = self._opened(authorized, parent, above)
        now_ms = self._clock_ms()
        work = self._later(self._given(spending, spending.lines(self._step_ms), now_ms))
        try:
            made = await asyncio.shield(work)
        except BaseException:
            self._later(self._undone(spending, work))
            raise
        if isinstance(made, Short):
            raise over_budget(made, authorized.permit.ruling, now_ms, self._lease_ms)
        spending.drawn.extend(made.drawn)
        spending.begin()
        spending.take(made.standings, made.given)
        spending.warnings = self._warnings(made.standings)
        self._open[call.id] = spending
        self._chains.remember(authorized, spending.entries)
        return spending

    async def settle(self, spending: Spending, spent: Spent) -> Mapping[str, object]:
        """Charge what the call came to and give the rest back, also when the caller waits no longer.

        Where the store is away the call keeps what it has, and is settled when that is back.
        """
        if not isinstance(spending, OpenSpending):
            raise TypeError("not a reservation of this ledger")
        call = spending.authorized.call
        if self._open.get(call.id) is spending:
            del self._open[call.id]
        usage = charged(call, spending.estimate, spent, spending.children)
        millis = spending.elapsed_ms if spent.started else 0
        if spending.parent is not None:
            spending.parent.children += Usage(usage.nano_usd, usage.tokens) + spending.children
        every = spending.entries.values()
        charges = [Charge(entry.account.id, entry.counted(usage, millis)) for entry in every]
        with anyio.CancelScope(shield=True):
            self._warnings(await asyncio.shield(self._later(self._settled(spending, charges))))
        told = Usage(usage.nano_usd, usage.tokens, usage.calls, millis)
        return {"charged": amounts(told), "accounts": list(spending.entries)}

    async def run(self, wait: Callable[[float], Awaitable[None]] = anyio.sleep) -> None:
        """Keep the leases of calls in flight, until cancelled."""
        while True:
            await wait(TICK_S)
            await self.tick()

    async def tick(self) -> None:
        """Renew what is due, give calls that run on more time, and settle what could not be settled."""
        now_s = self._monotonic_s()
        due = [each for each in self._holding() if (now_s - each.renewed_s) * 3_000 >= self._lease_ms]
        try:
            if due:
                await self._store.renew([each.id for each in due], self._clock_ms() + self._lease_ms)
                for each in due:
                    each.renewed_s = now_s
                self._is_back()
                for spending, charges in list(self._late.values()):
                    self._later(self._settled(spending, charges))
        except (InterlockError, TimeoutError) as exc:
            self._is_away(exc)
        async with anyio.create_task_group() as group:  # at once: none waits for what others are given
            for each in list(self._open.values()):
                if lines := each.more_time(self._step_ms, min(MARGIN_MS, self._step_ms // 2)):
                    group.start_soon(self._prolonged, each, lines)

    async def aclose(self) -> None:
        """Settle what is still to be settled, as far as the store lets us."""
        for spending, charges in list(self._late.values()):
            self._later(self._settled(spending, charges))
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _holding(self) -> list[OpenSpending]:
        return [*self._open.values(), *[spending for spending, _ in self._late.values()]]

    def _opened(self, authorized: Authorized, parent: OpenSpending | None, above: Mapping[str, Entry]) -> OpenSpending:
        call, obligations = authorized.call, authorized.permit.obligations
        budgets = [item for item in obligations if isinstance(item, Budget)]
        if len(budgets) != sum(item.type == "budget" for item in obligations):
            raise unreadable(authorized)
        now_s = self._clock_ms() // 1_000
        entries = joined(
            [_entry(budget, authorized, now_s) for budget in budgets],
            {key: inherited(entry) for key, entry in above.items()},
            parent.timed_accounts if parent is not None else frozenset(),
        )
        cost = next((item.usage for item in obligations if isinstance(item, Cost)), None)
        estimate = estimate_of(call, cost)
        in_money = [entry for entry in entries.values() if entry.terms.limits.nano_usd is not None]
        if not estimate.priced and not all(entry.terms.allows_unknown_price for entry in in_money):
            raise unknown_price(authorized)

        def refused(standings: Sequence[Standing]) -> InterlockError:
            return out_of_time(standings, authorized.permit.ruling, self._clock_ms())

        return OpenSpending(self._new_id(), authorized, entries, estimate, parent, self._monotonic_s, refused)

    async def _given(self, spending: OpenSpending, lines: Sequence[Line], now_ms: int) -> Reserved | Short:
        try:
            with anyio.fail_after(STORE_S):
                until = now_ms + self._lease_ms
                return await self._store.reserve(spending.id, lines, spending.sources(), now_ms, until)
        except TimeoutError as exc:
            raise BudgetsUnavailable("nobody can say now what the budget of this call is: try again later") from exc

    async def _undone(self, spending: OpenSpending, work: asyncio.Task[Reserved | Short]) -> None:
        """Give back what was reserved for a call that is not carried out, also where nobody knows what that is."""
        with suppress(InterlockError):
            if isinstance(made := await work, Reserved):
                spending.drawn.extend(made.drawn)
        await self._settled(spending, ())

    async def _prolonged(self, spending: OpenSpending, lines: Sequence[Line]) -> None:
        async with spending.busy:
            if spending.settled:
                return
            try:
                made = await self._given(spending, lines, self._clock_ms())
            except InterlockError as exc:
                self._is_away(exc)
                return
            self._is_back()
            if isinstance(made, Reserved):
                spending.take(made.standings, made.given)
            else:
                spending.take([made.standing], {})

    async def _settled(self, spending: OpenSpending, charges: Sequence[Charge]) -> Sequence[Standing]:
        async with spending.busy:
            spending.settled = True
            try:
                with anyio.fail_after(STORE_S):
                    standings = await self._store.settle(spending.id, charges, spending.drawn, self._clock_ms())
            except (InterlockError, TimeoutError) as exc:
                if charges and spending.id not in self._late:  # nothing is lost otherwise but the rest of a lease
                    log.warning("what a call spent is charged later, the store did not answer: %s", exc)
                    self._late[spending.id] = (spending, charges)
                return ()
        self._late.pop(spending.id, None)
        self._is_back()
        return standings

    def _is_away(self, exc: Exception) -> None:
        if not self._away:
            log.warning("calls in flight cannot renew what they hold, nor get more time, which is tried on: %s", exc)
        self._away = True

    def _is_back(self) -> None:
        if self._away:
            log.warning("the store of budgets answers again: calls in flight keep what they hold")
        self._away = False

    def _later(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do it whatever becomes of the call that wants it done."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _warnings(self, standings: Sequence[Standing]) -> Sequence[Mapping[str, object]]:
        """The accounts that are near their limits; each is logged once."""
        near = [standing for standing in standings if standing.warns]
        for standing in near:
            if standing.account.id not in self._warned:
                self._warned[standing.account.id] = None
                used = 100 * standing.most_used
                log.warning("the budget %s is used to %.0f %%", standing.account.title, used)
                if len(self._warned) > MAX_WARNED:
                    self._warned.popitem(last=False)
        return [warning(standing) for standing in near]


def _entry(budget: Budget, authorized: Authorized, now_s: int) -> Entry:
    account = account_of(budget, authorized.call, authorized.identity, now_s)
    return Entry(account, Terms(budget.limits, budget.warn_at, budget.owner, budget.allows_unknown_price))


_: type[Budgets] = Ledger
