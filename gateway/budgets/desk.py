"""Carries out what people do with budgets, once policy permits it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway import codec
from gateway.budgets.accounts import holder_keys
from gateway.budgets.wording import shown
from gateway.errors import InvalidCall, UnknownResource
from gateway.ports import Relay, Upstream
from gateway.spending import BudgetStore, Standing, StandingQuery
from gateway.types import EMPTY, Authorized, Call, FrozenDict, Result

PROTOCOL: Final = "interlock"
LIST: Final = "budgets/list"
READ: Final = "budgets/read"
RESET: Final = "budgets/reset"


class BudgetDesk:
    """The `Upstream` of all actions `budgets.*`."""

    def __init__(self, store: BudgetStore, *, clock_ms: Callable[[], int]) -> None:
        self._store = store
        self._clock_ms = clock_ms

    def desk_for(self, call: Call) -> Upstream | None:
        """Itself, for what it carries out."""
        return self if call.protocol == PROTOCOL and call.method in (LIST, READ, RESET) else None

    async def facts_of(self, account: str) -> FrozenDict:
        """Whose an account is, as policy is told it (`resource.properties`); nothing where there is none."""
        standing = await self._found(account)
        if standing is None:
            return EMPTY
        known = standing.account
        return FrozenDict({"scope": known.scope, "holder": known.holder, "tenant": known.tenant})

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """What the call's method says."""
        call = authorized.call
        if call.method == LIST:
            return await self._listed(authorized)
        standing = await self._one(call.resource.id)
        if call.method == READ:
            return Result(codec.dumps(shown(standing)))
        if call.method != RESET:
            raise InvalidCall(f"{call.method} is nothing that is done with budgets")
        await self._store.reset(standing.account.id, self._clock_ms())
        relay.note("budget_reset", shown(standing))
        return Result(codec.dumps(shown(await self._one(standing.account.id))))

    async def _listed(self, authorized: Authorized) -> Result:
        """The caller's own accounts, or with `scope=all` everybody's."""
        call, identity = authorized.call, authorized.identity
        own = None if call.params.get("scope") == "all" else tuple(holder_keys(call, identity).values())
        standings = await self._store.standings(StandingQuery(self._clock_ms(), own))
        return Result(codec.dumps({"budgets": [shown(each) for each in standings]}))

    async def _one(self, account: str) -> Standing:
        found = await self._found(account)
        if found is None:
            raise UnknownResource("there is no such budget, or nothing was charged to it yet")
        return found

    async def _found(self, account: str) -> Standing | None:
        found = await self._store.standings(StandingQuery(self._clock_ms(), account=account)) if account else ()
        return found[0] if found else None


_: type[Upstream] = BudgetDesk
