"""What budgets and costs are, and what is counted of them: the words that policy, ledger and store share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias, get_args

from gateway.types import Call, Identity, Obligation, Usage

Dimension: TypeAlias = Literal["nano_usd", "tokens", "calls", "millis"]
DIMENSIONS: Final[tuple[Dimension, ...]] = get_args(Dimension)
Scope: TypeAlias = Literal["subject", "tenant", "agent", "session", "chain"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
NANO: Final = 1_000_000_000
NOTHING: Final = Usage()


def amount(usage: Usage, dimension: Dimension) -> int:
    """One number of a usage."""
    return int(getattr(usage, dimension))


def each(amounts: Mapping[str, int]) -> Usage:
    """A usage of these numbers."""
    return Usage(**amounts)


def less(usage: Usage, other: Usage) -> Usage:
    """What is left of a usage without another, and nothing below zero."""
    return each({str(name): max(amount(usage, name) - amount(other, name), 0) for name in DIMENSIONS})


def least(usage: Usage, other: Usage) -> Usage:
    """The smaller of each two numbers."""
    return each({str(name): min(amount(usage, name), amount(other, name)) for name in DIMENSIONS})


def money(nano_usd: int) -> float:
    """US dollars."""
    return nano_usd / NANO


@dataclass(frozen=True, slots=True)
class Limits:
    """The most of each; `None` where there is no limit."""

    nano_usd: int | None = None
    tokens: int | None = None
    calls: int | None = None
    millis: int | None = None

    def of(self, dimension: Dimension) -> int | None:
        """One of them."""
        found: int | None = getattr(self, dimension)
        return found


@dataclass(frozen=True, slots=True)
class Budget(Obligation):
    """At most `limits` for all that is charged to one account: that of a scope, a name and a window."""

    scope: Scope = "subject"
    name: str = ""
    limits: Limits = Limits()
    window_s: int = 0
    """How long a window is; windows begin at multiples of it since the epoch. 0 is for ever."""
    warn_at: float = 0.8
    allows_unknown_price: bool = False
    owner: str = ""
    """Who can raise it, for those who meet it."""


@dataclass(frozen=True, slots=True)
class Cost(Obligation):
    """What a call costs by itself, whatever else it uses up."""

    usage: Usage = NOTHING


@dataclass(frozen=True, slots=True)
class Account:
    """Where it is counted: of one holder, in one window."""

    id: str
    holder_key: str
    scope: Scope
    holder: str
    """For people; not a key, for it is shortened where the key of a session would show."""
    name: str = ""
    window_s: int = 0
    starts_s: int = 0
    tenant: str = ""
    """Of who used it first."""

    @property
    def ends_s(self) -> int:
        """When its window is over; 0 is never."""
        return self.starts_s + self.window_s

    @property
    def title(self) -> str:
        """What it is called in messages."""
        named = f"{self.name!r} " if self.name else ""
        window = f" per {self.window_s} s" if self.window_s else ""
        return f"{named}of {self.scope} {self.holder or '(nobody)'}{window}"


@dataclass(frozen=True, slots=True)
class Terms:
    """What policy said of an account when it was last used."""

    limits: Limits = Limits()
    warn_at: float = 0.8
    owner: str = ""
    allows_unknown_price: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """How an account stands: what was spent, and what calls in flight hold beyond that."""

    account: Account
    terms: Terms = Terms()
    spent: Usage = NOTHING
    held: Usage = NOTHING
    updated_ms: int = 0

    def left(self, dimension: Dimension) -> int | None:
        """What may still be reserved, which is below zero for an overdrawn account; `None` without a limit."""
        limit = self.terms.limits.of(dimension)
        return None if limit is None else limit - amount(self.spent, dimension) - amount(self.held, dimension)

    def used(self, dimension: Dimension) -> float:
        """The part of the limit that is spent or held; 0 without a limit."""
        limit, left = self.terms.limits.of(dimension), self.left(dimension)
        if limit is None or left is None:
            return 0.0
        return (limit - left) / limit if limit else 1.0

    @property
    def most_used(self) -> float:
        """That of the dimension that is nearest to its limit."""
        return max(self.used(dimension) for dimension in DIMENSIONS)

    @property
    def warns(self) -> bool:
        """Whether it is time to warn of the limit."""
        return self.most_used >= self.terms.warn_at


@dataclass(frozen=True, slots=True)
class Line:
    """What one account is asked for. Time is given in part where there is less; anything else as a whole or not."""

    account: Account
    terms: Terms
    ask: Usage


@dataclass(frozen=True, slots=True)
class Source:
    """The hold of a call that caused this one: spent first, but for what that call `keeps` for itself."""

    hold: str
    keeps: Usage = NOTHING


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a hold took over from another."""

    account: str
    source: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Reserved:
    """Everything was given: how the accounts stand with it, what each gave, and what of that came from sources."""

    standings: Sequence[Standing]
    given: Mapping[str, Usage] = field(default_factory=dict)
    drawn: Sequence[Drawn] = ()


@dataclass(frozen=True, slots=True)
class Short:
    """Nothing was given, for this account has too little of one thing."""

    standing: Standing
    dimension: Dimension
    ask: int


@dataclass(frozen=True, slots=True)
class Charge:
    """What a hold came to on one account."""

    account: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class StandingQuery:
    """Which accounts: of these holders (any where it is `None`), whose window is not over; all where `now_ms` is 0."""

    now_ms: int
    holder_keys: Sequence[str] | None = None
    account: str = ""
    limit: int = 1_000


class BudgetStore(Protocol):
    """Accounts and holds, exact for however many replicas. Each method is one transaction, or raises."""

    async def reserve(
        self, hold: str, lines: Sequence[Line], sources: Sequence[Source], now_ms: int, lease_ms: int
    ) -> Reserved | Short:
        """Give every line or none. What `hold` has already grows. Sources are spent in their order, then accounts."""

    async def settle(
        self, hold: str, charges: Sequence[Charge], drawn: Sequence[Drawn], now_ms: int
    ) -> Sequence[Standing]:
        """Charge and end a hold, once; what it drew and did not spend goes back to where it came from."""

    async def renew(self, holds: Sequence[str], lease_ms: int) -> None:
        """Keep holds until then."""

    async def standings(self, query: StandingQuery) -> Sequence[Standing]:
        """How accounts stand; those used last come first."""

    async def reset(self, account: str, now_ms: int) -> bool:
        """Begin an account anew; what calls in flight hold stays. `False` when there is no such account."""

    async def prune(self, before_ms: int) -> int:
        """Forget accounts whose window was over, and sessions and chains last used, before; gives how many."""


def holder_key(scope: Scope, holder: str) -> str:
    """What finds the accounts of a holder: a name has no greatest length, but what an index holds does."""
    return hashlib.sha256(f"{scope}\x00{holder}".encode("utf-8", "surrogatepass")).hexdigest()


def root_of(call: Call, identity: Identity) -> str:
    """The call that everything began with, also before it came through agents."""
    return identity.root or call.root_id or call.id
