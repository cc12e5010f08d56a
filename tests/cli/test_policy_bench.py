"""`interlock policy bench` measures a decision where it may be evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.main import CANNOT, OK
from tests.cli.policies import RULES, write_policy, write_question


def test_both_places_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules, asked = write_policy(tmp_path / "shop"), write_question(tmp_path / "question.json")
    few = ["--count", "20", "--warm-up", "2"]

    code = main(["policy", "bench", "--json", *few, "--input", str(asked), "--path", str(rules)])

    report = json.loads(capsys.readouterr().out)
    assert code == OK
    assert report["used"] == "inline"
    assert report["modes"].keys() == {"inline", "process"}
    for timing in report["modes"].values():
        assert (timing["n"], timing["warm_up"]) == (20, 2)
        assert 0 < timing["p50_ms"] <= timing["p99_ms"] <= timing["max_ms"]
        assert timing["per_s"] > 0


def test_people_see_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules, asked = write_policy(tmp_path / "shop"), write_question(tmp_path / "question.json")

    main(["policy", "bench", "--count", "5", "--warm-up", "1", "--input", str(asked), "--path", str(rules)])

    head, inline, process, used = capsys.readouterr().out.splitlines()
    assert "p99 ms" in head
    assert inline.startswith("inline")
    assert process.startswith("process")
    assert used.endswith("in mode inline")


@pytest.mark.parametrize("count", ["0", "-3", "many", "10000001"])
def test_a_count_is_a_whole_number(count: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["policy", "bench", "--count", count, "--input", "-"])

    assert stopped.value.code == CANNOT
    assert "whole number" in capsys.readouterr().err


def test_a_question_that_the_policy_fails_at_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = write_policy(tmp_path / "shop", RULES.replace("\tis_number(x)\n", "\tcount(x) > 1\n"), tests="")

    code = main(["policy", "bench", "--input", str(write_question(tmp_path / "q.json")), "--path", str(rules)])

    assert code == CANNOT
    assert "not answered" in capsys.readouterr().err
