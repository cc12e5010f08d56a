"""What counts as a failure: everything but the expected ones, and an expectation that is not true any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

from conformance.suite import RequirementSet, Run

EXPECTED_FILE: Final = Path(__file__).resolve().parent / "expected-failures.yml"
DIRECT: Final = "direct"
BRIDGE: Final = "bridge-"
"""Targets whose client and upstream are of different eras: directly, the two could not talk at all."""


class Expected(BaseModel):
    """A scenario that is known to fail, and why. `target` is the run it concerns; empty means every one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requirements: RequirementSet
    scenario: str
    reason: str
    target: str = ""

    def covers(self, run: Run, scenario: str) -> bool:
        """Whether this entry speaks of that scenario in that run."""
        same_run = self.requirements == run.requirements and self.target in {"", run.target}
        return same_run and self.scenario == scenario


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome over all runs."""

    passed: int
    failed: tuple[str, ...]
    expected: tuple[str, ...]
    faults: tuple[str, ...]
    """What is wrong with the list of expected failures itself."""

    @property
    def ok(self) -> bool:
        return not self.failed and not self.faults


def read_expected(path: Path = EXPECTED_FILE) -> tuple[Expected, ...]:
    """The entries of the expected-failures file. Raises pydantic's `ValidationError` with the place of a fault."""
    entries = yaml.safe_load(path.read_text()) or []
    return TypeAdapter(tuple[Expected, ...]).validate_python(entries)


def judge(runs: Sequence[Run], expected: Sequence[Expected]) -> Verdict:
    """Count checks; failures that an entry covers are set apart, entries that nothing bears out are faults."""
    failed: list[str] = []
    covered: list[str] = []
    for run in runs:
        for scenario in run.scenarios.values():
            known = any(entry.covers(run, scenario.name) for entry in expected)
            lines = [
                f"{run.target} {run.requirements} {scenario.name}: {f.check}: {f.message}" for f in scenario.failures
            ]
            (covered if known else failed).extend(lines)
    faults = tuple(_faults(runs, expected))
    return Verdict(sum(run.passed for run in runs), tuple(failed), tuple(covered), faults)


def _faults(runs: Sequence[Run], expected: Iterable[Expected]) -> Iterable[str]:
    direct = {
        (run.requirements, name): found.ok
        for run in runs
        if run.target == DIRECT
        for name, found in run.scenarios.items()
    }
    for entry in expected:
        if not entry.reason.strip():
            yield f"{entry.requirements} {entry.scenario}: has no reason"
        seen = [
            run.scenarios[entry.scenario]
            for run in runs
            if entry.scenario in run.scenarios and entry.covers(run, entry.scenario)
        ]
        if seen and all(found.ok for found in seen):
            yield f"{entry.requirements} {entry.scenario}: passes now; remove it"
        comparable = not entry.target.startswith(BRIDGE)
        if seen and comparable and direct.get((entry.requirements, entry.scenario)):
            yield f"{entry.requirements} {entry.scenario}: the server passes it directly, so the gateway must too"
