"""`interlock policy eval --explain` and `check` say where to look."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, OK
from tests.cli.policies import RULES, write_policy, write_question


def test_a_denial_is_explained_down_to_the_expression_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules, asked = write_policy(tmp_path / "shop"), write_question(tmp_path / "question.json")

    code = main(["policy", "eval", "--explain", "--input", str(asked), "--path", str(rules)])

    printed = capsys.readouterr().out
    assert code == NOT_AS_IT_SHOULD_BE
    assert "shop/shop.rego:5:1: data.rules.shop.allow did not fire" in printed
    assert "shop/shop.rego:7:2: small(input.resource.properties.arguments.amount)" in printed
    assert "input.resource.properties.arguments.amount: 12" in printed
    assert "in shop/shop.rego:12:2: x < 10" in printed


def test_a_permit_names_the_body_that_fired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules, asked = write_policy(tmp_path / "shop"), write_question(tmp_path / "question.json", amount=3)

    code = main(["policy", "eval", "--explain", "--input", str(asked), "--path", str(rules)])

    printed = capsys.readouterr().out
    assert code == OK
    assert "shop/shop.rego:5:1: data.rules.shop.allow fired" in printed
    assert "data.rules.shop.deny did not fire" in printed


def test_an_explanation_is_json_for_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules, asked = write_policy(tmp_path / "shop"), write_question(tmp_path / "question.json")

    main(["policy", "eval", "--explain", "--json", "--input", str(asked), "--path", str(rules)])

    allow, deny = json.loads(capsys.readouterr().out)["rules"]
    assert (allow["rule"], allow["fired"], allow["line"]) == ("data.rules.shop.allow", False, 5)
    assert allow["failed"]["inside"][0]["text"] == "x < 10"
    assert deny["failed"]["read"] == [{"path": "input.resource.id", "defined": True, "value": "shop/buy"}]


def test_a_reference_to_what_no_question_has_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = write_policy(tmp_path / "shop", RULES.replace("arguments.amount", "argments.amount"))

    code = main(["policy", "check", "--path", str(rules)])

    assert code == NOT_AS_IT_SHOULD_BE
    assert "shop/shop.rego:7:8: input.resource.properties.argments does not exist" in capsys.readouterr().out


def test_a_reference_to_what_is_not_described_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = write_policy(tmp_path / "shop", RULES + "\ndeny contains `x` if input.context.weather\n")

    code = main(["policy", "check", "--json", "--path", str(rules)])

    report = json.loads(capsys.readouterr().out)
    assert code == OK
    assert [(note["line"], note["col"]) for note in report["notes"]] == [(17, 22)]


def test_a_policy_that_does_not_parse_is_named_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = write_policy(tmp_path / "shop", "package rules.shop\n\nallow if ((\n")

    code = main(["policy", "check", "--path", str(rules)])

    assert code == NOT_AS_IT_SHOULD_BE
    assert "shop/shop.rego:4:1:" in capsys.readouterr().out


def test_a_question_that_is_not_there_cannot_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = write_policy(tmp_path / "shop")

    code = main(["policy", "eval", "--explain", "--input", str(tmp_path / "nothing.json"), "--path", str(rules)])

    assert code == CANNOT
    assert "nothing.json" in capsys.readouterr().err


@pytest.mark.parametrize("explain", [[], ["--explain"]])
def test_a_question_that_ends_the_engine_has_no_answer(
    tmp_path: Path, explain: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = "package rules.shop\n\nallow if count(numbers.range(1, input.resource.properties.arguments.amount)) > 3\n"
    rules, asked = write_policy(tmp_path / "shop", text, tests=""), write_question(tmp_path / "question.json", 10**9)

    code = main(["policy", "eval", *explain, "--input", str(asked), "--path", str(rules)])

    assert code == CANNOT
    assert "error: no answer to data.interlock.decision, which a gateway takes for a no" in capsys.readouterr().err
