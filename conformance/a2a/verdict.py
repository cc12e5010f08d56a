"""What counts as a failure: every failed row but the expected ones, and whatever the gateway takes from the agent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

from conformance.a2a.kit import Run, Version

EXPECTED_FILE: Final = Path(__file__).resolve().parent / "expected-failures.yml"
DIRECT: Final = "direct"


class Expected(BaseModel):
    """A row that is known to fail, and why. `target` is the run it concerns; empty means every one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kit: Version
    row: str
    reason: str
    target: str = ""

    def covers(self, run: Run, row: str) -> bool:
        """Whether this entry speaks of that row in that run."""
        return self.kit == run.version and self.row == row and self.target in {"", run.target}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome over all runs."""

    failed: tuple[str, ...]
    """Rows that failed unexpectedly."""
    lost: tuple[str, ...]
    """Rows that pass directly and not through the gateway."""
    gained: tuple[str, ...]
    """Rows that pass through the gateway only."""
    expected: tuple[str, ...]
    faults: tuple[str, ...]
    """What is wrong with the list of expected failures itself."""

    @property
    def ok(self) -> bool:
        return not self.failed and not self.lost and not self.faults


def read_expected(path: Path = EXPECTED_FILE) -> tuple[Expected, ...]:
    """The entries of the file. Raises pydantic's `ValidationError` with the place of a fault."""
    return TypeAdapter(tuple[Expected, ...]).validate_python(yaml.safe_load(path.read_text()) or [])


def judge(runs: Sequence[Run], expected: Sequence[Expected]) -> Verdict:
    """Set expected failures apart, hold the gateway against the agent behind it, and the list against the truth."""
    failed: list[str] = []
    covered: list[str] = []
    for run in runs:
        for row, outcome in run.rows.items():
            if outcome == "failed":
                known = any(entry.covers(run, row) for entry in expected)
                (covered if known else failed).append(f"{run.target} {run.version} {row}: {run.said.get(row, '')}")
    lost, gained = _compared(runs)
    return Verdict(tuple(failed), lost, gained, tuple(covered), tuple(_faults(runs, expected)))


def _compared(runs: Sequence[Run]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What passes on one side only. A row that is missing or skipped does not pass."""
    lost: list[str] = []
    gained: list[str] = []
    direct = next((run for run in runs if run.target == DIRECT), None)
    for run in runs:
        if direct is None or run is direct:
            continue
        for row in dict.fromkeys((*direct.rows, *run.rows)):
            ours, theirs = run.rows.get(row) == "passed", direct.rows.get(row) == "passed"
            if ours != theirs:
                (gained if ours else lost).append(f"{run.target} {run.version} {row}")
    return tuple(lost), tuple(gained)


def _faults(runs: Sequence[Run], expected: Iterable[Expected]) -> Iterable[str]:
    for entry in expected:
        if not entry.reason.strip():
            yield f"{entry.kit} {entry.row}: has no reason"
        concerned = [run for run in runs if entry.covers(run, entry.row) and entry.row in run.rows]
        if concerned and all(run.rows[entry.row] == "passed" for run in concerned):
            yield f"{entry.kit} {entry.row}: passes now; remove it"
