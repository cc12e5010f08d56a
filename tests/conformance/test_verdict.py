"""What the conformance run counts as failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from conformance.report import as_text
from conformance.suite import Finding, RequirementSet, Run, Scenario
from conformance.verdict import Expected, judge, read_expected

SET: RequirementSet = "2026-07-28"


def _run(target: str, *scenarios: Scenario) -> Run:
    return Run(target, SET, {scenario.name: scenario for scenario in scenarios})


def _passed(name: str) -> Scenario:
    return Scenario(name, 2)


def _failed(name: str) -> Scenario:
    return Scenario(name, 1, (Finding("check", "went wrong"),))


def _expected(name: str, target: str = "") -> Expected:
    return Expected(requirements=SET, scenario=name, reason="because", target=target)


def test_unexpected_failure_is_a_failure_and_is_printed() -> None:
    runs = [_run("direct", _passed("caching")), _run("gateway", _failed("caching"))]

    verdict = judge(runs, [])

    assert not verdict.ok
    assert as_text(runs, [], verdict).endswith("3 passed, 1 failed")
    assert "gateway 2026-07-28 caching: check: went wrong" in as_text(runs, [], verdict)


def test_expected_failure_is_set_apart() -> None:
    runs = [_run("direct", _failed("tasks")), _run("gateway", _failed("tasks"))]

    verdict = judge(runs, [_expected("tasks")])

    assert verdict.ok
    assert len(verdict.expected) == 2


def test_expectation_that_came_true_is_a_fault() -> None:
    runs = [_run("direct", _passed("tasks")), _run("gateway", _passed("tasks"))]

    verdict = judge(runs, [_expected("tasks")])

    assert not verdict.ok
    assert "passes now" in verdict.faults[0]


def test_what_the_server_passes_directly_may_not_be_expected_to_fail() -> None:
    runs = [_run("direct", _passed("caching")), _run("gateway", _failed("caching"))]

    verdict = judge(runs, [_expected("caching", "gateway")])

    assert not verdict.ok
    assert "passes it directly" in verdict.faults[0]


def test_between_two_eras_there_is_no_direct_run_to_compare_with() -> None:
    runs = [_run("direct", _passed("caching")), _run("bridge-to-legacy", _failed("caching"))]

    verdict = judge(runs, [_expected("caching", "bridge-to-legacy")])

    assert verdict.ok


def test_entry_without_a_reason_is_a_fault() -> None:
    entry = Expected(requirements=SET, scenario="tasks", reason=" ")

    verdict = judge([_run("direct", _failed("tasks"))], [entry])

    assert "has no reason" in verdict.faults[0]


def test_misspelt_entry_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "expected.yml"
    file.write_text('- requirements: "2026-07-28"\n  scenarios: tasks\n  reason: x\n')

    with pytest.raises(ValidationError):
        read_expected(file)


def test_the_list_of_expected_failures_can_be_read() -> None:
    assert all(entry.reason for entry in read_expected())
