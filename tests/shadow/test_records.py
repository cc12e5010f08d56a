"""Counts are bounded, and what a gateway writes down is what the command line reads."""

from __future__ import annotations

from pathlib import Path

from gateway import codec
from gateway.shadow import Comparison, Monitoring, Report, Tally, read_report, write_report


def test_rows_beyond_the_limit_keep_their_kind() -> None:
    tally = Tally(("kind", "resource"), kept=1, max_rows=2)

    for number in range(5):
        tally.add(("allow->deny", f"tool-{number}"), f"d{number}")

    assert tally.totals("kind") == {"allow->deny": 5}
    assert {row: count.times for row, count in tally} == {
        ("allow->deny", "tool-0"): 1,
        ("allow->deny", "tool-1"): 1,
        ("allow->deny", "(other)"): 3,
    }


def test_rows_are_bounded_even_if_every_kind_is_new() -> None:
    tally = Tally(("code", "resource"), kept=1, max_rows=2)

    for number in range(50):
        tally.add((f"code-{number}", "tool"), "d1")

    assert len(tally) == 5
    assert sum(count.times for _, count in tally) == 50


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    comparison = Comparison("sha256:a", "sha256:b", compared=7, unasked=1)
    comparison.divergences.add(("deny->allow", "mcp.tools.call", "shop/buy", "acme"), "d1")
    monitoring = Monitoring("sha256:a", 7)
    finding = ("rules.a", "deny", "loud", "allow", "mcp.tools.call", "shop/buy", "acme")
    monitoring.findings.add(finding, "d2", "too loud")
    report = Report("/policies/next", "", "", 3, 1_700_000_000, comparison, monitoring)

    write_report(tmp_path, codec.dumps(report.plain()))
    found = read_report(tmp_path)

    assert found is not None
    assert found.plain() == report.plain()
    assert found.comparison.newly_allowed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["shadow.json"]
    assert (tmp_path / "shadow.json").stat().st_mode & 0o777 == 0o600


def test_a_file_of_another_kind_is_no_report(tmp_path: Path) -> None:
    assert read_report(tmp_path) is None

    for text in (b"", b"[]", b'{"schema": "other/1"}'):
        write_report(tmp_path, text)
        assert read_report(tmp_path) is None

    write_report(tmp_path, b'{"schema": "interlock.shadow/1", "candidate": {"divergences": [1, {"kind": 2}]}}')
    found = read_report(tmp_path)
    assert found is not None
    assert len(found.comparison.divergences) == 0
