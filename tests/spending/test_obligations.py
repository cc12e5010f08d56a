"""The obligations `budget` and `cost`: read strictly, merged to the strictest."""

from __future__ import annotations

import pytest

from gateway.authz.obligations import SUPPORTED_OBLIGATIONS, obligations_in
from gateway.authz.reading import UnsupportedObligation
from gateway.spending import Budget, Cost, Limits
from gateway.types import Usage
from tests.spending.worlds import budget, cost


def test_policy_is_told_of_them() -> None:
    assert {"budget", "cost"} <= set(SUPPORTED_OBLIGATIONS)


def test_a_budget_is_read_in_whole_parts() -> None:
    (read,) = obligations_in([budget(usd=0.1, tokens=5, calls=2, seconds=1.5, window_s=60, name="n", owner="me")])

    assert isinstance(read, Budget)
    assert read.limits == Limits(100_000_000, 5, 2, 1_500)
    assert (read.scope, read.name, read.window_s, read.warn_at, read.owner) == ("subject", "n", 60, 0.8, "me")
    assert not read.allows_unknown_price
    assert obligations_in([{"type": "budget", "properties": read.properties}]) == (read,)


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"scope": "world", "calls": 1},
        {"calls": -1},
        {"calls": True},
        {"calls": 1.5},
        {"calls": None},
        {"usd": "1"},
        {"usd": -0.1},
        {"usd": float("nan")},
        {"calls": 1, "window_s": -1},
        {"calls": 1, "window_s": False},
        {"calls": 1, "window_s": 40_000_000},
        {"calls": 1, "warn_at": 0},
        {"calls": 1, "warn_at": 1.1},
        {"calls": 1, "unknown_price": True},
        {"calls": 1, "name": "x" * 65},
        {"calls": 1, "owner": "a\nb"},
        {"calls": 1, "more": 1},
    ],
)
def test_what_makes_no_sense_is_no_budget(properties: dict[str, object]) -> None:
    with pytest.raises(UnsupportedObligation):
        obligations_in([budget(**properties)])


@pytest.mark.parametrize(
    "properties", [{}, {"usd": -1}, {"usd": float("inf")}, {"usd": 1_000_001}, {"tokens": 0.5}, {"calls": 1}]
)
def test_what_makes_no_sense_is_no_cost(properties: dict[str, object]) -> None:
    with pytest.raises(UnsupportedObligation):
        obligations_in([cost(**properties)])


def test_of_several_the_strictest_holds_for_each_account() -> None:
    read = obligations_in(
        [
            budget(usd=2, warn_at=0.9, unknown_price="allow", owner="a"),
            budget(usd=3, calls=4, unknown_price="deny", owner="b"),
            budget(usd=1, window_s=60),
            budget(usd=1, name="other"),
            cost(usd=0.5),
            cost(usd=0.2, tokens=3),
        ]
    )

    budgets = [item for item in read if isinstance(item, Budget)]
    assert [(item.name, item.window_s, item.limits) for item in budgets] == [
        ("", 0, Limits(2_000_000_000, None, 4)),
        ("", 60, Limits(1_000_000_000)),
        ("other", 0, Limits(1_000_000_000)),
    ]
    assert (budgets[0].warn_at, budgets[0].allows_unknown_price, budgets[0].owner) == (0.8, False, "a and b")
    assert [item.usage for item in read if isinstance(item, Cost)] == [Usage(500_000_000, 3)]
