"""A gain guessed from the text alone: what routes until there are outcomes to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import Final

from gateway.routing.ports import GainPredictor, Learner, Outcome, Prediction
from gateway.routing.prompts import FEATURES, Sample

KIND: Final = "heuristic"
_CENTRE: Final = 5.4
"""The logarithm of some 220 characters: a prompt of medium length."""
_WEIGHTS: Final[Mapping[str, float]] = {
    "characters": 0.9,
    "digits": 2.0,
    "symbols": 1.0,
    "sentences": 0.2,
    "negated": 0.3,
    "code": 0.8,
}
"""Set by hand: long, numerical, many-clause and code prompts are where weak models lose."""

WEAK_SHARE: Final = 0.7
"""What is taken to be the weak model's quality, relative to the strong one's, as long as nobody has judged it."""


class Heuristic:
    """Scores from 0 to 1, spread about evenly over everyday prompts: an order, not a measured gain."""

    kind = KIND

    def predict(self, sample: Sample) -> Prediction:
        """As the port says."""
        values = dict(zip(FEATURES, sample.features, strict=True))
        centred = {**values, "characters": values["characters"] - _CENTRE}
        parts = {name: weight * centred[name] for name, weight in _WEIGHTS.items()}
        return Prediction(1 / (1 + exp(-sum(parts.values()))), {f"part_{name}": part for name, part in parts.items()})

    def state(self) -> tuple[Mapping[str, object], Mapping[str, bytes]]:
        """As the port says: there is nothing to keep."""
        return {}, {}


class Unlearned:
    """Fills the learner's port: it learns nothing."""

    kind = KIND

    def learn(self, outcomes: Sequence[Outcome]) -> GainPredictor:
        """As the port says."""
        return Heuristic()

    def restore(self, parameters: Mapping[str, object], arrays: Mapping[str, bytes]) -> GainPredictor:
        """As the port says."""
        return Heuristic()


def cold_threshold(quality: float) -> float:
    """From which score on a prompt goes to the strong model while nothing is calibrated: mostly, it does."""
    return 1 - max(0.0, (quality - WEAK_SHARE) / (1 - WEAK_SHARE))


_: type[GainPredictor] = Heuristic
_learner: type[Learner] = Unlearned
