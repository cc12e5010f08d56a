"""Counting calls against the `rate` obligation, in memory: a bucket of `limit` calls that refills evenly.

A bucket holds one number, the time at which it is full again (the generic cell rate algorithm), so that what a
caller costs is small and old buckets can be told from those in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from gateway.authz.obligations import Rate
from gateway.errors import QuotaExceeded

MAX_BUCKETS: Final = 100_000

BucketKey: TypeAlias = tuple[str, str, int]


class RateLimiter:
    """Charges calls to buckets; `monotonic_ns` is the clock, in nanoseconds."""

    def __init__(self, monotonic_ns: Callable[[], int], *, max_buckets: int = MAX_BUCKETS) -> None:
        self._monotonic_ns = monotonic_ns
        self._max_buckets = max_buckets
        self._full_at: dict[BucketKey, int] = {}

    def charge(self, rates: Sequence[Rate], caller: str, resource_id: str) -> None:
        """Count one call against every rate, or against none and raise `QuotaExceeded`.

        When all buckets are in use a new caller is refused, rather than an old one forgotten.
        """
        now = self._monotonic_ns()
        charged: dict[BucketKey, int] = {}
        for rate in rates:
            key = (f"={rate.key}" if rate.key else caller, resource_id, rate.window_s)
            charged[key] = max(self._charged(key, rate, now), charged.get(key, 0))
        self._make_room(len(charged), now)
        self._full_at.update(charged)

    def _charged(self, key: BucketKey, rate: Rate, now: int) -> int:
        """When the bucket would be full again after this call."""
        window_ns = rate.window_s * 1_000_000_000
        full_at = max(self._full_at.get(key, now), now) + math.ceil(window_ns / rate.limit)
        excess_ns = full_at - now - window_ns
        if excess_ns > rate.limit:  # a call counts for up to one nanosecond too much
            wait_s = math.ceil(excess_ns / 1_000_000_000)
            raise QuotaExceeded(
                f"more than {rate.limit} calls in {rate.window_s} s; try again in {wait_s} s", retry_after_s=wait_s
            )
        return full_at

    def _make_room(self, wanted: int, now: int) -> None:
        if len(self._full_at) + wanted <= self._max_buckets:
            return
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        if len(self._full_at) + wanted > self._max_buckets:
            raise QuotaExceeded("too many callers are being counted; try again later", retry_after_s=60)
