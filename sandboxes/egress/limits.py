"""How much of the gateway one box's connections may use up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """Caps that hold whatever policy permits. `connections` to `lookups` are for each box."""

    connections: int = 128
    """Open at the same time. More are answered with 503."""
    rate_per_s: float = 50.0
    """New ones, on average, and `burst` at once. More wait until they are accepted."""
    burst: int = 200
    refused_counts: int = 5
    """As how many of those a refused one counts: it costs a decision and a record all the same."""
    lookups: int = 4
    """Names that are looked up at the same time: each takes a thread."""
    total_connections: int = 1024
    """Of all boxes together."""
    head_bytes: int = 32 * 1024
    """Request line and headers."""
    head_s: float = 10.0
    resolve_s: float = 5.0
    dial_s: float = 10.0
    """For all addresses of a name together."""
    idle_s: float = 300.0
    """How long nothing may be sent in either direction."""
    half_closed_s: float = 60.0
    """The same, once one of the two has said that it will send no more."""
    linger_s: float = 1.0
    """How long a refused client may take to read why."""


class Pace:
    """Lets so many through per second, and so many at once (a token bucket)."""

    def __init__(self, rate_per_s: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate = rate_per_s
        self._burst = float(burst)
        self._clock = clock
        self._tokens = self._burst
        self._filled_at = clock()

    def delay_s(self) -> float:
        """How long the next one has to wait. It is counted, so it has to come."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate) - 1
        self._filled_at = now
        return max(0.0, -self._tokens / self._rate)

    def charge(self, more: int) -> None:
        """The last one counts for so many more."""
        self._tokens -= more
