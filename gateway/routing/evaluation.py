"""How good an order of prompts is for sending the first ones to the strong model: APGR, CPT, calls for a quality.

Words and measures are those of RouteLLM (arXiv:2406.18665 section 4): the *gap recovered* is how much of the distance
between the weak and the strong model's quality is made up for at a share of strong calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final

QUALITY: Final = 0.95
_ROUNDING: Final = 1e-9
"""Marks like 0.7 are not exact, nor are their sums: what differs by less does not differ."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One prompt: the score it was given, and how both models answered."""

    score: float
    weak: float
    strong: float


@dataclass(frozen=True, slots=True)
class Point:
    """What comes of sending every prompt with a score of at least `threshold` to the strong model."""

    threshold: float
    share: float
    quality: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one router on one table. `calls_at_quality` is the share of strong calls at 95 % of the strong's quality."""

    apgr: float
    cpt50: float
    cpt80: float
    calls_at_quality: float


def curve(rows: Sequence[Scored]) -> list[Point]:
    """From no strong call to all of them. Prompts of equal score go together: no order among them is a merit."""
    if not rows:
        raise ValueError("there is no row to evaluate")
    total, taken = sum(row.weak for row in rows), 0
    points = [Point(float("inf"), 0.0, total / len(rows))]
    for score, group in groupby(sorted(rows, key=lambda row: -row.score), key=lambda row: row.score):
        for row in group:
            total, taken = total + row.strong - row.weak, taken + 1
        points.append(Point(score, taken / len(rows), total / len(rows)))
    return points


def scores(rows: Sequence[Scored]) -> Scores:
    """The four figures. Raises `ValueError` where the strong model is not the better one: there is no gap."""
    points = curve(rows)
    weak, strong = points[0].quality, points[-1].quality
    gap = strong - weak
    if gap <= _ROUNDING:
        raise ValueError("the strong model is not better on these rows: there is nothing to route for")
    area = sum((b.share - a.share) * (a.quality + b.quality) / 2 for a, b in pairwise(points))
    return Scores(
        apgr=(area - weak) / gap,
        cpt50=share_for(points, weak + 0.5 * gap),
        cpt80=share_for(points, weak + 0.8 * gap),
        calls_at_quality=share_for(points, QUALITY * strong),
    )


def share_for(points: Sequence[Point], quality: float) -> float:
    """The smallest share of strong calls that has this quality, on the line between two points where it falls there."""
    if points[0].quality >= quality - _ROUNDING:
        return 0.0
    for a, b in pairwise(points):
        if b.quality >= quality - _ROUNDING:
            part = (quality - a.quality) / (b.quality - a.quality)
            return a.share + min(max(part, 0.0), 1.0) * (b.share - a.share)
    return 1.0
