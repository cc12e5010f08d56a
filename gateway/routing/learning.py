"""Learns a predictor from a deployment's own outcomes, and calibrates it on predictions it made for unseen ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.routing.evaluation import Scored, Scores, scores
from gateway.routing.ports import GainPredictor, Learner, Outcome
from gateway.routing.thresholds import Calibration

FOLDS: Final = 5
MIN_OUTCOMES: Final = 300
"""With fewer, what is learned is noise: the heuristic routes."""
MIN_LOST: Final = 20
"""So many prompts must be such that only the strong model was right: they are what is learned."""
CHANCE: Final = 0.5
"""The APGR of an order by chance."""


class TooFewOutcomes(Exception):
    """There is not enough to learn from; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A predictor with the thresholds that belong to it, and how it did on outcomes it had not seen."""

    predictor: GainPredictor
    calibration: Calibration
    scores: Scores
    embedder: str
    dimensions: int


def train(outcomes: Sequence[Outcome], learners: Sequence[Learner], *, embedder: str, dimensions: int) -> Trained:
    """The learner that orders unseen outcomes best, taught with all of them. Raises `TooFewOutcomes`."""
    _check(outcomes, dimensions)
    tried = [(learner, cross_predicted(outcomes, learner)) for learner in learners]
    learner, rows = max(tried, key=lambda one: scores(one[1]).apgr)
    found = scores(rows)
    if found.apgr <= CHANCE:
        raise TooFewOutcomes(f"{len(outcomes)} outcomes teach nothing: unseen ones are ordered as by chance")
    return Trained(learner.learn(outcomes), Calibration.of(rows), found, embedder, dimensions)


def cross_predicted(outcomes: Sequence[Outcome], learner: Learner, folds: int = FOLDS) -> list[Scored]:
    """Each outcome with the gain that was predicted by one who had not seen it, nor its like: in the order given."""
    places = _places([outcome.key or repr(outcome.sample) for outcome in outcomes], folds)
    found: list[Scored | None] = [None] * len(outcomes)
    for fold in range(folds):
        seen = [outcome for outcome, place in zip(outcomes, places, strict=True) if place != fold]
        if len(seen) == len(outcomes):
            continue
        if not seen:
            raise TooFewOutcomes("all outcomes are of one prompt")
        predictor = learner.learn(seen)
        for index, place in enumerate(places):
            if place == fold:
                one = outcomes[index]
                found[index] = Scored(predictor.predict(one.sample).gain, one.weak, one.strong)
    return [row for row in found if row is not None]


def fold_of(key: str, folds: int = FOLDS) -> int:
    """Where a prompt is checked: the same prompt is always in the same fold."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % folds


def _places(keys: Sequence[str], folds: int) -> Sequence[int]:
    found = [fold_of(key, folds) for key in keys]
    if len(set(found)) > 1:
        return found
    dealt = {key: number % folds for number, key in enumerate(sorted(set(keys)))}  # a few may all meet in one fold
    return [dealt[key] for key in keys]


def _check(outcomes: Sequence[Outcome], dimensions: int) -> None:
    if len(outcomes) < MIN_OUTCOMES:
        raise TooFewOutcomes(f"{len(outcomes)} outcomes, and {MIN_OUTCOMES} are needed")
    lost = sum(outcome.strong > outcome.weak for outcome in outcomes)
    if lost < MIN_LOST:
        raise TooFewOutcomes(f"the strong model was better {lost} times, and {MIN_LOST} times are needed")
    if sum(outcome.strong - outcome.weak for outcome in outcomes) <= 0:
        raise TooFewOutcomes("the strong model is not the better one: there is nothing to route for")
    if any(len(outcome.sample.vector) != 4 * dimensions for outcome in outcomes):
        raise ValueError(f"a vector has not {dimensions} dimensions")
