"""How the budgets of a call stand, as rules are told (`context.budget`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.budgets.accounts import holder_keys
from gateway.budgets.wording import amounts, facts
from gateway.spending import NOTHING, BudgetStore, StandingQuery
from gateway.types import Call, Identity

MAX_ACCOUNTS: Final = 64
"""Of one call; more than any policy can name in its obligations at once."""


@dataclass(frozen=True, slots=True)
class BudgetLook:
    """Looks into the store. `clock_ms` is the wall clock."""

    store: BudgetStore
    clock_ms: Callable[[], int]

    async def __call__(self, call: Call, identity: Identity) -> Mapping[str, object]:
        """`accounts` that the call could be charged to, and of these the most that is `used` and was spent.

        Raises what the store raises.
        """
        keys = tuple(dict.fromkeys(holder_keys(call, identity).values()))
        query = StandingQuery(self.clock_ms(), keys, limit=MAX_ACCOUNTS)
        standings = await self.store.standings(query)
        own = [each.spent + each.held for each in standings if each.account.scope == "subject"]
        most = amounts(max(own, key=lambda usage: (usage.nano_usd, usage.tokens, usage.calls), default=NOTHING))
        return {
            "spent_usd": most.pop("usd"),
            **most,
            "used": max((round(each.most_used, 6) for each in standings), default=0.0),
            "warns": any(each.warns for each in standings),
            "accounts": [facts(each) for each in standings],
        }
