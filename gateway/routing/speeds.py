"""How soon models answer, as far as they did so here: what `auto:fast` goes by."""

from __future__ import annotations

from typing import Final

NEW: Final = 0.2
"""How much the newest answer counts."""
MAX_MODELS: Final = 10_000


class Speeds:
    """The seconds until a model's first word (or its whole answer), smoothed."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def heard(self, model: str, seconds: float) -> None:
        """It answered after so long."""
        if model in self._seconds:
            self._seconds[model] += NEW * (seconds - self._seconds[model])
        elif len(self._seconds) < MAX_MODELS:
            self._seconds[model] = seconds

    def faster(self, one: str, other: str) -> bool:
        """Whether it is known that `one` is."""
        return one in self._seconds and other in self._seconds and self._seconds[one] < self._seconds[other]

    def words(self, *models: str) -> str:
        """For people."""
        return ", ".join(f"{self._seconds[name]:.2f} s" if name in self._seconds else "unknown" for name in models)
