"""What one call in flight has reserved, and on which accounts: its own, and those of the calls that caused it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import anyio

from gateway.budgets.accounts import in_window
from gateway.budgets.estimates import Estimate
from gateway.errors import InterlockError
from gateway.spending import NOTHING, Account, Drawn, Limits, Line, Source, Standing, Terms
from gateway.types import Authorized, Usage


@dataclass(frozen=True, slots=True)
class Entry:
    """One account that a call is charged to, and what of the call it counts."""

    account: Account
    terms: Terms
    counts_calls: bool = True
    counts_time: bool = True

    def counted(self, usage: Usage, millis: int) -> Usage:
        """What of a usage is charged to it."""
        calls = usage.calls if self.counts_calls else 0
        return Usage(usage.nano_usd, usage.tokens, calls, millis if self.counts_time else 0)

    @property
    def limits_time(self) -> bool:
        """Whether a call has to be watched for it while it runs."""
        return self.counts_time and self.terms.limits.millis is not None


def inherited(entry: Entry) -> Entry:
    """What an account counts of a call that a call charged to it causes.

    Its money and its tokens. Not its time, which is part of the time of the call that caused it; and only the account
    of a chain counts how many calls come of one.
    """
    return replace(entry, counts_calls=entry.account.scope == "chain", counts_time=False)


def counting_at(entries: Mapping[str, Entry], now_s: int) -> Mapping[str, Entry]:
    """The same entries, of the accounts whose window is now: a limit holds in each window anew."""
    moved = [replace(entry, account=in_window(entry.account, now_s)) for entry in entries.values()]
    return {entry.account.id: entry for entry in moved}


def joined(own: Iterable[Entry], caused: Mapping[str, Entry], timed: frozenset[str]) -> Mapping[str, Entry]:
    """The accounts of a call, by id: those of its own permit, and `caused`. `timed` count its time already."""
    entries = dict(caused)
    for entry in own:
        known = caused.get(entry.account.id)
        terms = entry.terms if known is None else _strictest(entry.terms, known.terms)
        entries[entry.account.id] = replace(entry, terms=terms, counts_time=entry.account.id not in timed)
    return entries


def _strictest(own: Terms, other: Terms) -> Terms:
    pairs = [(getattr(own.limits, name), getattr(other.limits, name)) for name in Limits.__slots__]
    limits = Limits(*[min([limit for limit in pair if limit is not None], default=None) for pair in pairs])
    allows = own.allows_unknown_price and other.allows_unknown_price
    return replace(own, limits=limits, allows_unknown_price=allows)


@dataclass(slots=True, eq=False)
class OpenSpending:
    """The reservation of one call, from before its effect until it is settled."""

    id: str
    authorized: Authorized
    entries: Mapping[str, Entry]
    estimate: Estimate
    parent: OpenSpending | None
    monotonic_s: Callable[[], float]
    refused: Callable[[Sequence[Standing]], InterlockError]
    """Makes the refusal of a call whose time is up."""
    warnings: Sequence[Mapping[str, object]] = ()
    drawn: list[Drawn] = field(default_factory=list)
    time: dict[str, int] = field(default_factory=dict)
    """Account -> milliseconds that it gave."""
    standings: dict[str, Standing] = field(default_factory=dict)
    """Account -> how it stood when it was last asked."""
    children: Usage = NOTHING
    """What the calls that it caused were charged."""
    renewed_s: float = 0.0
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    settled: bool = False
    started_s: float = field(init=False)
    _scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def __post_init__(self) -> None:
        self.started_s = self.renewed_s = self.monotonic_s()

    def begin(self) -> None:
        """It runs from now on: waiting for its reservation took none of its time."""
        self.started_s = self.monotonic_s()

    @property
    def elapsed_ms(self) -> int:
        """How long it runs."""
        return max(round((self.monotonic_s() - self.started_s) * 1_000), 0)

    @property
    def timed_accounts(self) -> frozenset[str]:
        """The accounts that count the time of this call, or of one that caused it."""
        own = frozenset(key for key, entry in self.entries.items() if entry.counts_time)
        return own | self.parent.timed_accounts if self.parent is not None else own

    def sources(self) -> list[Source]:
        """The holds that its own is taken from first, nearest first."""
        above = self.parent
        found: list[Source] = []
        while above is not None:
            found.append(Source(above.id, above.estimate.fixed))
            above = above.parent
        return found

    def lines(self, step_ms: int) -> list[Line]:
        """What it asks of each account before it starts."""
        most = self.estimate.fixed + self.estimate.most
        asked = [(each, each.counted(most, step_ms if each.limits_time else 0)) for each in self.entries.values()]
        return [Line(entry.account, entry.terms, ask) for entry, ask in asked]

    def more_time(self, step_ms: int, margin_ms: int) -> list[Line]:
        """What it asks for as it runs on: time of the accounts that gave it too little to last."""
        soon = self.elapsed_ms + margin_ms
        short = [self.entries[key] for key, given in self.time.items() if given < soon]
        return [Line(entry.account, entry.terms, Usage(millis=step_ms)) for entry in short]

    def take(self, standings: Sequence[Standing], given: Mapping[str, Usage]) -> None:
        """What it was given, now and before: its time ends when that of any account does."""
        self.standings.update({standing.account.id: standing for standing in standings})
        for key, usage in given.items():
            if self.entries[key].limits_time:
                self.time[key] = self.time.get(key, 0) + usage.millis
        if self.time:
            left_ms = min(self.time.values()) - self.elapsed_ms
            self._scope.deadline = anyio.current_time() + left_ms / 1_000

    def timed(self) -> AbstractContextManager[object]:
        """Ends the block when its time is up."""
        return self._scope

    def out_of_time(self) -> InterlockError | None:
        """Why it was ended, if it was ended for that: for those accounts that gave it the least."""
        if not self._scope.cancel_called:
            return None
        least = min(self.time.values())
        return self.refused([self.standings[key] for key, given in self.time.items() if given == least])
