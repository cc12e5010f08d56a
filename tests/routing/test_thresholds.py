"""Calibration: what quality is promised at which threshold."""

from __future__ import annotations

import random

import pytest

from gateway import codec
from gateway.routing.evaluation import Scored
from gateway.routing.thresholds import ALWAYS_STRONG, NEVER_STRONG, Calibration


def _rows(count: int, seed: int = 0) -> list[Scored]:
    """The gain is the score itself: the strong model is always right, the weak one less often the higher the score."""
    chance = random.Random(seed)
    drawn = [chance.random() for _ in range(count)]
    return [Scored(score, float(chance.random() > score), 1.0) for score in drawn]


def test_a_higher_quality_never_has_a_higher_threshold() -> None:
    calibration = Calibration.of(_rows(2_000))

    found = [calibration.threshold(quality / 100) for quality in range(0, 101)]

    assert found == sorted(found, reverse=True)
    assert (found[0], found[100]) == (NEVER_STRONG, ALWAYS_STRONG)


@pytest.mark.parametrize("quality", [0.8, 0.9, 0.95])
def test_the_promised_quality_is_kept_on_prompts_that_were_not_seen(quality: float) -> None:
    kept = 0
    for seed in range(20):
        threshold = Calibration.of(_rows(1_000, seed)).threshold(quality)
        unseen = _rows(20_000, seed + 1_000)
        kept += sum(row.strong if row.score >= threshold else row.weak for row in unseen) >= quality * len(unseen)

    assert kept >= 16  # nine times in ten, less luck


def test_few_outcomes_promise_less_than_many() -> None:
    few, many = Calibration.of(_rows(100)), Calibration.of(_rows(20_000))

    assert few.expected(0.9).share > many.expected(0.9).share
    assert many.share(many.threshold(0.9)) == pytest.approx(many.expected(0.9).share)
    assert many.share(ALWAYS_STRONG) == 1.0


def test_equal_scores_are_never_parted() -> None:
    calibration = Calibration.of([Scored(0.5, 0.0, 1.0)] * 50 + [Scored(0.1, 1.0, 1.0)] * 50)

    assert [step.share for step in calibration.steps] == [0.5, 0.0]
    assert calibration.threshold(0.98) == pytest.approx(0.3)


def test_a_calibration_survives_json() -> None:
    calibration = Calibration.of(_rows(500))

    assert Calibration.from_json(codec.loads(codec.dumps(calibration.as_json()))) == calibration


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"outcomes": 1, "steps": []},
        {"outcomes": 1, "steps": [{"threshold": "x", "share": 1, "quality": 1, "sure": 1}]},
        {"outcomes": 2, "steps": [{"threshold": 0.5, "share": 1, "quality": 1, "sure": 1}] * 2},
    ],
)
def test_what_is_no_calibration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="calibration"):
        Calibration.from_json(value)


def test_a_strong_model_that_is_never_right_cannot_be_calibrated_against() -> None:
    with pytest.raises(ValueError, match="never right"):
        Calibration.of([Scored(0.5, 1.0, 0.0)])
