"""The obligations `budget` and `cost`: what a call is charged to, and what it costs by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Final

from gateway.authz.reading import UnsupportedObligation, fields_of, whole_number
from gateway.spending import NANO, SCOPES, Budget, Cost, Limits, Scope
from gateway.types import Usage

BUDGET_FIELDS: Final = frozenset(
    {"scope", "name", "usd", "tokens", "calls", "seconds", "window_s", "warn_at", "unknown_price", "owner"}
)
COST_FIELDS: Final = frozenset({"usd", "tokens"})
MAX_WINDOW_S: Final = 366 * 86_400
MAX_NAME: Final = 64
MAX_OWNER: Final = 256
MAX_USD: Final = 1_000_000_000
MAX_COST_USD: Final = 1_000_000
MAX_COUNT: Final = 1_000_000_000_000_000
MAX_SECONDS: Final = 1_000_000_000


def read_budget(properties: object) -> Budget:
    """Read one obligation. Raises `UnsupportedObligation`."""
    fields = fields_of(properties, BUDGET_FIELDS, "budget")
    scope = next((each for each in SCOPES if each == fields.get("scope")), None)
    if scope is None:
        raise UnsupportedObligation(f"budget: scope must be one of {', '.join(SCOPES)}")
    limits = Limits(
        nano_usd=_scaled(fields, "usd", MAX_USD, NANO, ROUND_FLOOR),
        tokens=_count(fields, "tokens", "budget"),
        calls=_count(fields, "calls", "budget"),
        millis=_scaled(fields, "seconds", MAX_SECONDS, 1_000, ROUND_FLOOR),
    )
    if limits == Limits():
        raise UnsupportedObligation("budget: give usd, tokens, calls or seconds")
    window_s = fields.get("window_s", 0)
    return _budget(
        scope,
        _text(fields, "name", MAX_NAME),
        limits,
        0 if window_s == 0 and type(window_s) is int else whole_number(window_s, MAX_WINDOW_S, "budget: window_s"),
        _warn_at(fields.get("warn_at", 0.8)),
        _allows_unknown(fields.get("unknown_price", "deny")),
        _text(fields, "owner", MAX_OWNER),
    )


def _budget(  # what a budget is made of
    scope: Scope,
    name: str,
    limits: Limits,
    window_s: int,
    warn_at: float,
    allows_unknown_price: bool,
    owner: str,
) -> Budget:
    numbers = {
        "usd": None if limits.nano_usd is None else limits.nano_usd / NANO,
        "tokens": limits.tokens,
        "calls": limits.calls,
        "seconds": None if limits.millis is None else limits.millis / 1_000,
    }
    properties: dict[str, object] = {
        "scope": scope,
        "name": name,
        **{key: value for key, value in numbers.items() if value is not None},
        "window_s": window_s,
        "warn_at": warn_at,
        "unknown_price": "allow" if allows_unknown_price else "deny",
        "owner": owner,
    }
    return Budget("budget", properties, scope, name, limits, window_s, warn_at, allows_unknown_price, owner)


def merge_budgets(items: Iterable[Budget]) -> Sequence[Budget]:
    """One for each account (scope, name, window): the least of each limit, the earliest warning, no unknown price."""
    merged: dict[tuple[str, str, int], Budget] = {}
    for item in items:
        key = (item.scope, item.name, item.window_s)
        merged[key] = _stricter(merged[key], item) if key in merged else item
    return tuple(merged.values())


def _stricter(one: Budget, other: Budget) -> Budget:
    owners = dict.fromkeys(owner for owner in (one.owner, other.owner) if owner)
    return _budget(
        one.scope,
        one.name,
        Limits(
            _least(one.limits.nano_usd, other.limits.nano_usd),
            _least(one.limits.tokens, other.limits.tokens),
            _least(one.limits.calls, other.limits.calls),
            _least(one.limits.millis, other.limits.millis),
        ),
        one.window_s,
        min(one.warn_at, other.warn_at),
        one.allows_unknown_price and other.allows_unknown_price,
        " and ".join(owners),
    )


def _least(one: int | None, other: int | None) -> int | None:
    return min([given for given in (one, other) if given is not None], default=None)


def read_cost(properties: object) -> Cost:
    """Read one obligation. Raises `UnsupportedObligation`."""
    fields = fields_of(properties, COST_FIELDS, "cost")
    nano_usd = _scaled(fields, "usd", MAX_COST_USD, NANO, ROUND_CEILING)
    tokens = _count(fields, "tokens", "cost")
    if nano_usd is None and tokens is None:
        raise UnsupportedObligation("cost: give usd or tokens")
    return _cost(Usage(nano_usd=nano_usd or 0, tokens=tokens or 0))


def _cost(usage: Usage) -> Cost:
    return Cost("cost", {"usd": usage.nano_usd / NANO, "tokens": usage.tokens}, usage)


def merge_costs(items: Iterable[Cost]) -> Cost:
    """One for several: the most that any of them says."""
    every = [item.usage for item in items]
    return _cost(Usage(max(item.nano_usd for item in every), max(item.tokens for item in every)))


def _scaled(fields: Mapping[str, object], name: str, most: int, scale: int, rounding: str) -> int | None:
    """A number as a whole number of its smallest parts."""
    value = fields.get(name)
    if value is None and name not in fields:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise UnsupportedObligation(f"{name} must be a number from 0 to {most}")
    return int((Decimal(str(value)) * scale).to_integral_value(rounding))


def _count(fields: Mapping[str, object], name: str, kind: str) -> int | None:
    value = fields.get(name)
    if value is None and name not in fields:
        return None
    return 0 if value == 0 and type(value) is int else whole_number(value, MAX_COUNT, f"{kind}: {name}")


def _warn_at(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise UnsupportedObligation("budget: warn_at must be a number above 0, at most 1")
    return float(value)


def _allows_unknown(value: object) -> bool:
    if value not in ("allow", "deny"):
        raise UnsupportedObligation("budget: unknown_price is deny or allow")
    return value == "allow"


def _text(fields: Mapping[str, object], name: str, most: int) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise UnsupportedObligation(f"budget: {name} must be a text of at most {most} characters")
    return value
