"""When to stop asking something that does not answer, and when to try again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

State: TypeAlias = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Opens at `consecutive` failures in a row, or when `share` of the last `window` within `window_s` failed."""

    consecutive: int = 5
    window: int = 20
    share: float = 0.5
    window_s: float = 10.0
    probe_after_s: float = 2.0


LIMITS: Final = Limits()


class Breaker:
    """Says whether a question may be asked. `now_s` is a monotonic clock in seconds."""

    def __init__(self, now_s: Callable[[], float], limits: Limits = LIMITS) -> None:
        self._now_s = now_s
        self._limits = limits
        self._recent: deque[tuple[float, bool]] = deque(maxlen=limits.window)
        self._in_a_row = 0
        self._opened_s: float | None = None
        self._probe_s: float | None = None

    @property
    def state(self) -> State:
        """`half_open` from when a probe may be sent until its outcome is known."""
        if self._opened_s is None:
            return "closed"
        return "half_open" if self._now_s() - self._opened_s >= self._limits.probe_after_s else "open"

    def may_ask(self) -> bool:
        """Whether to ask now. While half open, one question is let through as a probe."""
        state = self.state
        if state != "half_open":
            return state == "closed"
        now = self._now_s()
        if self._probe_s is not None and now - self._probe_s < self._limits.probe_after_s:
            return False
        self._probe_s = now  # a probe whose outcome is never told makes room for the next after a while
        return True

    def succeeded(self) -> None:
        """An answer came."""
        if self._opened_s is not None:
            self._close()
        self._in_a_row = 0
        self._recent.append((self._now_s(), True))

    def failed(self) -> None:
        """No answer came."""
        now = self._now_s()
        self._in_a_row += 1
        self._recent.append((now, False))
        if self._opened_s is not None or self._in_a_row >= self._limits.consecutive or self._too_many(now):
            self._opened_s = now
            self._probe_s = None

    def _too_many(self, now: float) -> bool:
        recent = [good for at, good in self._recent if now - at <= self._limits.window_s]
        return len(recent) >= self._limits.window and recent.count(False) >= self._limits.share * len(recent)

    def _close(self) -> None:
        self._opened_s = self._probe_s = None
        self._recent.clear()
