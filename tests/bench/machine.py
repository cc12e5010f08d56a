"""Where something was measured, and how busy that was: without it no figure means anything."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine, with its load averages before and after."""

    cores: int
    kernel: str
    python: str
    load_before: tuple[float, ...]
    load_after: tuple[float, ...]

    @classmethod
    def now(cls) -> Self:
        """As it is at the beginning."""
        load = os.getloadavg()
        return cls(os.cpu_count() or 1, platform.release(), platform.python_version(), load, load)

    def until_now(self) -> Self:
        """The same at the end."""
        return replace(self, load_after=os.getloadavg())

    def __str__(self) -> str:
        before, after = (" ".join(f"{value:.2f}" for value in each) for each in (self.load_before, self.load_after))
        return f"{self.cores} cores, Linux {self.kernel}, Python {self.python}; load average {before} -> {after}"
