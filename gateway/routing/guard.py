"""Notices that the weak model does worse than it did, and has everything sent to the strong one until that is over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Final, Literal, TypeAlias

Signal: TypeAlias = Literal["schema_failure", "refusal"]
SIGNALS: Final[tuple[Signal, ...]] = ("schema_failure", "refusal")
MAX_TENANTS: Final = 10_000


@dataclass(slots=True)
class PageHinkley:
    """Raises an alarm when the mean of what it is told, values from 0 to 1, has risen (Page 1954; Hinkley 1971).

    In standard deviations of a rate with that mean: `delta` is the rise that is let pass; `limit` is how much more than
    that may add up. Nothing is said before `warm_up` values were seen.
    """

    delta: float = 0.25
    limit: float = 30.0
    warm_up: int = 100
    least: float = 0.2
    """The smallest deviation that is reckoned with: three failures where there were none are not yet a change."""
    seen: int = 0
    mean: float = 0.0
    _sum: float = 0.0
    _least: float = 0.0

    def add(self, value: float) -> bool:
        """Whether there is an alarm with this value."""
        self.seen += 1
        self.mean += (value - self.mean) / self.seen
        deviation = max(sqrt(max(self.mean * (1 - self.mean), 0.0)), self.least)
        self._sum += (value - self.mean) / deviation - self.delta
        self._least = min(self._least, self._sum)
        return self.seen >= self.warm_up and self._sum - self._least > self.limit

    def reset(self) -> None:
        """Begin anew: what was learned to be normal is forgotten."""
        self.seen, self.mean, self._sum, self._least = 0, 0.0, 0.0, 0.0


@dataclass(frozen=True, slots=True)
class Canary:
    """One run of the weak model over a fixed set of prompts whose right answers are known."""

    passed: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.passed <= self.total or not self.total:
            raise ValueError("a canary set has prompts, and no more of them pass than there are")

    @property
    def share(self) -> float:
        """How many of them passed."""
        return self.passed / self.total


@dataclass(frozen=True, slots=True)
class Alarm:
    """What was noticed, since when, in words that hold for a log, a header and a person."""

    signal: Signal | Literal["canary"]
    words: str
    since_s: float


@dataclass(slots=True)
class QualityGuard:
    """Of one pair of models. Told of what the weak one did; `alarm` stands while it is not to be used.

    Rates are those of each tenant (`of`): whoever asks for what no model can give is not to make it dear for others.
    They cannot fall again while the weak model is not asked: the end of an alarm is a canary run that passes (two in a
    row), or a person who says so.
    """

    baseline: Canary | None = None
    sure: float = 2.326
    """Standard errors below the baseline from which a canary run is a fall: one run in a hundred looks so by chance."""
    passes_to_end: int = 2
    _over: QualityGuard | None = field(default=None, repr=False)
    _raised: Alarm | None = None
    _tenants: OrderedDict[str, QualityGuard] = field(default_factory=OrderedDict, repr=False)
    _tests: dict[Signal, PageHinkley] = field(default_factory=lambda: {name: PageHinkley() for name in SIGNALS})
    _passes: int = 0

    @property
    def alarm(self) -> Alarm | None:
        """The one that stands, for this tenant or for all."""
        return self._raised or (self._over.alarm if self._over is not None else None)

    def of(self, tenant: str) -> QualityGuard:
        """The guard over one tenant's answers, under this one."""
        if tenant not in self._tenants:
            self._tenants[tenant] = QualityGuard(_over=self)
        self._tenants.move_to_end(tenant)
        if len(self._tenants) > MAX_TENANTS:
            self._tenants.popitem(last=False)
        return self._tenants[tenant]

    def answered(self, signals: Mapping[Signal, bool], *, now_s: float) -> Alarm | None:
        """An answer of the weak model, and what was wrong with it; the alarm if this one raised it."""
        raised = [name for name in signals if self._tests[name].add(float(signals[name]))]
        if not raised or self.alarm is not None:
            return None
        rate = self._tests[raised[0]].mean
        return self._raise(
            raised[0], f"{raised[0]} of the weak model has risen, to {rate:.1%} over all its answers", now_s
        )

    def canary(self, run: Canary, *, now_s: float) -> Alarm | None:
        """A canary run; the alarm if this one raised it. The first run is what later ones are held against."""
        if self.baseline is None:
            self.baseline = run
            return None
        if not self._fell(run, self.baseline):
            self._passes += 1
            if self._passes >= self.passes_to_end:
                self._end_alarms()
            return None
        self._passes = 0
        if self.alarm is not None:
            return None
        was, now = self.baseline, run
        return self._raise(
            "canary", f"{now.passed} of {now.total} canaries pass; {was.passed} of {was.total} did", now_s
        )

    def resume(self) -> None:
        """The weak model may be used again, for everybody."""
        self._raised, self._passes = None, 0
        for test in self._tests.values():
            test.reset()
        for each in self._tenants.values():
            each.resume()

    def _end_alarms(self) -> None:
        for each in (self, *self._tenants.values()):
            if each._raised is not None:
                each.resume()

    def _fell(self, run: Canary, baseline: Canary) -> bool:
        pooled = (run.passed + baseline.passed) / (run.total + baseline.total)
        error = sqrt(max(pooled * (1 - pooled), 1e-9) * (1 / run.total + 1 / baseline.total))
        return run.share < baseline.share - self.sure * error

    def _raise(self, signal: Signal | Literal["canary"], words: str, now_s: float) -> Alarm:
        self._raised, self._passes = Alarm(signal, words, now_s), 0
        if self._over is not None:
            self._over._passes = 0  # runs that passed before say nothing of it
        return self._raised
