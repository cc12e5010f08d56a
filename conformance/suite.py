"""The official suite, run against one URL, its findings read back as values."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

import yaml

from conformance.node import Node

RequirementSet: TypeAlias = Literal["2025-11-25", "2026-07-28"]
SETS: Final[tuple[RequirementSet, ...]] = ("2025-11-25", "2026-07-28")
RUN_S: Final = 300

_RESULT_DIR = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check that did not succeed."""

    check: str
    message: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one scenario found. A scenario that never ran is one failure, so that silence is not success."""

    name: str
    passed: int
    failures: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    skipped: int = 0

    @property
    def ok(self) -> bool:
        return not self.failures


@dataclass(frozen=True, slots=True)
class Run:
    """One requirement set against one target."""

    target: str
    requirements: RequirementSet
    scenarios: Mapping[str, Scenario]
    unscored: Mapping[str, str] = field(default_factory=dict)
    """Scenarios that the suite runs without counting them, with its reason."""

    @property
    def passed(self) -> int:
        return sum(scenario.passed for scenario in self.scenarios.values())


@dataclass(frozen=True, slots=True)
class Suite:
    """The installed suite."""

    node: Node
    package: Path

    def members(self, requirements: RequirementSet) -> tuple[tuple[str, ...], dict[str, str]]:
        """The server scenarios of a set: the scored ones, and the others with the reason why they are not."""
        data = yaml.safe_load((self.package / "requirements" / f"{requirements}.yaml").read_text())
        others = {entry["scenario"]: entry["reason"] for entry in data["not_scored"] if entry["leg"] == "server"}
        return tuple(data["server"]), others

    def run(self, url: str, target: str, requirements: RequirementSet, out: Path, only: Sequence[str] = ()) -> Run:
        """Run the whole set, or the scenarios named by `only`, against `url`; the suite's own files land in `out`."""
        scored, others = self.members(requirements)
        wanted = [name for name in (*scored, *others) if not only or name in only]
        if only:
            for name in wanted:
                self._start(url, ["--scenario", name, "--spec-version", requirements, "--force"], out)
        else:
            self._start(url, ["--requirements", requirements], out)
        scenarios = {name: _read(name, out) for name in wanted}
        return Run(target, requirements, scenarios, {name: others[name] for name in wanted if name in others})

    def _start(self, url: str, selection: Sequence[str], out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        command = [str(self.node.program), str(self.package / "dist" / "index.js"), "server", "--url", url]
        with (out / "output.txt").open("ab") as output:
            subprocess.run(  # noqa: S603  # the command is ours; the status is judged from the findings
                [*command, *selection, "-o", str(out)],
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=RUN_S,
                check=False,
            )


def _read(name: str, out: Path) -> Scenario:
    checks = list(_checks(name, out))
    if not checks:
        return Scenario(name, 0, (Finding("did-not-run", f"the suite left no result; see {out / 'output.txt'}"),))
    return Scenario(
        name,
        passed=sum(check.get("status") == "SUCCESS" for check in checks),
        failures=tuple(_with_status("FAILURE", checks)),
        warnings=tuple(_with_status("WARNING", checks)),
        skipped=sum(check.get("status") == "SKIPPED" for check in checks),
    )


def _checks(name: str, out: Path) -> Iterable[Mapping[str, object]]:
    for path in sorted(out.glob("server-*/checks.json")):
        match = _RESULT_DIR.fullmatch(path.parent.name)
        if match and match["scenario"] == name:
            yield from json.loads(path.read_text())


def _with_status(status: str, checks: Iterable[Mapping[str, object]]) -> Iterable[Finding]:
    for check in checks:
        if check.get("status") == status:
            yield Finding(str(check.get("id")), str(check.get("errorMessage") or check.get("description") or ""))
