"""`interlock policy diff` says what changes from one policy to another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, OK
from tests.cli.policies import RULES, question, write_policy


def policies(root: Path, old: str, new: str) -> list[str]:
    return [str(write_policy(root / name / "shop", rules, tests="")) for name, rules in (("old", old), ("new", new))]


def inputs(root: Path, *amounts: object) -> list[str]:
    path = root / "questions.jsonl"
    path.write_text("".join(json.dumps(question(amount)) + "\n" for amount in amounts))
    return ["--inputs", str(path)]


def test_layout_comments_and_order_are_no_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, _, deny = RULES.rpartition("deny contains")
    moved = head.replace("default", f"deny contains{deny}\ndefault").replace("\tx < 10", "\tx   <  10  # dollars")

    code = main(["policy", "diff", *policies(tmp_path, RULES, moved)])

    assert code == OK
    assert capsys.readouterr().out == "no rule and no data differs\n"


def test_rules_are_added_removed_and_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = RULES.replace("x < 10", "x < 20").replace("deny contains", "hold contains") + "\ndeny2 := 1\n"

    code = main(["policy", "diff", "--json", *policies(tmp_path, RULES, new)])

    changes = json.loads(capsys.readouterr().out)["rules"]["rules.shop"]
    assert code == OK
    assert [(change["kind"], change["name"]) for change in changes] == [
        ("removed", "deny"),
        ("added", "deny2"),
        ("added", "hold"),
        ("changed", "small(1)"),
    ]
    assert changes[-1]["before"] == ["shop/shop.rego:10:1"]


def test_an_import_that_means_something_else_changes_the_rules_that_use_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = "package rules.shop\n\nimport data.one as limits\n\nallow if limits.open\n\nother if input.action\n"

    main(["policy", "diff", "--json", *policies(tmp_path, old, old.replace("data.one", "data.two"))])

    changes = json.loads(capsys.readouterr().out)["rules"]["rules.shop"]
    assert [change["name"] for change in changes] == ["allow"]


def test_data_is_compared_by_its_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = policies(tmp_path, RULES, RULES)
    (Path(old) / "data.json").write_text('{"limits": {"a": 1, "b": [1, 2], "c": {}}}')
    (Path(new) / "data.json").write_text('{"limits": {"a": 2, "b": [1, 2], "d": null}}')

    code = main(["policy", "diff", old, new])

    assert code == OK
    assert capsys.readouterr().out.splitlines() == [
        "~ data.limits.a  1 -> 2",
        "- data.limits.c  {}",
        "+ data.limits.d  null",
    ]


def test_a_name_with_a_dot_in_it_is_not_two_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = policies(tmp_path, RULES, RULES)
    (Path(old) / "data.json").write_text('{"hosts": {"a.example": 1}}')
    (Path(new) / "data.json").write_text('{"hosts": {"a": {"example": 1}}}')

    main(["policy", "diff", old, new])

    assert capsys.readouterr().out.splitlines() == [
        "+ data.hosts.a.example  1",
        '- data.hosts["a.example"]  1',
    ]


def test_answers_that_differ_are_named_and_are_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directories = policies(tmp_path, RULES, RULES.replace("x < 10", "x < 20"))

    code = main(["policy", "diff", *directories, *inputs(tmp_path, 3, 12, 30)])

    printed = capsys.readouterr().out
    assert code == NOT_AS_IT_SHOULD_BE
    assert "line 2: agent:a mcp.tools.call shop/buy: deny (no_rule_allows) -> permit" in printed
    assert "1 of 3 answers differ" in printed


def test_answers_that_do_not_differ_are_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directories = policies(tmp_path, RULES, RULES.replace("x < 10", "x < 11"))

    code = main(["policy", "diff", *directories, *inputs(tmp_path, 3, 12)])

    assert code == OK
    assert "0 of 2 answers differ" in capsys.readouterr().out


def test_an_answer_may_differ_in_more_than_its_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rate = '\nobligation contains {"type": "rate", "properties": {"limit": 1, "window_s": 60}} if input.action\n'

    code = main(["policy", "diff", *policies(tmp_path, RULES, RULES + rate), *inputs(tmp_path, 3)])

    assert code == NOT_AS_IT_SHOULD_BE
    assert "permit -> permit (in obligations" in capsys.readouterr().out


def test_holds_errors_and_lists_have_words_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hold = '\nhold contains {"approvers": "group:x", "title": "t"} if input.resource.properties.arguments.amount == 3\n'
    failing = '\ndeny contains "x" if count(input.resource.properties.arguments.amount) > 9\n'
    shows = "\nlist_allow if input.action\n"

    main(["policy", "diff", "--json", *policies(tmp_path, RULES, RULES + hold), *inputs(tmp_path, 3, 4)])
    held = verdicts(capsys)
    main(["policy", "diff", "--json", *policies(tmp_path, RULES, RULES + failing), *inputs(tmp_path, 3)])
    failed = verdicts(capsys)
    main(["policy", "diff", "--json", *policies(tmp_path, RULES, RULES + shows), *listing(tmp_path)])
    listed = verdicts(capsys)

    assert held == [(1, "permit", "hold")]
    assert failed == [(1, "permit", "deny (failed)")]
    assert listed == [(1, "shows []", "shows [0]")]


def listing(root: Path) -> list[str]:
    candidates = {"candidates": [{**question(), "type": "tool", "id": "shop/buy", "properties": {}}]}
    asked = {**question(), "phase": "list", "resource": {"type": "mcp_server", "id": "shop", "properties": candidates}}
    path = root / "lists.jsonl"
    path.write_text(json.dumps({"input": asked}) + "\n")
    return ["--inputs", str(path)]


def verdicts(capsys: pytest.CaptureFixture[str]) -> list[tuple[object, object, object]]:
    return [(each["line"], each["from"], each["to"]) for each in json.loads(capsys.readouterr().out)["differing"]]


@pytest.mark.parametrize("text", ["{", "[]", "1\n"])
def test_a_line_that_is_no_question_is_named(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(question()) + "\n\n" + text)

    code = main(["policy", "diff", *policies(tmp_path, RULES, RULES), "--inputs", str(path)])

    assert code == CANNOT
    assert "questions.jsonl:3" in capsys.readouterr().err


def test_a_policy_with_faults_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["policy", "diff", *policies(tmp_path, RULES, "package rules.shop\n\nallow if ((\n")])

    assert code == CANNOT
    assert "shop/shop.rego:4:1" in capsys.readouterr().err


HUNGRY = "package rules.shop\n\nallow if count(numbers.range(1, input.resource.properties.arguments.amount)) > %d\n"


def test_a_question_that_ends_an_engine_is_no_equal_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = policies(tmp_path, HUNGRY % 3, HUNGRY % 30)

    code = main(["policy", "diff", *both, *inputs(tmp_path, 10**9, 12)])

    assert code == CANNOT
    assert f"error: {both[0]} cannot be compared: the engine died" in capsys.readouterr().err
