"""Several listeners to decisions, told as one."""

from __future__ import annotations

from gateway.ports import Decided, DecisionTap


class Taps:
    """A `DecisionTap` that tells each of these, in order. They neither wait nor raise, so nor does it."""

    def __init__(self, *taps: DecisionTap) -> None:
        self._taps = taps

    def decided(self, decided: Decided) -> None:
        """As the port says."""
        for tap in self._taps:
            tap.decided(decided)


_: type[DecisionTap] = Taps
