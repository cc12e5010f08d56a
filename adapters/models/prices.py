"""What models cost and can hold, from the list that litellm ships: read as a file, without importing litellm."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, distribution
from math import ceil, prod
from pathlib import Path
from typing import Final

from gateway import codec
from gateway.models import Price

_FILE: Final = "litellm/model_prices_and_context_window_backup.json"
_NANO_PER_MILLION: Final = 10**15
_KEYS: Final[Mapping[str, str]] = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_written": "cache_creation_input_token_cost",
    "cache_written_1h": "cache_creation_input_token_cost_above_1hr",
    "reasoning": "output_cost_per_reasoning_token",
}
_TIER: Final = re.compile(r"(?:in|out)put_cost_per_token_above_(\d{1,6})k_tokens", re.ASCII)
_SERVICES: Final = ("priority", "ultrafast")
_FACTORS: Final = ("fast", "us")


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What the list says of a model; 0 where it does not say.

    `price` is `None` where it says that all is for nothing: so it has what it does not know, and what is tried out.
    """

    price: Price | None
    context_tokens: int = 0
    max_output_tokens: int = 0
    provider: str = ""
    mode: str = ""


class PriceList:
    """Models by the names that litellm knows them by."""

    def __init__(self, entries: Mapping[str, object]) -> None:
        self._entries = entries
        self._found: dict[str, KnownModel] = {}
        """What was read of them already."""

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, model: str, provider: str = "") -> KnownModel | None:
        """A model by its own name, or by its provider's and its own; `None` where the list does not have it."""
        for name in filter(None, (f"{provider}/{model}" if provider else "", model)):
            entry = self._entries.get(name)
            if isinstance(entry, dict):
                if name not in self._found:
                    self._found[name] = _known(entry)
                return self._found[name]
        return None

    def price(self, model: str, provider: str = "") -> Price | None:
        """What a model costs, if the list says."""
        known = self.find(model, provider)
        return known.price if known is not None else None


def litellm_prices() -> PriceList:
    """The list of the installed litellm; an empty one where it is not installed. Reads a file of 2 MB."""
    try:
        place = Path(str(distribution("litellm").locate_file(_FILE)))
        value = codec.loads(place.read_bytes())
    except (PackageNotFoundError, OSError, ValueError):
        return PriceList({})
    return PriceList(value if isinstance(value, dict) else {})


def _known(entry: Mapping[str, object]) -> KnownModel:
    price = _price(entry)
    return KnownModel(
        price if price.input or price.output else None,
        _count(entry.get("max_input_tokens")),
        _count(entry.get("max_output_tokens")),
        _word(entry.get("litellm_provider")),
        _word(entry.get("mode")),
    )


def _price(entry: Mapping[str, object]) -> Price:
    """The standard price, for long inputs too, and what other services cost as far as the list says all of it."""
    standard = _rates(entry, "")
    tiers = sorted({int(found[1]) for name in entry if (found := _TIER.fullmatch(name))})
    long = [(tier * 1_000, _rates(entry, f"_above_{tier}k_tokens", standard)) for tier in tiers]
    services = []
    for service in _SERVICES:
        if {f"{way}put_cost_per_token_{service}" for way in ("in", "out")} <= entry.keys():
            at_once = _rates(entry, f"_{service}", standard)
            above = [
                (limit, _rates(entry, f"_above_{limit // 1_000}k_tokens_{service}", at_once, price))
                for limit, price in long
            ]
            services.append((service, replace(at_once, above=tuple(above))))
    whole = replace(standard, above=tuple(long))
    return replace(whole, services=(*services, *_dearer(entry, whole)))


def _rates(entry: Mapping[str, object], suffix: str, *others: Price) -> Price:
    """The prices of that suffix; what it leaves out costs no less than in `others`, nor than any token of its kind."""
    said = {name: _nano(entry.get(key + suffix)) for name, key in _KEYS.items()}
    for name, nano in said.items():
        known = [known for other in others if (known := getattr(other, name)) is not None]
        if nano is None and known:
            said[name] = max(*known, said["output" if name == "reasoning" else "input"] or 0)
    read, wrote, cached, written, written_1h, reasoning = said.values()
    return Price(read or 0, wrote or 0, cached, written, written_1h, reasoning)


def _dearer(entry: Mapping[str, object], standard: Price) -> Iterator[tuple[str, Price]]:
    """Anthropic's fast mode and its regions: so many times the standard, each and together."""
    listed = entry.get("provider_specific_entry")
    factors = listed if isinstance(listed, dict) else {}
    times = {name: Fraction(str(factors[name])) for name in _FACTORS if type(factors.get(name)) in {int, float}}
    for name, factor in times.items():
        yield name, _times(standard, factor)
    if len(times) > 1:
        yield " ".join(times), _times(standard, prod(times.values(), start=Fraction(1)))


def _times(price: Price, factor: Fraction) -> Price:
    rates = {name: ceil(nano * factor) for name in _KEYS if (nano := getattr(price, name)) is not None}
    return replace(price, **rates, above=tuple([(limit, _times(above, factor)) for limit, above in price.above]))


def _nano(value: object) -> int | None:
    """Dollars a token as nano-dollars a million tokens."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        return None
    return ceil(Fraction(str(value)) * _NANO_PER_MILLION)


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""
