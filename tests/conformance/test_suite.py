"""Results of the official suite are read so that silence is never success; the pins name no host."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from conformance.node import PINS, Node
from conformance.run import main, options_of
from conformance.suite import Suite


def _package(folder: Path) -> Path:
    (folder / "requirements").mkdir()
    (folder / "requirements" / "2026-07-28.yaml").write_text(
        "server: [caching, tools-list]\nclient: []\n"
        "not_scored:\n  - {scenario: tasks-lifecycle, leg: server, reason: extension}\n"
        "  - {scenario: auth/dpop, leg: client, reason: extension}\n"
    )
    return folder


def _result(out: Path, scenario: str, *statuses: str) -> None:
    place = out / f"server-{scenario}-2026-11-22T08-40-57-293Z"
    place.mkdir(parents=True)
    checks = [{"id": f"{scenario}-{number}", "status": status} for number, status in enumerate(statuses)]
    (place / "checks.json").write_text(json.dumps(checks))


def _silent_suite(folder: Path) -> Suite:
    """A suite whose program is not there, so that only what lies in the output folder counts."""
    return Suite(Node(Path(sys.executable), ()), _package(folder))


def test_findings_are_read_by_scenario(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _result(out, "caching", "SUCCESS", "FAILURE", "INFO", "WARNING")
    _result(out, "tools-list", "SUCCESS")
    _result(out, "tasks-lifecycle", "SKIPPED")

    run = _silent_suite(tmp_path).run("http://localhost:1/mcp", "gateway", "2026-07-28", out)

    assert run.passed == 2
    assert [finding.check for finding in run.scenarios["caching"].failures] == ["caching-1"]
    assert run.scenarios["tools-list"].ok
    assert run.unscored == {"tasks-lifecycle": "extension"}


def test_scenario_that_left_no_result_is_a_failure(tmp_path: Path) -> None:
    run = _silent_suite(tmp_path).run("http://localhost:1/mcp", "gateway", "2026-07-28", tmp_path / "out")

    assert not run.scenarios["caching"].ok
    assert not run.scenarios["tools-list"].ok


def test_only_the_named_scenarios_are_read(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _result(out, "tools-list", "SUCCESS")

    run = _silent_suite(tmp_path).run("http://localhost:1/mcp", "gateway", "2026-07-28", out, ["tools-list"])

    assert list(run.scenarios) == ["tools-list"]


def test_lock_pins_every_package_by_hash_and_names_no_host() -> None:
    lock = json.loads((PINS / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}

    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert "://" not in (PINS / "package-lock.json").read_text()
    assert "--hash=sha256:" in (PINS / "requirements.txt").read_text()


@pytest.mark.slow
def test_everything_server_passes_both_sets_directly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--direct", "--out", str(tmp_path)])

    assert status == 0
    assert " passed, 0 failed" in capsys.readouterr().out


def test_era_may_be_named_or_dated() -> None:
    assert options_of(["--era", "modern"]).era == "modern"
    assert options_of(["--era", "2025-11-25"]).era == "2025-11-25"
