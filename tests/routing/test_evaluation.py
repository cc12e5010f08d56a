"""The figures of a router, on tables small enough to work out by hand."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise

import pytest

from gateway.routing.evaluation import Scored, curve, scores, share_for

HARD, EASY = (0.0, 1.0), (1.0, 1.0)


def _rows(*rows: tuple[float, tuple[float, float]]) -> list[Scored]:
    return [Scored(score, *grades) for score, grades in rows]


def test_a_perfect_order_recovers_the_gap_with_as_many_calls_as_there_are_hard_prompts() -> None:
    found = scores(_rows((0.9, HARD), (0.8, HARD), (0.2, EASY), (0.1, EASY)))

    assert found.apgr == pytest.approx(0.75)
    assert found.cpt50 == pytest.approx(0.25)
    assert found.cpt80 == pytest.approx(0.4)
    assert found.calls_at_quality == pytest.approx(0.45)


def test_the_reverse_of_a_perfect_order_is_as_bad_as_can_be() -> None:
    found = scores(_rows((0.1, HARD), (0.2, HARD), (0.8, EASY), (0.9, EASY)))

    assert found.apgr == pytest.approx(0.25)
    assert found.cpt50 == pytest.approx(0.75)


def test_one_score_for_all_is_worth_what_chance_is_whatever_the_order_of_rows() -> None:
    rows = _rows((0.5, HARD), (0.5, HARD), (0.5, EASY), (0.5, EASY))

    assert scores(rows) == scores(rows[::-1])
    assert scores(rows).apgr == pytest.approx(0.5)
    assert scores(rows).cpt80 == pytest.approx(0.8)


def test_a_table_without_a_gap_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to route for"):
        scores(_rows((0.5, EASY), (0.4, EASY)))
    with pytest.raises(ValueError, match="no row"):
        curve([])


def test_a_gap_that_only_rounding_makes_is_none() -> None:
    with pytest.raises(ValueError, match="nothing to route for"):
        scores(_rows((0.9, (0.7, 0.5)), (0.1, (0.7, 0.9))))


def test_a_quality_that_rounding_alone_is_short_of_needs_no_strong_call() -> None:
    groups = [EASY] * 19 + [HARD] + [(0.0, 0.0)] * 33  # 19/53 of the weak, and 95 % of 20/53
    rows = _rows(*[(1 - number / 53, grades) for number, grades in enumerate(groups)])

    assert scores(rows).calls_at_quality == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_the_figures_are_those_that_fractions_give(seed: int) -> None:
    chance = random.Random(seed)
    marks = [
        (chance.choice([0.1, 0.5, 0.9, chance.random()]), chance.randint(0, 10), chance.randint(0, 10))
        for _ in range(60)
    ]
    rows = [Scored(score, low / 10, max(low, high) / 10) for score, low, high in marks]

    found = scores(rows)

    steps = [(Fraction(0), Fraction(sum(low for _, low, _ in marks), 10))]
    for least in sorted({score for score, _, _ in marks}, reverse=True):
        above = [(low, high) for score, low, high in marks if score >= least]
        gained = Fraction(sum(max(low, high) - low for low, high in above), 10)
        steps.append((Fraction(len(above), len(marks)), steps[0][1] + gained))
    weak, strong = steps[0][1], steps[-1][1]
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(steps))
    assert found.apgr == pytest.approx(float((area - weak) / (strong - weak)))
    for share, wanted in ((found.cpt50, (weak + strong) / 2), (found.calls_at_quality, Fraction(19, 20) * strong)):
        a, b = next(((a, b) for a, b in pairwise(steps) if b[1] >= wanted))
        at = a[0] + (wanted - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) if b[1] > a[1] else a[0]
        assert share == pytest.approx(max(float(at), 0.0))


def test_a_quality_that_the_weak_model_has_needs_no_strong_call() -> None:
    points = curve(_rows((0.9, EASY), (0.1, EASY)))

    assert share_for(points, 0.9) == 0.0


def test_a_quality_that_nobody_has_takes_every_call() -> None:
    points = curve(_rows((0.9, (0.0, 0.0)), (0.1, HARD)))

    assert share_for(points, 0.99) == 1.0
