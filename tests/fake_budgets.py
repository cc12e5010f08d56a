"""`BudgetStore` in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.budgets.arithmetic import given_back, plan
from gateway.spending import (
    NOTHING,
    BudgetStore,
    Charge,
    Drawn,
    Line,
    Reserved,
    Short,
    Source,
    Standing,
    StandingQuery,
    less,
)
from gateway.types import Usage


class FakeBudgetStore:
    """Exact, for it never waits. `fail_with` makes the next answers fail, `asked` counts all of them."""

    def __init__(self) -> None:
        self.fail_with: Exception | None = None
        self.asked = 0
        self._accounts: dict[str, Standing] = {}
        self._holds: dict[tuple[str, str], tuple[Usage, int]] = {}

    async def reserve(
        self, hold: str, lines: Sequence[Line], sources: Sequence[Source], now_ms: int, lease_ms: int
    ) -> Reserved | Short:
        self._answer()
        for line in lines:
            known = self._accounts.get(line.account.id, Standing(line.account))
            self._accounts[line.account.id] = replace(known, terms=line.terms, updated_ms=now_ms)
        standings = {line.account.id: self._standing(line.account.id, now_ms) for line in lines}
        live = {key: usage for key, (usage, until) in self._holds.items() if until > now_ms}
        made = plan(lines, standings, sources, live)
        if isinstance(made, Reserved):
            for drawn in made.drawn:
                usage, until = self._holds[drawn.source, drawn.account]
                self._holds[drawn.source, drawn.account] = (less(usage, drawn.usage), until)
            for account, usage in made.given.items():
                before, _ = self._holds.get((hold, account), (NOTHING, 0))
                self._holds[hold, account] = (before + usage, lease_ms)
        return made

    async def settle(
        self, hold: str, charges: Sequence[Charge], drawn: Sequence[Drawn], now_ms: int
    ) -> Sequence[Standing]:
        self._answer()
        held = {key[1]: self._holds.pop(key)[0] for key in list(self._holds) if key[0] == hold}
        charged = {charge.account: charge.usage for charge in charges if charge.account in held}
        for account, usage in charged.items():
            known = self._accounts[account]
            self._accounts[account] = replace(known, spent=known.spent + usage, updated_ms=now_ms)
        for back in given_back(held, charged, drawn) if held else ():
            if (key := (back.source, back.account)) in self._holds:
                usage, until = self._holds[key]
                self._holds[key] = (usage + back.usage, until)
        return [self._standing(charge.account, now_ms) for charge in charges]

    async def renew(self, holds: Sequence[str], lease_ms: int) -> None:
        self._answer()
        for key, (usage, _) in list(self._holds.items()):
            if key[0] in holds:
                self._holds[key] = (usage, lease_ms)

    async def standings(self, query: StandingQuery) -> Sequence[Standing]:
        self._answer()
        found = [self._standing(key, query.now_ms) for key in self._accounts if self._meant(key, query)]
        return sorted(found, key=lambda each: (-each.updated_ms, each.account.id))[: query.limit]

    async def reset(self, account: str, now_ms: int) -> bool:
        self._answer()
        known = self._accounts.get(account)
        if known is None:
            return False
        self._accounts[account] = replace(known, spent=NOTHING, updated_ms=now_ms)
        return True

    async def prune(self, before_ms: int) -> int:
        self._answer()
        old = [key for key, each in self._accounts.items() if each.updated_ms < before_ms and _over(each, before_ms)]
        for key in old:
            del self._accounts[key]
        return len(old)

    def _meant(self, key: str, query: StandingQuery) -> bool:
        account = self._accounts[key].account
        if query.holder_keys is not None and account.holder_key not in query.holder_keys:
            return False
        if query.account:
            return key == query.account
        return not account.window_s or account.ends_s * 1_000 > query.now_ms

    def _standing(self, key: str, now_ms: int) -> Standing:
        live = [usage for (_, account), (usage, until) in self._holds.items() if account == key and until > now_ms]
        return replace(self._accounts[key], held=sum(live, NOTHING))

    def _answer(self) -> None:
        self.asked += 1
        if self.fail_with is not None:
            raise self.fail_with


def _over(standing: Standing, before_ms: int) -> bool:
    account = standing.account
    return account.ends_s * 1_000 < before_ms if account.window_s else account.scope in ("session", "chain")


_: type[BudgetStore] = FakeBudgetStore
