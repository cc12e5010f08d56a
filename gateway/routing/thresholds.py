"""Which gain is enough: from the quality that is asked for to a threshold, measured on judged outcomes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import sqrt
from typing import Final

from gateway.routing.evaluation import Scored

SURE: Final = 1.2816
"""Standard errors between an estimate and what is promised: the quality is kept nine times in ten."""
STEPS: Final = 200
ALWAYS_STRONG: Final = float("-inf")
NEVER_STRONG: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Step:
    """At this threshold: the share of strong calls, the quality relative to the strong model's, and what is sure."""

    threshold: float
    share: float
    quality: float
    sure: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Steps from many strong calls to none. Made from predictions for outcomes that the predictor had not seen."""

    steps: tuple[Step, ...]
    outcomes: int

    @classmethod
    def of(cls, rows: Sequence[Scored], *, sure: float = SURE) -> Calibration:
        """That of out-of-sample predictions. Raises `ValueError` where the strong model never was right."""
        ordered = sorted(rows, key=lambda row: row.score)
        best = sum(row.strong for row in ordered)
        if not best:
            raise ValueError("the strong model was never right: no quality can be kept relative to it")
        steps, lost, squares, count = [], 0.0, 0.0, len(ordered)
        wanted = {round(step * count / STEPS) for step in range(1, STEPS + 1)}
        for taken, row in enumerate(ordered, start=1):
            loss = row.strong - row.weak
            lost, squares = lost + loss, squares + loss * loss
            last = taken == count
            if taken in wanted and (last or ordered[taken].score > row.score):
                above = NEVER_STRONG if last else (row.score + ordered[taken].score) / 2
                spread = max(squares - lost * lost / count, 0.0)
                error = (
                    sure * sqrt(spread + sure * sure / 4) + sure * sure / 2
                )  # as for counts: no loss yet is no proof
                steps.append(Step(above, 1 - taken / count, 1 - lost / best, 1 - (lost + error) / best))
        return cls(tuple(steps), count)

    def threshold(self, quality: float) -> float:
        """The highest threshold up to which this quality is kept, surely and at every step on the way."""
        return self._step(quality).threshold

    def expected(self, quality: float) -> Step:
        """What may be expected of that threshold."""
        return self._step(quality)

    def _step(self, quality: float) -> Step:
        found = Step(ALWAYS_STRONG, 1.0, 1.0, 1.0)
        if quality >= 1:
            return found
        if quality <= 0:
            return Step(NEVER_STRONG, 0.0, self.steps[-1].quality, self.steps[-1].sure)
        for step in self.steps:
            if step.sure < quality:
                break
            found = step
        return found

    def share(self, threshold: float) -> float:
        """The share of strong calls that a threshold led to on the outcomes."""
        if threshold == ALWAYS_STRONG:
            return 1.0
        at = bisect_left([step.threshold for step in self.steps], threshold)
        return self.steps[min(at, len(self.steps) - 1)].share

    def as_json(self) -> dict[str, object]:
        """For the file; a threshold that nothing reaches is `null`."""
        steps = [
            {**asdict(step), "threshold": None if step.threshold == NEVER_STRONG else step.threshold}
            for step in self.steps
        ]
        return {"outcomes": self.outcomes, "steps": steps}

    @classmethod
    def from_json(cls, value: object) -> Calibration:
        """The one that was written. Raises `ValueError`."""
        match value:
            case {"outcomes": int(outcomes), "steps": list(steps)} if steps:
                read = tuple(_step_of(step) for step in steps)
            case _:
                raise ValueError("the calibration is not one")
        if any(a.threshold >= b.threshold for a, b in pairwise(read)):
            raise ValueError("the steps of the calibration are out of order")
        return cls(read, outcomes)


def _step_of(value: Mapping[str, object]) -> Step:
    match value:
        case {
            "threshold": float() | int() | None as threshold,
            "share": float() | int() as share,
            "quality": float() | int() as quality,
            "sure": float() | int() as sure,
        }:
            return Step(NEVER_STRONG if threshold is None else threshold, share, quality, sure)
        case _:
            raise ValueError("a step of the calibration is not one")
