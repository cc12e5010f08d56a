"""What the official A2A kit finds is read so that silence is never success, and judged against the agent itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from conformance.a2a.kit import PLUGINS, Kit, KitMissing, Outcome, Run, find_kit, read_requirements, read_tests
from conformance.a2a.run import address_at, as_text, main, plan_for
from conformance.a2a.verdict import Expected, judge, read_expected
from conformance.gateway import write_config
from conformance.run import main as measure

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.TestA" name="test_ok[grpc]"/>
<testcase classname="tests.TestA" name="test_bad[grpc]"><failure message="wrong&#10;more">...</failure></testcase>
<testcase classname="tests.TestA" name="test_bad[grpc]"/>
<testcase classname="tests.TestA" name="test_broken"><error message="no fixture"/></testcase>
<testcase classname="tests.TestA" name="test_not"><skipped message="not declared"/></testcase>
</testsuite></testsuites>"""


def run_of(target: str, **rows: Outcome) -> Run:
    return Run(target, "1.0", rows, {name: "because" for name, outcome in rows.items() if outcome == "failed"})


def test_tests_are_read_and_a_fault_outweighs_what_comes_after(tmp_path: Path) -> None:
    report = tmp_path / "0.xml"
    report.write_text(JUNIT)
    rows: dict[str, Outcome] = {}
    said: dict[str, str] = {}

    read_tests(report, rows, said)

    assert rows == {
        "TestA::test_ok[grpc]": "passed",
        "TestA::test_bad[grpc]": "failed",
        "TestA::test_broken": "failed",
        "TestA::test_not": "skipped",
    }
    assert said["TestA::test_bad[grpc]"] == "wrong"


def test_requirement_fails_on_its_own_only_where_no_test_of_it_did(tmp_path: Path) -> None:
    report = tmp_path / "compatibility.json"
    requirements = {
        "A-1": {"status": "FAIL", "errors": ["x"], "test_ids": ["tests/a.py::TestA::test_bad"]},
        "A-2": {"status": "FAIL", "errors": ["y"], "test_ids": ["tests/a.py::TestA::test_not"]},
        "A-3": {"status": "PASS", "errors": [], "test_ids": []},
        "A-4": {"status": "NOT TESTED", "errors": [], "test_ids": []},
    }
    report.write_text(json.dumps({"per_requirement": requirements}))
    rows: dict[str, Outcome] = {"TestA::test_bad": "failed", "TestA::test_not": "skipped"}
    said: dict[str, str] = {}

    read_requirements(report, rows, said)

    assert {name: rows.get(name) for name in requirements} == {
        "A-1": None,
        "A-2": "failed",
        "A-3": "passed",
        "A-4": None,
    }


def test_run_without_results_is_not_a_success(tmp_path: Path) -> None:
    kit = Kit(tmp_path, "1.0", "/bin/true")

    with pytest.raises(KitMissing, match="left no results"):
        kit.run("http://localhost:1", "direct", tmp_path / "out")


def test_without_a_checkout_it_is_said_what_to_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("INTERLOCK_A2A_TCK", raising=False)

    assert main([]) == 2
    assert main(["--tck", str(tmp_path)]) == 2
    assert measure(["a2a"]) == 2
    assert "a2aproject/a2a-tck" in capsys.readouterr().err


def test_checkout_tells_its_version_and_brings_its_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTERLOCK_A2A_TCK_PYTHON", raising=False)
    for name, part in (("old", "tests/mandatory"), ("new", "tests/compatibility")):
        (tmp_path / name / part).mkdir(parents=True)
        (tmp_path / name / "run_tck.py").touch()
    own = tmp_path / "new" / ".venv" / "bin"
    own.mkdir(parents=True)
    (own / "python").touch()

    old, new = find_kit(str(tmp_path / "old")), find_kit(str(tmp_path / "new"))

    assert (old.version, new.version) == ("0.3", "1.0")
    assert new.python == str(own / "python")


def test_what_the_gateway_takes_from_the_agent_is_a_failure_even_if_it_was_expected() -> None:
    expected = [Expected(kit="1.0", row="a", reason="r", target="gateway")]
    runs = [
        run_of("direct", a="passed", b="passed", c="failed"),
        run_of("gateway", a="failed", b="skipped", c="passed"),
    ]

    verdict = judge(runs, expected)

    assert not verdict.ok
    assert verdict.lost == ("gateway 1.0 a", "gateway 1.0 b")
    assert verdict.gained == ("gateway 1.0 c",)
    assert verdict.failed == ("direct 1.0 c: because",)


def test_expected_failures_are_set_apart_and_must_go_when_they_pass() -> None:
    entries = [Expected(kit="1.0", row="a", reason="r"), Expected(kit="1.0", row="b", reason=" ")]

    verdict = judge([run_of("direct", a="failed", b="passed"), run_of("gateway", a="failed", b="passed")], entries)

    assert (verdict.failed, verdict.lost) == ((), ())
    assert len(verdict.expected) == 2
    assert verdict.faults == ("1.0 b: has no reason", "1.0 b: passes now; remove it")


def test_last_line_counts() -> None:
    runs = [run_of("direct", a="passed", b="failed")]

    assert as_text(runs, judge(runs, [])).splitlines()[-1] == "1 passed, 1 failed"


def test_the_list_of_expected_failures_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text('- kit: "1.0"\n  rows: a\n  reason: x\n')

    assert all(entry.reason for entry in read_expected())
    with pytest.raises(ValidationError):
        read_expected(tmp_path / "bad.yml")


def test_gateways_configuration_names_the_agent_and_both_ports(tmp_path: Path) -> None:
    text = write_config(plan_for("http://localhost:5", 7), tmp_path, 6).read_text()

    assert 'card_url = "http://localhost:5/.well-known/agent-card.json"' in text
    assert "grpc_port = 7" in text
    assert "port = 6" in text


def test_kit_of_0_3_gets_an_agent_with_a_host_of_its_own() -> None:
    assert address_at("http://localhost:5", "1.0") == "http://localhost:5/agents/sut"
    assert address_at("http://localhost:5", "0.3") == "http://sut.localhost:5"


def test_names_below_localhost_lead_to_this_machine_whatever_the_resolver_knows(tmp_path: Path) -> None:
    probe = tmp_path / "test_probe.py"
    probe.write_text(
        "import socket\n\n"
        "def test_probe():\n"
        "    for name in ('sut.localhost', b'SUT.LOCALHOST', 'localhost'):\n"
        "        assert socket.getaddrinfo(name, 1, socket.AF_INET)[0][4] == ('127.0.0.1', 1)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "loopback_names", "-p", "no:cacheprovider", str(probe)]

    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PLUGINS)}, cwd=tmp_path, check=False)

    assert done.returncode == 0
