"""What routing needs from the outside: something that predicts a gain, and something that learns to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.routing.prompts import Sample


@dataclass(frozen=True, slots=True)
class Outcome:
    """How well both models answered one prompt, from 0 (wrong) to 1 (right). `task` is its class, for reports."""

    sample: Sample
    weak: float
    strong: float
    task: str = ""
    key: str = ""
    """Names the prompt (a digest): what has the same key is never split between learning and checking."""

    def __post_init__(self) -> None:
        if not (0 <= self.weak <= 1 and 0 <= self.strong <= 1):
            raise ValueError("an outcome is judged from 0 to 1")


@dataclass(frozen=True, slots=True)
class Prediction:
    """How much better the strong model will do, from -1 to 1, beside what that was read from.

    `why` holds figures for people: the neighbours' share that only the strong model got right, say.
    """

    gain: float
    why: Mapping[str, float] = field(default_factory=dict)


class GainPredictor(Protocol):
    """Predicts the gain of the strong model over the weak one. About 1 ms, no I/O, works in any thread."""

    @property
    def kind(self) -> str:
        """By which name its learner is found again."""

    def predict(self, sample: Sample) -> Prediction: ...

    def state(self) -> tuple[Mapping[str, object], Mapping[str, bytes]]:
        """What `restore` needs to make it again: parameters that are JSON, and arrays as bytes."""


class Learner(Protocol):
    """Makes predictors of one kind from outcomes, and from what they left in a file."""

    @property
    def kind(self) -> str:
        """Its name: `knn`, `logistic`, `blend`."""

    def learn(self, outcomes: Sequence[Outcome]) -> GainPredictor:
        """A predictor that knows these outcomes. The same ones give the same predictor."""

    def restore(self, parameters: Mapping[str, object], arrays: Mapping[str, bytes]) -> GainPredictor:
        """The predictor with this state. Raises `ValueError` where they do not fit together."""
