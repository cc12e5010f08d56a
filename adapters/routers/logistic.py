"""Predicts the gain as the strong model's chance to be right less the weak one's, each by logistic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from adapters.routers.arrays import Floats, as_bytes, features_of, from_bytes, grades_of, vector_of, vectors_of, whole
from gateway.routing.ports import GainPredictor, Learner, Outcome, Prediction
from gateway.routing.prompts import FEATURES, Sample

KIND: Final = "logistic"
PENALTY: Final = 3_000.0
"""Of the squared weights (over standardised columns): strong, since an answer is right or wrong by much luck."""
_STEPS: Final = 12
_DONE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Logistic:
    """Weights of both models over standardised columns; the last one is the constant."""

    mean: Floats
    scale: Floats
    weak: Floats
    strong: Floats
    kind: str = KIND

    def predict(self, sample: Sample) -> Prediction:
        """As the port says."""
        vector = vector_of(sample, len(self.mean) - len(FEATURES))
        row = (np.concatenate([vector, np.array(sample.features, dtype=np.float32)]) - self.mean) / self.scale
        weak, strong = (float(_chance(row @ side[:-1] + side[-1])) for side in (self.weak, self.strong))
        return Prediction(strong - weak, {"weak_right": weak, "strong_right": strong})

    def state(self) -> tuple[Mapping[str, object], Mapping[str, bytes]]:
        """As the port says."""
        arrays = {"mean": self.mean, "scale": self.scale, "weak": self.weak, "strong": self.strong}
        return {"columns": len(self.mean)}, {name: as_bytes(array) for name, array in arrays.items()}


@dataclass(frozen=True, slots=True)
class LearnLogistic:
    """Newton's method; a few seconds for 20,000 outcomes."""

    penalty: float = PENALTY
    kind: str = KIND

    def learn(self, outcomes: Sequence[Outcome]) -> GainPredictor:
        """As the port says."""
        columns = np.hstack([vectors_of(outcomes), features_of(outcomes)])
        mean, scale = columns.mean(axis=0), columns.std(axis=0)
        scale[scale < 1e-6] = 1.0
        rows = np.hstack([(columns - mean) / scale, np.ones((len(columns), 1))]).astype(np.float64)
        weak, strong = (_fitted(rows, side.astype(np.float64), self.penalty) for side in grades_of(outcomes))
        return Logistic(mean, scale, weak, strong)

    def restore(self, parameters: Mapping[str, object], arrays: Mapping[str, bytes]) -> GainPredictor:
        """As the port says."""
        columns = whole(parameters["columns"])
        mean, scale = (from_bytes(arrays[name], columns) for name in ("mean", "scale"))
        weak, strong = (from_bytes(arrays[name], columns + 1) for name in ("weak", "strong"))
        if columns <= len(FEATURES) or not (scale > 0).all():
            raise ValueError("the columns are not those of a vector and its measures")
        return Logistic(mean, scale, weak, strong)


def _fitted(rows: NDArray[np.float64], right: NDArray[np.float64], penalty: float) -> Floats:
    weights = np.zeros(rows.shape[1])
    ridge = np.full(rows.shape[1], penalty)
    ridge[-1] = 1e-3  # the constant is free, but for one class alone it would run away
    for _ in range(_STEPS):
        chance = _chance(rows @ weights)
        slope = rows.T @ (chance - right) + ridge * weights
        bend = (rows * (chance * (1 - chance))[:, None]).T @ rows + np.diag(ridge)
        step = np.linalg.solve(bend, slope)
        weights -= step
        if float(np.abs(step).max()) < _DONE:
            break
    return weights.astype(np.float32)


def _chance(score: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(score, -30, 30)))


_: type[GainPredictor] = Logistic
_learner: type[Learner] = LearnLogistic
