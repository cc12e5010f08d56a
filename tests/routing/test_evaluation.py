"""The figures of a router, on tables small enough to work out by hand."""

from __future__ import annotations

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


def test_a_quality_that_the_weak_model_has_needs_no_strong_call() -> None:
    points = curve(_rows((0.9, EASY), (0.1, EASY)))

    assert share_for(points, 0.9) == 0.0


def test_a_quality_that_nobody_has_takes_every_call() -> None:
    points = curve(_rows((0.9, (0.0, 0.0)), (0.1, HARD)))

    assert share_for(points, 0.99) == 1.0
