"""`interlock policy` looks at policies without a gateway, and its exit code says what it found."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, OK

QUESTION = {
    "schema": "interlock.input/1",
    "phase": "request",
    "subject": {"type": "agent", "id": "agent:a", "properties": {"roles": ["x"]}},
    "action": {"name": "mcp.tools.call", "properties": {}},
    "resource": {
        "type": "tool",
        "id": "shop/buy",
        "properties": {"upstream": "shop", "name": "buy", "truncated": False},
    },
    "context": {},
}
RULES = """
package rules.shop

default allow := false

allow if input.resource.id == "shop/buy"

deny contains {"code": "closed", "message": "closed", "public": true} if input.context.closed
"""
TESTS = """
package tests.shop

test_buying_is_allowed if data.rules.shop.allow with input as {"resource": {"id": "shop/buy"}}
"""


def policy(root: Path, rules: str = RULES, tests: str = TESTS) -> str:
    (root / "rules.rego").write_text(rules.lstrip())
    if tests:
        (root / "rules_test.rego").write_text(tests.lstrip())
    return str(root)


def ask(root: Path, **context: object) -> str:
    path = root / "question.json"
    path.write_text(json.dumps({**QUESTION, "context": context}))
    return str(path)


def test_a_good_policy_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["policy", "check", "--path", policy(tmp_path)])

    assert code == OK
    assert "nothing to correct" in capsys.readouterr().out


def test_faults_are_printed_with_their_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["policy", "check", "--path", policy(tmp_path, "package rules.x\n\nallow if http.send({})\n")])

    assert code == NOT_AS_IT_SHOULD_BE
    assert f"{tmp_path.name}/rules.rego:3:19: http.send is not allowed" in capsys.readouterr().out


def test_check_says_why_a_policy_runs_in_a_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = "package rules.x\n\nallow if { walk(input, [_, value]); value == 1 }\n"

    code = main(["policy", "check", "--json", "--path", policy(tmp_path, rules)])

    report = json.loads(capsys.readouterr().out)
    assert code == OK
    assert report["faults"] == []
    assert "walk" in report["unbounded"][0]


def test_the_shipped_policies_pass_their_tests(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["policy", "test", "--json"])

    report = json.loads(capsys.readouterr().out)
    assert code == OK
    assert report["tests"] > 10


def test_a_failing_test_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tests = "package tests.shop\n\ntest_wrong if data.rules.shop.allow\n"

    code = main(["policy", "test", "--path", policy(tmp_path, tests=tests)])

    printed = capsys.readouterr().out
    assert code == NOT_AS_IT_SHOULD_BE
    assert "rules_test.rego:3:1: tests.shop.test_wrong: is undefined" in printed
    assert "1 failed" in printed


def test_lines_that_no_test_reaches_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["policy", "test", "--coverage", "--path", policy(tmp_path)])

    assert code == OK
    assert f"{tmp_path.name}/rules.rego: not reached: 7" in capsys.readouterr().out


def test_cases_are_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cases").mkdir()
    cases = [
        {"name": "right", "input": QUESTION, "expect": {"decision": True}},
        {"name": "wrong", "input": QUESTION, "expect": {"decision": False}},
        {"name": "list", "entrypoint": "visible", "input": QUESTION, "expect": []},
    ]
    (tmp_path / "cases" / "shop.json").write_text(json.dumps(cases))

    code = main(["policy", "test", "--json", "--path", policy(tmp_path)])

    report = json.loads(capsys.readouterr().out)
    assert code == NOT_AS_IT_SHOULD_BE
    assert [fault["message"].split(":")[0] for fault in report["faults"]] == ["wrong"]


def test_a_permit_is_printed_with_the_rules_that_fired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["policy", "eval", "--json", "--input", ask(tmp_path), "--path", policy(tmp_path)])

    report = json.loads(capsys.readouterr().out)
    assert code == OK
    assert report["permits"]
    assert report["answer"]["decision"] is True
    assert report["fired"] == {"data.rules.shop.allow": True}


def test_a_denial_is_printed_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["policy", "eval", "--input", ask(tmp_path, closed=True), "--path", policy(tmp_path)])

    printed = capsys.readouterr().out
    assert code == NOT_AS_IT_SHOULD_BE
    assert '"decision": false' in printed
    assert "data.rules.shop.deny" in printed


def test_a_question_may_come_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(QUESTION).encode())))

    code = main(["policy", "eval", "--input", "-", "--path", policy(tmp_path)])

    assert code == OK
    assert "fired:" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "[]", "1"])
def test_what_is_no_question_cannot_be_asked(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "question.json"
    path.write_text(text)

    code = main(["policy", "eval", "--input", str(path), "--path", policy(tmp_path)])

    assert code == CANNOT
    assert "error:" in capsys.readouterr().err


def test_a_policy_with_faults_is_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["policy", "eval", "--input", ask(tmp_path), "--path", policy(tmp_path, "package rules.x\n\nallow if ((\n")]
    )

    assert code == CANNOT
    assert "cannot be evaluated" in capsys.readouterr().err
