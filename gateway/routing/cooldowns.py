"""Providers and models that failed are left alone for a while; then one call is let through to see how they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

AFTER: Final = 3
"""Failures in a row."""
MAX_TIMES: Final = 16
"""How many times as long as the first one a cooldown may become."""
MAX_KEYS: Final = 10_000


@dataclass(slots=True)
class _State:
    failures: int = 0
    opened: int = 0
    opened_s: float = 0.0
    until_s: float = 0.0
    probing: bool = False


class Cooldowns:
    """By key. Closed: calls go. Open: none do. Half open, once its time is over: one does, and its end decides."""

    def __init__(self, now_s: Callable[[], float], *, after: int = AFTER) -> None:
        self._now_s, self._after = now_s, after
        self._states: dict[str, _State] = {}

    def enter(self, keys: Iterable[str]) -> bool:
        """Whether a call may go now. A half-open one is then taken: tell `succeeded`, `failed` or `left`."""
        states = [state for key in keys if (state := self._states.get(key)) is not None and state.until_s]
        if any(state.probing or state.until_s > self._now_s() for state in states):
            return False
        for state in states:
            state.probing = True
        return True

    def wait_s(self, keys: Iterable[str]) -> float:
        """How long until a call may go."""
        states = [self._states[key] for key in keys if key in self._states]
        return max([state.until_s - self._now_s() for state in states], default=0.0)

    def succeeded(self, key: str) -> None:
        """It works."""
        self._states.pop(key, None)

    def left(self, key: str, *, begun_s: float = inf) -> None:
        """The call said nothing of it."""
        if key in self._states and begun_s >= self._states[key].opened_s:
            self._states[key].probing = False

    def failed(  # who failed, and how
        self, key: str, cooldown_s: float, *, at_once: bool = False, least_s: float = 0.0, begun_s: float = inf
    ) -> None:
        """It failed; a probe that fails cools down for twice as long as before, a call that was under way does not."""
        if len(self._states) >= MAX_KEYS and key not in self._states:
            self._states.pop(next(iter(self._states)))
        state = self._states.setdefault(key, _State())
        under_way = begun_s < state.opened_s
        if under_way or state.until_s > self._now_s():
            state.until_s = max(state.until_s, self._now_s() + least_s)
            state.probing = state.probing and under_way
            return
        state.failures += 1
        if state.probing or at_once or state.failures >= self._after:
            length_s = max(cooldown_s * min(2**state.opened, MAX_TIMES), least_s)
            state.opened, state.opened_s = state.opened + 1, self._now_s()
            state.until_s = state.opened_s + length_s
        state.probing = False

    def cooling(self) -> dict[str, float]:
        """What cools down now, and for how many seconds yet; for people."""
        now_s = self._now_s()
        left = {key: round(state.until_s - now_s, 3) for key, state in self._states.items() if state.until_s > now_s}
        return dict(sorted(left.items()))
