"""What tokens cost, in whole billionths of a US dollar, so that sums are exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Final

from gateway.models.neutral import Tokens
from gateway.types import Usage

_NANO: Final = 10**9
_MILLION: Final = 10**6
_WORDS: Final[Mapping[str, str]] = {
    "in": "input",
    "out": "output",
    "cached": "cached",
    "cache_written": "cache_written",
    "cache_written_1h": "cache_written_1h",
    "reasoning": "reasoning",
}
"""What catalogues call the members of a price."""
_WRITTEN: Final = ("in", "out", "cached", "cache_written")
"""Those that people write down."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in nano-dollars; what came from a cache or went into one has a price of its own."""

    input: int = 0
    output: int = 0
    cached: int | None = None
    cache_written: int | None = None
    cache_written_1h: int | None = None
    reasoning: int | None = None
    above: tuple[tuple[int, Price], ...] = ()
    """What all tokens of a call cost that reads more than so many, rising."""
    services: tuple[tuple[str, Price], ...] = ()
    """What they cost where more than the standard service is asked for, as `service_of` names it."""

    def knows(self, service: str) -> bool:
        """Whether it says what that service costs."""
        return not service or any(name == service for name, _ in self.services)

    def at(self, read: int, service: str = "") -> Price:
        """What holds for a call that reads so many tokens; the standard price for a service that it does not know."""
        price = next((price for name, price in self.services if name == service), self)
        return next((above for limit, above in reversed(price.above) if read > limit), price)

    def cost(self, tokens: Tokens, service: str = "") -> int:
        """What these tokens cost, in nano-dollars, rounded up."""
        price = self.at(tokens.input, service)
        written, thought = price._written(), min(tokens.reasoning, tokens.output)
        brief = min(tokens.cache_written_5m, tokens.cache_written)
        fresh = max(0, tokens.input - tokens.cached - tokens.cache_written)
        sums = fresh * price.input + tokens.cached * (price.input if price.cached is None else price.cached)
        sums += brief * written + (tokens.cache_written - brief) * max(written, price.cache_written_1h or 0)
        sums += (tokens.output - thought) * price.output + thought * price._thinking()
        return -(-sums // _MILLION)

    def most(self, read: int, wrote: int, service: str = "") -> int:
        """What so many tokens may cost, whatever is kept in a cache and however much is only thought."""
        price = self.at(read, service)
        dearest = max(price.input, price.cached or 0, price._written(), price.cache_written_1h or 0)
        return -(-(read * dearest + wrote * price._thinking()) // _MILLION)

    def _written(self) -> int:
        return self.input if self.cache_written is None else self.cache_written

    def _thinking(self) -> int:
        return max(self.output, self.reasoning or 0)


def per_million(usd: float | None) -> int | None:
    """Dollars for a million tokens, as people write them, in nano-dollars."""
    return None if usd is None else ceil(Fraction(str(usd)) * _NANO)


def price_facts(price: Price) -> dict[str, object]:
    """A price for a catalogue: `usd_per_mtok_in` and so on for people, and all of it as `price`; see `price_from`."""
    nano = _nano(price)
    usd = {f"usd_per_mtok_{word}": nano[word] / _NANO for word in _WRITTEN if word in nano}
    return {**usd, "price": {**usd, **_facts(price)}}


def _facts(price: Price) -> dict[str, object]:
    facts: dict[str, object] = {f"nano_usd_per_token_{word}": nano / _MILLION for word, nano in _nano(price).items()}
    if price.above:
        facts["above"] = [{"input_tokens": limit, **_facts(above)} for limit, above in price.above]
    if price.services:
        facts["services"] = {name: _facts(service) for name, service in price.services}
    return facts


def _nano(price: Price) -> dict[str, int]:
    every = {word: getattr(price, name) for word, name in _WORDS.items()}
    return {word: nano for word, nano in every.items() if nano is not None}


def price_from(facts: Mapping[str, object]) -> Price | None:
    """The price that a catalogue gives; `None` without one.

    It stands there as `price`, else as `usd_per_mtok_in`, `_out`, `_cached` and `_cache_written`.
    """
    whole = facts.get("price")
    if isinstance(whole, Mapping):
        return _read(whole)
    said = [_dollars(facts.get(f"usd_per_mtok_{word}")) for word in _WRITTEN]
    if said[0] is None and said[1] is None:
        return None
    return Price(said[0] or 0, said[1] or 0, said[2], said[3])


def _read(facts: Mapping[str, object]) -> Price | None:
    """The price in the form of `_facts`; `None` where it does not say what is read, or what is written, costs."""
    said = {name: _per_token(facts.get(f"nano_usd_per_token_{word}")) for word, name in _WORDS.items()}
    read, wrote = said.pop("input"), said.pop("output")
    if read is None or wrote is None:
        return None
    above, services = facts.get("above"), facts.get("services")
    tiers = [(each["input_tokens"], _read(each)) for each in (above if isinstance(above, tuple | list) else ())]
    named = [(name, _read(each)) for name, each in (services.items() if isinstance(services, Mapping) else ())]
    return Price(
        read,
        wrote,
        **said,
        above=tuple([(limit, price) for limit, price in tiers if price is not None]),
        services=tuple([(name, price) for name, price in named if price is not None]),
    )


def _per_token(value: object) -> int | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _NANO
    return round(value * _MILLION) if good and isinstance(value, int | float) else None


def _dollars(value: object) -> int | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9
    return per_million(value) if good and isinstance(value, int | float) else None


def usage_of(tokens: Tokens, price: Price | None, service: str = "") -> Usage:
    """What a call used up. Its time and itself are counted by whoever makes the call."""
    return Usage(nano_usd=price.cost(tokens, service) if price is not None else 0, tokens=tokens.total)
