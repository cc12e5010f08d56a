"""How long to wait before a failed upstream is tried again."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Doubling delays with jitter, forgotten after a healthy time. Pure: time and randomness are passed in."""

    def __init__(
        self,
        *,
        first_s: float = 0.5,
        max_s: float = 60.0,
        healthy_s: float = 60.0,
        random: Callable[[], float],
    ) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._healthy_s = healthy_s
        self._random = random
        self.failures = 0
        """Failures in a row."""

    def failed(self, *, ran_s: float) -> float:
        """Seconds to wait after a run of `ran_s` seconds ended: between half and the whole of the doubled delay."""
        if ran_s >= self._healthy_s:
            self.failures = 0
        delay_s = min(self._max_s, self._first_s * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return delay_s * (0.5 + 0.5 * self._random())

    def reset(self) -> None:
        """Start over, since somebody changed or asked for something."""
        self.failures = 0
