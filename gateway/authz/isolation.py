"""The obligation `sandbox`: how strongly a call is to be kept apart, at least, and what it may use up, at most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.authz.reading import UnsupportedObligation, fields_of, whole_number
from gateway.boxes import Level
from gateway.types import Obligation

FIELDS: Final = frozenset({"level", "limits"})
LIMITS: Final[Mapping[str, int]] = {"cpus": 1_024, "memory_mb": 1 << 24, "processes": 1 << 20, "wall_s": 86_400}
"""The limits, and the most that each may be. All are whole numbers but `cpus`."""
LEAST_CPUS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Sandbox(Obligation):
    """A box of at least this level that may use up no more than `limits` (`memory_mb`, `cpus`, ...) says."""

    level: Level = Level.VM
    limits: Mapping[str, int | float] = field(default_factory=dict)

    def allows(self, level: Level) -> bool:
        """Whether a box of that level is strong enough."""
        return level.holds(self.level)


def read_sandbox(properties: object) -> Sandbox:
    """Read one obligation. Raises `UnsupportedObligation`."""
    fields = fields_of(properties, FIELDS, "sandbox")
    if not fields:
        raise UnsupportedObligation("sandbox: give a level or limits")
    # Only a box can be held to limits, so that whoever asks for these alone asks for the weakest one.
    level = _level(fields["level"]) if "level" in fields else Level.PROCESS
    return _sandbox(level, _limits(fields["limits"]) if "limits" in fields else {})


def _level(value: object) -> Level:
    levels = [level for level in Level if level is not Level.NONE]
    for level in levels:
        if value == level.value:
            return level
    raise UnsupportedObligation(f"sandbox: level must be one of {', '.join(levels)}")


def _limits(value: object) -> Mapping[str, int | float]:
    fields = fields_of(value, frozenset(LIMITS), "sandbox: limits")
    return {name: _limit(name, limit) for name, limit in fields.items()}


def _limit(name: str, value: object) -> int | float:
    if name == "cpus" and type(value) is float and LEAST_CPUS <= value <= LIMITS[name]:
        return value
    return whole_number(value, LIMITS[name], f"sandbox: {name}")


def _sandbox(level: Level, limits: Mapping[str, int | float]) -> Sandbox:
    return Sandbox("sandbox", {"level": level.value, "limits": limits}, level, limits)


def merge_sandboxes(items: Iterable[Sandbox]) -> Sandbox:
    """One for several: the highest level and the least of each limit."""
    every = list(items)
    level = max([item.level for item in every], key=lambda level: level.rank)
    limits = {name: min(given) for name in LIMITS if (given := [i.limits[name] for i in every if name in i.limits])}
    return _sandbox(level, limits)
