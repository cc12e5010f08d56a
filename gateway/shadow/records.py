"""What was found, as a file below the state directory: the gateway writes it, the command line reads it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from gateway import codec
from gateway.shadow.comparing import newly_allowed
from gateway.shadow.tally import Tally

SCHEMA: Final = "interlock.shadow/1"
FILE: Final = "shadow.json"
DIVERGENCE: Final = ("kind", "action", "resource", "tenant")
FINDING: Final = ("rule", "would", "code", "decided", "action", "resource", "tenant")


@dataclass(slots=True)
class Comparison:
    """A candidate beside the policy that decides. Other revisions of either are another comparison."""

    active: str = ""
    candidate: str = ""
    compared: int = 0
    """Questions that both were asked."""
    unasked: int = 0
    """Questions that the candidate was not asked: it was too slow or just being started."""
    divergences: Tally = field(default_factory=lambda: Tally(DIVERGENCE, kept=1))

    @property
    def newly_allowed(self) -> int:
        """Calls that the candidate lets through and the active policy did not."""
        return sum(times for kind, times in self.divergences.totals("kind").items() if newly_allowed(kind))

    def plain(self) -> dict[str, object]:
        """As JSON."""
        counts = {"compared": self.compared, "unasked": self.unasked, "newly_allowed": self.newly_allowed}
        return {"active": self.active, "revision": self.candidate, **counts, "divergences": self.divergences.plain()}


@dataclass(slots=True)
class Monitoring:
    """What the `monitor` rules of one revision of the active policy found."""

    revision: str = ""
    asked: int = 0
    unasked: int = 0
    findings: Tally = field(default_factory=lambda: Tally(FINDING, kept=3))

    def plain(self) -> dict[str, object]:
        """As JSON."""
        counts = {"asked": self.asked, "unasked": self.unasked}
        return {"revision": self.revision, **counts, "findings": self.findings.plain()}


@dataclass(slots=True)
class Report:
    """All there is to show. `path` is where the candidate is; empty for none."""

    path: str = ""
    fault: str = ""
    """Why the candidate is not asked; empty when it is."""
    monitor_fault: str = ""
    dropped: int = 0
    """Decisions that were not looked at because too many came at once."""
    written_s: int = 0
    """When this was written, seconds since the epoch."""
    comparison: Comparison = field(default_factory=Comparison)
    monitoring: Monitoring = field(default_factory=Monitoring)

    def plain(self) -> dict[str, object]:
        """As JSON."""
        return {
            "schema": SCHEMA,
            "written_s": self.written_s,
            "dropped": self.dropped,
            "candidate": {"path": self.path, "fault": self.fault, **self.comparison.plain()},
            "monitor": {"fault": self.monitor_fault, **self.monitoring.plain()},
        }


def read_report(state: Path) -> Report | None:
    """What a gateway with this state directory found; `None` where none wrote down anything that can be read."""
    try:
        value = codec.loads((state / FILE).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        return None
    candidate, monitor = _object(value, "candidate"), _object(value, "monitor")
    comparison = Comparison(_text(candidate, "active"), _text(candidate, "revision"))
    comparison.compared, comparison.unasked = _number(candidate, "compared"), _number(candidate, "unasked")
    comparison.divergences.restore(_rows(candidate, "divergences"))
    monitoring = Monitoring(_text(monitor, "revision"), _number(monitor, "asked"), _number(monitor, "unasked"))
    monitoring.findings.restore(_rows(monitor, "findings"))
    return Report(
        _text(candidate, "path"),
        _text(candidate, "fault"),
        _text(monitor, "fault"),
        _number(value, "dropped"),
        _number(value, "written_s"),
        comparison,
        monitoring,
    )


def write_report(state: Path, content: bytes) -> None:
    """Put `content` in the place of what was there, in one step; only its owner can read it."""
    descriptor, name = tempfile.mkstemp(dir=state, prefix=f".{FILE}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(name, state / FILE)
    finally:
        Path(name).unlink(missing_ok=True)


def _object(value: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = value.get(key)
    return cast("Mapping[str, object]", found) if isinstance(found, dict) else {}


def _rows(value: Mapping[str, object], key: str) -> Sequence[Mapping[str, object]]:
    found = value.get(key)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _text(value: Mapping[str, object], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""


def _number(value: Mapping[str, object], key: str) -> int:
    found = value.get(key)
    return found if type(found) is int else 0
