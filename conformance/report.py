"""The findings as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.suite import Run
from conformance.verdict import Expected, Verdict


def as_text(runs: Sequence[Run], expected: Sequence[Expected], verdict: Verdict) -> str:
    """One block per requirement set with a column per target, then what failed, then `N passed, N failed`."""
    blocks = [_table([run for run in runs if run.requirements == name], expected) for name in _sets(runs)]
    failed = [f"FAILED  {line}" for line in verdict.failed]
    faults = [f"FAULT   expected-failures.yml: {line}" for line in verdict.faults]
    total = f"{verdict.passed} passed, {len(verdict.failed) + len(verdict.faults)} failed"
    apart = [f"{len(verdict.expected)} expected failures set apart"] if verdict.expected else []
    return "\n".join([*blocks, *failed, *faults, *apart, total])


def _sets(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.requirements for run in runs))


def _table(runs: Sequence[Run], expected: Sequence[Expected]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.scenarios))
    width = max((len(name) for name in names), default=0)
    heads = [run.target for run in runs]
    lines = [f"{runs[0].requirements:<{width + 2}}" + "  ".join(f"{head:>16}" for head in heads)]
    for name in names:
        cells = [_cell(run, name, expected) for run in runs]
        note = next((f"  ({run.unscored[name]})" for run in runs if name in run.unscored), "")
        lines.append(f"  {name:<{width}}" + "  ".join(f"{cell:>16}" for cell in cells) + note)
    lines.append(f"  {'checks passed':<{width}}" + "  ".join(f"{run.passed:>16}" for run in runs))
    return "\n".join([*lines, ""])


def _cell(run: Run, name: str, expected: Sequence[Expected]) -> str:
    found = run.scenarios.get(name)
    if found is None:
        return "-"
    warned = f" {len(found.warnings)} warned" if found.warnings else ""
    if found.ok:
        return f"{found.passed} ok{warned}" if found.passed else f"nothing checked{warned}"
    known = "expected" if any(entry.covers(run, name) for entry in expected) else "FAILED"
    return f"{len(found.failures)} {known}"


def as_json(runs: Sequence[Run], verdict: Verdict) -> dict[str, object]:
    """The same as plain values."""
    return {
        "passed": verdict.passed,
        "failed": list(verdict.failed),
        "expected_failures": list(verdict.expected),
        "faults": list(verdict.faults),
        "runs": [
            {
                "target": run.target,
                "requirements": run.requirements,
                "passed": run.passed,
                "failures": sum(len(scenario.failures) for scenario in run.scenarios.values()),
                "scenarios": {
                    name: {
                        "passed": scenario.passed,
                        "failures": [[finding.check, finding.message] for finding in scenario.failures],
                        "warnings": [[finding.check, finding.message] for finding in scenario.warnings],
                        "scored": name not in run.unscored,
                    }
                    for name, scenario in run.scenarios.items()
                },
            }
            for run in runs
        ],
    }
