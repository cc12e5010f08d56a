"""What was spent, for rules that read it: looked up only where the active policy can."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway.types import EMPTY, Call, Identity

MAX_CALLS: Final = 10_000
Spent: TypeAlias = Mapping[str, object]


async def _nobody_knows(_call: Call, _identity: Identity) -> Spent:
    return EMPTY


@dataclass(slots=True)
class BudgetFacts:
    """`look` says how the budgets of a call stand (`context.budget`), and is asked where `reads()` says so.

    A result, and each event of a streamed one, is judged by what was known when the call was decided.
    """

    look: Callable[[Call, Identity], Awaitable[Spent]] = _nobody_knows
    reads: Callable[[], bool] = lambda: False
    _known: OrderedDict[str, Spent] = field(default_factory=OrderedDict)

    async def of_call(self, call: Call, identity: Identity) -> Spent | None:
        """How they stand now; `None` where no rule wants to know. Raises what `look` raises: then there is no yes."""
        if not self.reads():
            return None
        found = await self.look(call, identity)
        self._known[call.id] = found
        if len(self._known) > MAX_CALLS:
            self._known.popitem(last=False)
        return found

    async def of_result(self, call: Call, identity: Identity) -> Spent | None:
        """How they stood when the call was decided."""
        if not self.reads():
            return None
        known = self._known.get(call.id)
        return known if known is not None else await self.of_call(call, identity)
