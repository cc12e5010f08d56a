"""The benchmark of boxes measures what it says, and says what it could not measure."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from tests.bench.__main__ import options_of
from tests.bench.figures import Row, Spread, Unmeasured, table
from tests.bench.sandboxes import Effort, measure
from tests.sandboxes.code_world import skip_without_bubblewrap

FEW = Effort(starts=2, clones=0, lines=5, hand_outs=2, boxes=2)


async def test_every_figure_of_a_driver_is_there_with_its_rounds(tmp_path: Path) -> None:
    await skip_without_bubblewrap()

    with anyio.fail_after(60):
        report = await measure(tmp_path, ["bubblewrap"], {"bubblewrap": FEW})
    told = json.loads(report.as_json())

    assert not told["unmeasured"]
    assert [(row["driver"], row["own"]["rounds"]) for row in told["rows"]] == [
        *[("bubblewrap", 2)] * 4,
        ("bubblewrap", 5),
        *[("bubblewrap", 2)] * 2,
    ]
    assert {row["aim"]: row["held"] for row in told["rows"] if row["aim"]} == {15: "added", 5: "median", 1.5: "ratio"}
    assert all(row["own"]["median"] > 0 for row in told["rows"])
    assert told["machine"]["cores"] >= 1
    assert report.as_text().count("bubblewrap") == len(told["rows"]) + 1


async def test_driver_that_does_not_work_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with anyio.fail_after(20):
        report = await measure(tmp_path, ["bubblewrap"])

    assert not report.rows
    assert "does not work here: there is no 'bwrap' here; install bubblewrap" in report.as_text()


async def test_what_fails_while_it_is_measured_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await skip_without_bubblewrap()
    monkeypatch.setattr("tests.bench.box_starts.COMMAND", ("/bin/false",))
    effort = Effort(starts=1, clones=0, lines=2, hand_outs=0, boxes=0)

    with anyio.fail_after(30):
        report = await measure(tmp_path, ["bubblewrap"], {"bubblewrap": effort})

    assert [fault.what for fault in report.faults] == ["starts"]
    assert [row.what for row in report.rows] == ["a line of JSON, there and back"]
    assert "starts: not measured: SandboxFailure" in report.as_text()


def test_spread_leaves_no_round_out() -> None:
    assert Spread.of([3, 1, 2]) == Spread(rounds=3, p10=1, median=2, p90=3)
    assert Spread.of([7]) == Spread(rounds=1, p10=7, median=7, p90=7)


def test_aim_is_for_the_figure_that_it_names() -> None:
    own, plain = Spread(3, 40, 50, 60), Spread(3, 20, 40, 50)

    assert Row("d", "w", "ms", own, plain, "added", 10).met is True
    assert Row("d", "w", "ms", own, plain, "added", 9).met is False
    assert Row("d", "w", "us", own, plain, "ratio", 1.2).met is False
    assert Row("d", "w", "ms", own, aim=50).met is True
    assert Row("d", "w", "MiB", own).met is None


def test_table_says_what_was_met_and_what_is_missing() -> None:
    met = Row("a", "start", "ms", Spread(1, 1, 1, 1), aim=2)
    missed = Row("b", "start", "ms", Spread(1, 3, 3, 3), aim=2)

    text = table([met, missed], [Unmeasured("c", "start", "no room")])

    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["met", "MET", "room"]
    assert text.count("NOT MET") == 1


@pytest.mark.parametrize(
    "arguments", [["--sandboxes", "--gate"], ["--driver", "gvisor"], ["--sandboxes", "--driver", "x"]]
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        options_of(arguments)
