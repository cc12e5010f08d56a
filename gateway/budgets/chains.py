"""The budgets of chains: a call has those of the call that everything began with, also when it comes from elsewhere."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import anyio

from gateway.budgets.spending import Entry, counting_at
from gateway.budgets.wording import BudgetsUnavailable
from gateway.errors import InterlockError
from gateway.spending import BudgetStore, StandingQuery, holder_key, root_of
from gateway.types import Authorized

STORE_S: Final = 30.0
"""How long the store may take."""
MAX_CHAINS: Final = 10_000


class Chains:
    """Remembers the chains whose calls came by last, and finds others in the store."""

    def __init__(self, store: BudgetStore, clock_ms: Callable[[], int]) -> None:
        self._store = store
        self._clock_ms = clock_ms
        self._known: OrderedDict[str, Mapping[str, Entry]] = OrderedDict()

    async def of(self, authorized: Authorized) -> Mapping[str, Entry]:
        """The budgets of the chain of a call that another one caused, by account. Raises `BudgetsUnavailable`.

        For what came through agents the store is asked each time: other replicas add to it. The root of any other
        call came by here before anything that it caused, so the store is asked only for one that was forgotten.
        """
        root = authorized.identity.root or authorized.call.root_id
        if not root:
            return {}
        if authorized.identity.root or root not in self._known:
            self._keep(root, await self._stored(root))
        self._known.move_to_end(root)
        return self._counting_now(self._known[root])

    def remember(self, authorized: Authorized, entries: Mapping[str, Entry]) -> None:
        """Keep which of the budgets of a call are its chain's, if only that its root has none."""
        of_chain = {key: entry for key, entry in entries.items() if entry.account.scope == "chain"}
        if of_chain or not authorized.call.root_id:
            self._keep(root_of(authorized.call, authorized.identity), of_chain)

    def _keep(self, root: str, entries: Mapping[str, Entry]) -> None:
        if known := self._known.get(root):
            entries = {**self._counting_now(known), **self._counting_now(entries)}
        self._known[root] = entries
        self._known.move_to_end(root)
        if len(self._known) > MAX_CHAINS:
            self._known.popitem(last=False)

    async def _stored(self, root: str) -> Mapping[str, Entry]:
        """Also of windows that are over: the limit holds in the next one as well. What was used last comes last."""
        query = StandingQuery(0, [holder_key("chain", root)])
        try:
            with anyio.fail_after(STORE_S):
                found = await self._store.standings(query)
        except (InterlockError, TimeoutError) as exc:
            words = "nobody can say now what the budget of the chain of calls is that this one belongs to"
            raise BudgetsUnavailable(f"{words}: try again later") from exc
        return {each.account.id: Entry(each.account, each.terms) for each in reversed(found)}

    def _counting_now(self, entries: Mapping[str, Entry]) -> Mapping[str, Entry]:
        return counting_at(entries, self._clock_ms() // 1_000) if entries else entries
