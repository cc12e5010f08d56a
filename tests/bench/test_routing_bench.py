"""`--routing`: a table in, one line for each router and the cost of a decision out."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import main, options_of
from tests.routing.worlds import prompts


def _table(path: Path, rows: int) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("task", "prompt", "weak_correct", "strong_correct"))
        writer.writerows(("x", text, int(not hard), 1) for text, hard in prompts(rows))
    return path


def test_a_judged_table_is_scored_by_every_router(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _table(tmp_path / "sums.csv", 60)

    assert main(["--routing", str(table), "--json"]) == 0

    report = json.loads(capsys.readouterr().out)
    apgr = {line["router"]: line["scores"]["apgr"] for line in report["lines"]}
    assert list(apgr) == ["random", "prompt length", "heuristic", "knn", "logistic", "blend"]
    assert apgr["blend"] > max(0.7, apgr["random"])
    drawn = [each["apgr"] for each in report["lines"][-1]["each"]]
    assert len(drawn) == 5
    assert min(drawn) <= apgr["blend"] <= max(drawn)
    assert report["cpu_ms"]["sums"]["median"] > 0


def test_the_report_for_people_names_table_and_aims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--routing", str(_table(tmp_path / "sums.csv", 20))]) == 0

    words = capsys.readouterr().out
    assert "sums" in words
    assert "CPU of a decision" in words


def test_a_table_of_others_is_scored_and_said_to_be_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "sums.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("big/model", "prompt", "note", "small/model"))
        writer.writerows((9, text, "n/a", 2 if hard else 9) for text, hard in prompts(40) * 2)
        writer.writerow((9, "nobody judged the small one", "", ""))

    assert main(["--routing", str(tmp_path / "sums.csv")]) == 0

    words = capsys.readouterr().out
    assert "80 rows, weak: small/model, strong: big/model; 1 rows without a prompt or a judgement left out" in words
    assert "mostly luck" in words


def test_what_is_no_table_is_said_to_be_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    (tmp_path / "one.csv").write_text("prompt,weak_correct,strong_correct\none,0,1\none,0,1\n")
    (tmp_path / "worse.csv").write_text("prompt,weak_correct,strong_correct\none,1,0\ntwo,1,0\nthree,1,1\n")

    for name, words in (
        ("x.csv", "x.csv: has no column prompt"),
        ("none.csv", "No such file or directory"),
        ("", "is a directory; name the tables in it"),
        ("one.csv", "one.csv: all outcomes are of one prompt"),
        ("worse.csv", "worse.csv: the strong model is not better on these rows"),
    ):
        assert main(["--routing", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err


ALONE = [["--routing", "x.csv"], ["--memory"], ["--recall", "x.json"], ["--a2a"], ["--policy"], ["--sandboxes"]]
BESIDE = [["--gate"], ["--long"], ["--no-probes"], ["--no-gateway"]]


@pytest.mark.parametrize("one", ALONE, ids=lambda each: each[0])
def test_a_measurement_of_its_own_is_not_made_beside_another(
    one: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert options_of(one)
    for other in [each for each in [*ALONE, *BESIDE] if each != one]:
        with pytest.raises(SystemExit):
            options_of([*one, *other])
        assert "is a measurement of its own: leave out --" in capsys.readouterr().err


def test_the_benchmark_of_calls_needs_no_numpy() -> None:
    words = "import sys, tests.bench.__main__; print(sorted({'numpy', 'onnxruntime', 'chromadb'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"
