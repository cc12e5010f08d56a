"""How long an upstream may still take: silence ends a call, reported work and a person who thinks do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LONGEST: Final = 30
"""How many times the longest silence a call may take in all, however much progress it reports (2026-07-28,
patterns/cancellation, "Timeouts": a maximum regardless of progress). Time in which we made it wait is not counted."""


class Clock:
    """The time of one request. `moved` is told whenever the deadline is another one, in the clock's own time."""

    def __init__(self, timeout_s: float, now: Callable[[], float], moved: Callable[[float], None]) -> None:
        self._timeout_s = timeout_s
        self._now = now
        self._moved = moved
        self._deadline = now() + timeout_s
        self._end = self._deadline + timeout_s * (LONGEST - 1)
        self._holders = 0
        self._held_at = 0.0

    @property
    def deadline(self) -> float:
        """When the silence has been too long; infinite while the clock is held."""
        return math.inf if self._holders else min(self._deadline, self._end)

    @property
    def left_s(self) -> float:
        """Seconds until then, at least none."""
        return max(0.0, self.deadline - self._now())

    def restart(self) -> None:
        """The upstream reported work."""
        self._deadline = self._now() + self._timeout_s
        self._moved(self.deadline)

    @contextmanager
    def held(self) -> Iterator[None]:
        """While the block runs, it is not the upstream that is slow."""
        if not self._holders:
            self._held_at = self._now()
        self._holders += 1
        self._moved(self.deadline)
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                held_s = self._now() - self._held_at
                self._deadline += held_s
                self._end += held_s
            self._moved(self.deadline)
