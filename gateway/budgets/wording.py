"""How budgets are told: to a caller that is refused, to policy, to records and to people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

from gateway.errors import InterlockError, PolicyDenied, QuotaExceeded
from gateway.models import price_from, service_of
from gateway.models.services import MEMBERS
from gateway.spending import DIMENSIONS, NANO, Dimension, Short, Standing, amount, money
from gateway.types import Authorized, Reason, Ruling, Usage

NEVER_S: Final = 86_400
"""What a caller is told to wait for where waiting does not help: somebody has to raise the budget."""

_WORDS: Final[Mapping[Dimension, tuple[str, Callable[[int], str]]]] = {
    "nano_usd": ("usd", lambda value: f"{value // NANO}.{value % NANO:09}".rstrip("0").rstrip(".") + " USD"),
    "tokens": ("tokens", lambda value: f"{value} tokens"),
    "calls": ("calls", lambda value: f"{value} calls"),
    "millis": ("seconds", lambda value: f"{value / 1_000:g} s"),
}
"""Dimension -> its name in rules, and a number of it in words."""


class OverBudget(QuotaExceeded):
    """`QuotaExceeded` that knows the ruling whose `budget` obligation set the limit, for the record."""

    ruling: Ruling

    def __init__(self, message: str, retry_after_s: int, ruling: Ruling) -> None:
        super().__init__(f"{message} (decision {ruling.decision_id})", retry_after_s=retry_after_s)
        self.ruling = ruling


class BudgetsUnavailable(InterlockError):
    """Nobody can say now what is left, so nothing is spent."""

    http_status: ClassVar[int] = 503
    code: ClassVar[str] = "budgets_unavailable"


def over_budget(short: Short, ruling: Ruling, now_ms: int, lease_ms: int) -> OverBudget:
    """The refusal of a call that an account has too little for."""
    standing, dimension = short.standing, short.dimension
    account, words = standing.account, _WORDS[dimension][1]
    limit = standing.terms.limits.of(dimension) or 0
    spent, held = amount(standing.spent, dimension), amount(standing.held, dimension)
    ends_s = account.ends_s if account.window_s else 0
    left_s = max(ends_s - now_ms // 1_000, 1) if ends_s else NEVER_S
    message = f"the budget {account.title} is used up: {words(spent)} of {words(limit)} are spent"
    if held:
        message += f", calls in flight hold {words(held)}"
    message += f", and this call may need {words(short.ask)}"
    if spent + short.ask <= limit and held:  # what others do not need comes back
        retry_s = min(left_s, max(lease_ms // 1_000, 1))
        message += "; what those do not need is free when they end"
    else:
        retry_s = left_s
        message += f"; its window ends in {left_s} s" if ends_s else "; it does not begin anew by itself"
    return OverBudget(f"{message}; {_raising(standing)}", retry_s, ruling)


def out_of_time(standings: Sequence[Standing], ruling: Ruling, now_ms: int) -> InterlockError:
    """The refusal of a call that was ended because the seconds of a budget are, or nobody said in time what is left."""
    standing = min(standings, key=lambda each: each.left("millis") or 0)
    if (standing.left("millis") or 0) > 0:
        words = "ended in flight: nobody could say in time how many seconds are left of the budget"
        return BudgetsUnavailable(f"{words} {standing.account.title}: try again later")
    account = standing.account
    left_s = max(account.ends_s - now_ms // 1_000, 1) if account.window_s else NEVER_S
    limit = _WORDS["millis"][1](standing.terms.limits.millis or 0)
    message = f"ended in flight: the {limit} of the budget {account.title} are used up"
    return OverBudget(f"{message}; {_raising(standing)}", left_s, ruling)


def _raising(standing: Standing) -> str:
    owner = standing.terms.owner or "the owner of the rule that sets it"
    return f"{owner} can raise it, and an operator can reset it (`interlock budgets reset {standing.account.id}`)"


def unknown_price(authorized: Authorized) -> PolicyDenied:
    """The refusal of a call of which nobody knows what it costs."""
    resource, permit = authorized.call.resource, authorized.permit
    service = service_of(authorized.call.params) if price_from(resource.catalog) is not None else ""
    special = f" with {service!r}" if service else ""
    message = f"nobody knows what {resource.type} {resource.id!r} costs{special}, and its calls have a budget in money"
    cure = f"leave {', '.join(MEMBERS)} out" if service else "give its prices in models.toml"
    remedy = f'{cure}, or "unknown_price": "allow" in the budget obligation'
    reason = Reason("unknown_price", message, rule="interlock", public=True, remedy=remedy)
    return PolicyDenied(
        f"{message} (unknown_price). What would help: {remedy}. (decision {permit.decision_id})",
        decision_id=permit.decision_id,
        reasons=(reason,),
    )


def unreadable(authorized: Authorized) -> PolicyDenied:
    """The refusal of a permit whose budget was never read."""
    reason = Reason("obligation_unsupported", "budget: not one that was read", rule="interlock", public=True)
    return PolicyDenied(reason.message, decision_id=authorized.permit.decision_id, reasons=(reason,))


def amounts(usage: Usage) -> dict[str, float]:
    """A usage in the words of rules."""
    return {
        "usd": money(usage.nano_usd),
        "tokens": usage.tokens,
        "calls": usage.calls,
        "seconds": usage.millis / 1_000,
    }


def limits_in(standing: Standing) -> dict[str, float]:
    """The limits that there are, in the words of rules."""
    limits = standing.terms.limits
    given = {name: limits.of(name) for name in DIMENSIONS}
    every = amounts(Usage(**{str(name): value or 0 for name, value in given.items()}))
    return {_WORDS[name][0]: every[_WORDS[name][0]] for name, value in given.items() if value is not None}


def shown(standing: Standing) -> dict[str, object]:
    """An account for people and programs."""
    account = standing.account
    return {
        "id": account.id,
        "scope": account.scope,
        "holder": account.holder,
        "name": account.name,
        "window_s": account.window_s,
        "ends_s": account.ends_s if account.window_s else 0,
        "limits": limits_in(standing),
        "spent": amounts(standing.spent),
        "held": amounts(standing.held),
        "used": round(standing.most_used, 4),
        "warns": standing.warns,
        "warn_at": standing.terms.warn_at,
        "owner": standing.terms.owner,
        "updated_ms": standing.updated_ms,
    }


def facts(standing: Standing) -> dict[str, object]:
    """An account as policy sees it."""
    account = standing.account
    spent = amounts(standing.spent + standing.held)
    return {
        "scope": account.scope,
        "name": account.name,
        "window_s": account.window_s,
        "spent_usd": spent.pop("usd"),
        **spent,
        "limits": limits_in(standing),
        "used": round(standing.most_used, 6),
        "warns": standing.warns,
    }


def warning(standing: Standing) -> dict[str, object]:
    """What a record says of an account that is near its limit."""
    account = standing.account
    return {
        "scope": account.scope,
        "name": account.name,
        "account": account.id,
        "used": round(standing.most_used, 4),
    }
