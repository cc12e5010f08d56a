"""What is said about a rule that did not fire is the expression that kept it from firing, as OPA's trace has it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from adapters.pdp.bundle import bundle_of
from adapters.pdp.engine import EngineFailure
from adapters.pdp.explain import Explained, Failed, explain
from tests.pdp.opaserver import HOW_TO, opa_program
from tests.pdp.policies import LIBRARY, program_of

QUESTION: dict[str, object] = {"name": "call", "n": 3, "list": [1, 2, 3], "roles": ["dev"], "who": {"id": "a"}}


def explained(
    rules: str, question: Mapping[str, object] = QUESTION, data: dict[str, object] | None = None
) -> tuple[Explained, ...]:
    bundle = bundle_of({"lib.rego": LIBRARY, "team.rego": f"package rules.team\n{rules}"}, data)
    return explain(bundle, program_of(bundle), question, deadline_s=20)


def only(found: tuple[Explained, ...]) -> Failed:
    (one,) = found
    assert one.failed is not None
    return one.failed


def innermost(failed: Failed) -> list[int]:
    """The lines of what failed, as far in as is known."""
    return [line for each in failed.inside for line in innermost(each)] or [failed.line]


TABLE: dict[str, tuple[str, list[list[int]]]] = {
    "the first expression": ('allow if {\n\tinput.name == "list"\n\tinput.n == 3\n}', [[3]]),
    "the last expression": ('allow if {\n\tinput.name == "call"\n\tinput.n == 4\n}', [[4]]),
    "nothing there": ("allow if {\n\tinput.n == 3\n\tinput.nothing.there\n}", [[4]]),
    "several bodies": ("allow if {\n\tinput.n == 1\n}\n\nallow if {\n\tinput.n == 3\n\tinput.n > 3\n}", [[3], [8]]),
    "some in": ("allow if {\n\tsome x in input.list\n\tx > 2\n\tx < 3\n}", [[5]]),
    "some in nothing": ("allow if {\n\tinput.n == 3\n\tsome x in input.nothing\n\tx == 1\n}", [[4]]),
    "some names": ("allow if {\n\tsome i\n\tinput.list[i] > 1\n\ti > 7\n}", [[5]]),
    "key and value": ('allow if {\n\tsome k, v in input.who\n\tk == "id"\n\tv == "b"\n}', [[5]]),
    "every": ("allow if {\n\tevery x in input.list {\n\t\tx > 0\n\t\tx < 3\n\t}\n}", [[5]]),
    "every of what is not there": ("allow if {\n\tevery x in input.nothing {\n\t\tx > 0\n\t}\n}", [[3]]),
    "a function": ("allow if {\n\tinput.n == 3\n\tbig(input.n)\n}\n\nbig(x) if {\n\tx > 2\n\tx > 9\n}", [[9]]),
    "a function of several bodies": (
        "allow if {\n\tbig(input.n)\n}\n\nbig(x) if {\n\tx > 9\n}\n\nbig(x) if {\n\tis_string(x)\n}",
        [[7, 11]],
    ),
    "a function in a function": (
        "allow if {\n\touter(input.n)\n}\n\nouter(y) if {\n\ty > 1\n\tinner(y + 1)\n}\n\ninner(z) if {\n\tz == 5\n}",
        [[12]],
    ),
    "a function whose value is another": ("allow if {\n\ttwice(input.n) == 7\n}\n\ntwice(x) := x * 2", [[3]]),
    "a comprehension": ("allow if {\n\tlarge := [x | some x in input.list; x > 2]\n\tcount(large) > 1\n}", [[4]]),
    "a set comprehension": ('allow if {\n\tnames := {r | some r in input.roles}\n\t"admin" in names\n}', [[4]]),
    "not": ("allow if {\n\tinput.n == 3\n\tnot input.list\n}", [[4]]),
    "not a rule": ("allow if {\n\tnot odd\n}\n\nodd if {\n\tinput.n == 3\n}", [[3]]),
    "else": (
        "allow if {\n\tinput.n == 1\n} else if {\n\tinput.n == 3\n\tinput.n == 2\n} else if {\n\tinput.n == 4\n}",
        [[3], [6], [8]],
    ),
    "with": ('allow if {\n\tnamed with input as {"name": "other"}\n}\n\nnamed if {\n\tinput.name == "call"\n}', [[3]]),
    "the head": ('deny contains {"code": "x", "of": input.nothing} if {\n\tinput.n == 3\n}', [[2]]),
    "an array over lines": ('allow if {\n\tinput.name in [\n\t\t"a", # ] }\n\t\t"b;}",\n\t]\n\tinput.n\n}', [[3]]),
    "a raw string and a text first": ('allow if {\n\t"dev" in input.roles\n\tinput.name != `call`\n}', [[4]]),
    "a name given later": ("allow if {\n\tx > 2\n\tx = input.list[_]\n\tx > 3\n}", [[5]]),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_first_expression_that_fails_is_found(name: str) -> None:
    rules, lines = TABLE[name]

    found = [
        innermost(each.failed) for each in explained(rules) if each.rule.endswith(("allow", "deny")) and each.failed
    ]

    assert found == lines


@pytest.mark.slow
@pytest.mark.skipif(not opa_program(), reason=HOW_TO)
@pytest.mark.parametrize("name", sorted(TABLE.keys() - {"the head"}))  # OPA's trace has no event for a head
def test_the_last_line_that_opa_reaches_in_each_body_is_the_one_that_is_named(name: str, tmp_path: Path) -> None:
    rules, lines = TABLE[name]
    (tmp_path / "team.rego").write_text(f"package rules.team\n{rules}")
    (tmp_path / "input.json").write_text(json.dumps(QUESTION))

    failing = lines_that_fail_on_opa(tmp_path)

    for body in lines:
        assert set(body) <= failing, name
        later = {line for line in failing if body[-1] < line < next_start(rules, body[-1])}
        assert later == set(), f"{name}: OPA got as far as {later}"


def lines_that_fail_on_opa(root: Path) -> set[int]:
    command = [opa_program(), "eval", "--format=json", "--explain=fails", "--disable-indexing"]
    command += ["--data", str(root / "team.rego"), "--input", str(root / "input.json"), "data.rules.team.allow"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    events = json.loads(done.stdout)["explanation"]
    return {
        event["Location"]["row"]
        for event in events
        if event["Op"] == "Fail" and "team.rego" in event["Location"]["file"]
    }


def next_start(rules: str, line: int) -> int:
    """The line on which the body that holds `line` ends."""
    lines = ["package", *rules.splitlines()]
    return next((at for at in range(line + 1, len(lines) + 1) if lines[at - 1].startswith("}")), len(lines) + 1)


def test_a_failure_is_shown_as_it_is_written_and_with_what_it_read() -> None:
    failed = only(explained('\nallow if {\n\tinput.n == 3  # fine\n\tinput.who.id == "b" ; true\n}\n'))

    assert (failed.file, failed.line, failed.col) == ("team.rego", 5, 2)
    assert failed.text == 'input.who.id == "b"'
    assert failed.read == (("input.who.id", True, "a"),)


def test_what_a_question_does_not_have_is_said_not_to_be_there() -> None:
    failed = only(explained("\nallow if input.who.name"))

    assert failed.read == (("input.who.name", False, None),)


def test_an_import_is_read_for_what_it_stands_for() -> None:
    failed = only(explained("\nimport input.who\n\nallow if who.id == 7"))

    assert failed.read == (("input.who.id", True, "a"),)


def test_a_rule_that_fires_is_said_to_fire_and_alternatives_after_it_are_left_out() -> None:
    found = explained("\nallow if {\n\tinput.n == 1\n} else if {\n\tinput.n == 3\n} else if {\n\tinput.n == 4\n}")

    assert [(each.line, each.fired) for each in found] == [(3, False), (5, True)]


def test_each_definition_is_judged_for_itself() -> None:
    found = explained('\ndeny contains "a" if input.n == 3\n\ndeny contains "b" if input.n == 4\n')

    assert [each.fired for each in found] == [True, False]


def test_a_value_that_is_false_did_not_fire() -> None:
    failed = only(explained('\nallow := startswith(input.name, "x")\n'))

    assert failed.text == 'startswith(input.name, "x")'
    assert "false" in failed.why


def test_an_error_is_the_reason_where_there_is_one() -> None:
    failed = only(explained("\nallow if {\n\tinput.n == 3\n\tcount(input.n) > 1\n}"))

    assert failed.line == 5
    assert "count" in failed.why


def test_a_function_that_is_called_under_with_is_asked_under_it_too() -> None:
    failed = only(explained('\nallow if f(1) with input as {"n": 9}\n\nf(x) if {\n\tinput.n == 9\n\tx == 2\n}'))

    assert innermost(failed) == [7]


def test_a_function_of_another_package_is_looked_into() -> None:
    files = {
        "lib.rego": LIBRARY,
        "team.rego": "package rules.team\n\nimport data.shared\n\nallow if shared.small(input.n)\n",
        "shared.rego": "package shared\n\nsmall(x) if {\n\tx > 0\n\tx < 3\n}\n",
    }
    bundle = bundle_of(files)

    failed = only(explain(bundle, program_of(bundle), QUESTION))

    assert [(each.file, each.line) for each in failed.inside] == [("shared.rego", 5)]


def test_rules_that_do_not_look_at_the_question_are_left_out() -> None:
    assert explained("\nlevels := {1, 2}\n\ndefault allow := false\n") == ()


def test_rules_that_use_data_are_explained() -> None:
    failed = only(
        explained("\nallow if {\n\tsome role in input.roles\n\trole in data.admins\n}", data={"admins": ["x"]})
    )

    assert failed.text == "role in data.admins"


def test_statements_wait_for_names_and_never_for_the_question() -> None:
    rules = """
allow if {
	some role in input.roles
	names := data.granted[role]
	some pattern in names
	glob.match(pattern, null, input.name)
}
"""
    failed = only(explained(rules, data={"granted": {"ops": ["call"]}}))

    assert failed.text == "names := data.granted[role]"


def test_a_rule_that_looks_at_all_of_its_package_does_not_bring_the_engine_down() -> None:
    rules = '\nallow if {\n\tinput.n == 3\n\tcount(data.rules[_].deny) > 5\n}\n\ndeny contains "x" if input.n == 7\n'

    found = explained(rules)

    assert [each.failed.line for each in found if each.failed] == [5, 8]


def test_a_function_without_arguments_is_looked_into() -> None:
    failed = only(explained("\nallow if {\n\tempty()\n\tinput.n == 3\n}\n\nempty() if input.n == 4\n"))

    assert innermost(failed) == [8]


def test_what_was_not_answered_in_time_is_not_explained() -> None:
    slow = "count([1 | some a in numbers.range(1, 9000); some b in numbers.range(1, 9000); a == b + 10000]) == input.n"
    rules = f"allow if {{\n\tinput.n == 3\n\t{slow}\n}}\n\nother if input.n == 3\n"
    bundle = bundle_of({"lib.rego": LIBRARY, "team.rego": f"package rules.team\n{rules}"})

    with pytest.raises(EngineFailure) as caught:
        explain(bundle, program_of(bundle), QUESTION, deadline_s=1)

    assert caught.value.text == "not done within 1 s"
