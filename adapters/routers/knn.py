"""Predicts the gain as what it was for the most similar prompts, the nearer ones counting for more.

Prompts are alike in meaning (their vectors, less the mean of all) and a little in form (the measures of their texts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from adapters.routers.arrays import Floats, as_bytes, features_of, from_bytes, grades_of, vector_of, vectors_of, whole
from gateway.routing.ports import GainPredictor, Learner, Outcome, Prediction
from gateway.routing.prompts import FEATURES, Sample

KIND: Final = "knn"
NEIGHBOURS: Final = 150
TEMPERATURE: Final = 0.2
"""Of the softmax over similarities: what is judged right or wrong once is noisy, so many count nearly alike."""
FORM: Final = 0.06
"""How much one standard deviation of a measure counts, where all of the meaning has length 1."""
MAX_ROWS: Final = 20_000
"""The newest outcomes are kept; the comparison costs 0.1 ms for each thousand."""
_LEAST: Final = 1e-6
_ARRAYS: Final = ("rows", "mean", "scale", "weak", "strong")


@dataclass(frozen=True, slots=True)
class Knn:
    """The outcomes themselves: `rows` to compare with, beside how both models did."""

    rows: Floats
    mean: Floats
    scale: Floats
    weak: Floats
    strong: Floats
    neighbours: int
    kind: str = KIND

    def predict(self, sample: Sample) -> Prediction:
        """As the port says."""
        vector = vector_of(sample, len(self.mean) - len(FEATURES))
        columns = np.concatenate([vector, np.array(sample.features, dtype=np.float32)])
        alike = self.rows @ _comparable(columns[None, :], self.mean, self.scale)[0]
        near = np.argpartition(alike, -self.neighbours)[-self.neighbours :]
        weights = np.exp((alike[near] - alike[near].max()) / TEMPERATURE)
        weights /= weights.sum()
        weak, strong = self.weak[near], self.strong[near]
        why = {
            "neighbours": float(self.neighbours),
            "nearest": float(alike[near].max()),
            "weak_right": float(weights @ weak),
            "strong_right": float(weights @ strong),
            "only_strong_right": float(weights @ np.maximum(strong - weak, 0)),
        }
        return Prediction(why["strong_right"] - why["weak_right"], why)

    def state(self) -> tuple[Mapping[str, object], Mapping[str, bytes]]:
        """As the port says."""
        rows, columns = self.rows.shape
        arrays = {name: as_bytes(getattr(self, name)) for name in _ARRAYS}
        parameters = {"rows": rows, "columns": columns, "neighbours": self.neighbours}
        return parameters, arrays


@dataclass(frozen=True, slots=True)
class LearnKnn:
    """Keeps the newest outcomes; at most a quarter of them are neighbours."""

    neighbours: int = NEIGHBOURS
    kind: str = KIND

    def learn(self, outcomes: Sequence[Outcome]) -> GainPredictor:
        """As the port says."""
        kept = outcomes[-MAX_ROWS:]
        columns = np.hstack([vectors_of(kept), features_of(kept)])
        mean, scale = columns.mean(axis=0), columns.std(axis=0)
        scale[scale < _LEAST] = 1.0
        weak, strong = grades_of(kept)
        neighbours = max(1, min(self.neighbours, len(kept) // 4))
        return Knn(_comparable(columns, mean, scale), mean, scale, weak, strong, neighbours)

    def restore(self, parameters: Mapping[str, object], arrays: Mapping[str, bytes]) -> GainPredictor:
        """As the port says."""
        rows, columns = whole(parameters["rows"]), whole(parameters["columns"])
        neighbours = whole(parameters["neighbours"])
        if neighbours > rows or columns <= len(FEATURES):
            raise ValueError("there are more neighbours than rows, or no vectors")
        weak, strong = (from_bytes(arrays[name], rows) for name in ("weak", "strong"))
        mean, scale = (from_bytes(arrays[name], columns) for name in ("mean", "scale"))
        if not (scale > 0).all():
            raise ValueError("a scale is not above 0")
        return Knn(from_bytes(arrays["rows"], rows, columns), mean, scale, weak, strong, neighbours)


def _comparable(columns: Floats, mean: Floats, scale: Floats) -> Floats:
    split = -len(FEATURES)
    meaning = columns[:, :split] - mean[:split]
    meaning /= np.maximum(np.linalg.norm(meaning, axis=1, keepdims=True), _LEAST)
    form = (columns[:, split:] - mean[split:]) / scale[split:] * np.float32(FORM)
    return np.hstack([meaning, form]).astype(np.float32)


_: type[GainPredictor] = Knn
_learner: type[Learner] = LearnKnn
