"""What was measured as people are to read it: medians with their spread, beside what they were to reach."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Held: TypeAlias = Literal["median", "added", "ratio"]
"""Which figure of a row the aim is for."""


@dataclass(frozen=True, slots=True)
class Spread:
    """All rounds of one thing: none is left out, the worst included."""

    rounds: int
    p10: float
    median: float
    p90: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """That of these values, of which there must be one."""
        ordered = sorted(values)
        return cls(len(ordered), _quantile(ordered, 0.1), statistics.median(ordered), _quantile(ordered, 0.9))


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured with one driver, beside the plain process of the same rounds where there is one."""

    driver: str
    what: str
    unit: str
    own: Spread
    plain: Spread | None = None
    held: Held = "median"
    aim: float | None = None
    """The most that the figure `held` is to be; `None` for what is only shown."""

    @property
    def added(self) -> float | None:
        """How much more than the plain process, median against median."""
        return None if self.plain is None else self.own.median - self.plain.median

    @property
    def ratio(self) -> float | None:
        """How many times the plain process, median against median."""
        return None if self.plain is None or not self.plain.median else self.own.median / self.plain.median

    @property
    def figure(self) -> float | None:
        """What is held against the aim."""
        return {"median": self.own.median, "added": self.added, "ratio": self.ratio}[self.held]

    @property
    def met(self) -> bool | None:
        """Whether the aim was reached; `None` where there is none."""
        return None if self.aim is None or self.figure is None else self.figure <= self.aim

    def as_json(self) -> dict[str, object]:
        """The row with what follows from it."""
        return {**asdict(self), "added": self.added, "ratio": self.ratio, "figure": self.figure, "met": self.met}


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """What could not be measured, with the reason."""

    driver: str
    what: str
    reason: str


def table(rows: Iterable[Row], faults: Iterable[Unmeasured], *, driver: str = "driver", plain: str = "plain") -> str:
    """All rows, then what is missing. The words are the heads of the first column and of what rows stand beside."""
    head = (
        f"  {driver:<11}{'what':<58}{'median':>9}{'p10':>9}{'p90':>9}  {'':<4}{'rounds':>6}"
        f"{plain:>9}{'added':>9}{'ratio':>7}  aim"
    )
    missing = [f"  {fault.driver:<11}{fault.what}: not measured: {fault.reason}" for fault in faults]
    return "\n".join([head, *map(_line, rows), *missing])


def _line(row: Row) -> str:
    own, plain = row.own, "" if row.plain is None else f"{row.plain.median:.2f}"
    spread = f"{own.median:>9.2f}{own.p10:>9.2f}{own.p90:>9.2f}  {row.unit:<4}{own.rounds:>6}"
    beside = f"{plain:>9}{_shown(row.added, '+.2f'):>9}{_shown(row.ratio, '.2f'):>7}"
    return f"  {row.driver:<11}{row.what:<58}{spread}{beside}  {_aim(row)}".rstrip()


def _shown(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _aim(row: Row) -> str:
    if row.aim is None:
        return ""
    return f"{row.held} at most {row.aim:g}: {'met' if row.met else 'NOT MET'}"
