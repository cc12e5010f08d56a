"""The measurement of decisions measures what it says: every engine, every figure, and a log that is replayed whole."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from tests.bench.__main__ import options_of
from tests.bench.policies import Effort, measure

pytestmark = pytest.mark.slow

SMALL = Effort(rounds=1, decisions=5, lists=2, warm_up=1, replayed=20)


async def test_each_engine_is_measured_with_each_policy_beside_the_inline_one(tmp_path: Path) -> None:
    with anyio.fail_after(120):
        report = await measure(tmp_path, SMALL)

    missing = {fault.driver for fault in report.faults}
    expected = {"inline", "process", "opa"} - missing
    measured = {(row.driver, row.what.split(",")[0]) for row in report.rows if row.driver != "processes"}
    assert missing <= {"opa"}
    assert measured == {(engine, what) for engine in expected for what in ("decision", "list of 100 tools")}
    assert all(row.ratio is not None for row in report.rows if row.driver not in {"inline", "processes"})
    assert {row.aim for row in report.rows if "packs" in row.what} == {None}
    assert report.rows[-1].what.startswith("replay of 20 decisions")
    assert len(json.loads(report.as_json())["rows"]) == len(report.rows)
    assert "load average" in report.as_text()


def test_policy_is_a_measurement_of_its_own() -> None:
    with pytest.raises(SystemExit):
        options_of(["--policy", "--gate"])
