"""A policy that could not decide as it is written is refused when it is loaded, with the place and what to do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from adapters.pdp.builtins import ARITY
from adapters.pdp.bundle import Fault, bundle_of, load_bundle
from adapters.pdp.checks import check_bundle
from adapters.pdp.engine import EngineFailure, RegoEngine
from tests.pdp.policies import LIBRARY, composed

POLICIES = Path(__file__).parents[2] / "policies"

IMPORT_NOT = "import future.keywords.not\n\n"


def faults(rules: str, data: dict[str, object] | None = None) -> list[Fault]:
    return check_bundle(composed(rules, data), deadline_s=10)


def test_the_shipped_policies_have_no_fault() -> None:
    assert check_bundle(load_bundle([POLICIES / "lib", POLICIES / "starter"])) == []


@pytest.mark.parametrize(
    ("rules", "line", "col", "words"),
    [
        ("allow if ((", 4, 1, "expecting expression"),
        ("allow if x > 1", 3, 10, "unsafe"),
        ("f(x) := y if x", 3, 9, "unsafe"),
        ("f(x) := [y | some z in x]", 3, 10, "unsafe"),
        ("f(x) if { x.y == z }", 3, 18, "unsafe"),
        ("allow if input.a; nope(1)", 0, 0, ""),
        ("allow if nope(1)", 3, 14, "nope"),
        ("f(x) := io.jwt.decode(x)", 3, 22, "io.jwt.decode"),
        ("f(x) := http.send(x)", 3, 18, "not allowed"),
        ("f(x) := startswith(x)", 3, 19, "takes 2 arguments, not 1"),
        ("f(x) := x\n\ng(x) := f(x, 1, 2)", 5, 10, "takes 1, not 3"),
        ("f(x) := data.rules.other.f(x)", 3, 27, "no function data.rules.other.f"),
        ("allow := 1\nallow := 2", 4, 1, "conflicts"),
        ("allow if input.action.name + 1", 3, 22, "numeric"),
        ("f(x) := f(x)", 3, 1, "recursive"),
        ("a if b\n\nb if c\n\nc if a", 3, 1, "recursive"),
        ("f(x) := g(x)\n\ng(x) := f(x)", 3, 1, "recursive"),
        ('f(x) := sprintf("%t", [x])', 3, 18, "%t"),
        ('f(x) := regex.match("\\\\d", x)', 3, 22, "[0-9]"),
        ('f(x) := glob.match("[^a]", null, x)', 3, 21, "[!"),
    ],
)
def test_a_fault_says_where_and_what(rules: str, line: int, col: int, words: str) -> None:
    found = faults(rules)

    assert found
    assert {fault.file for fault in found} == {"team.rego"}
    if line:
        assert (found[0].line, found[0].col) == (line, col)
        assert words in found[0].message


def test_every_file_that_does_not_parse_is_named() -> None:
    found = check_bundle(bundle_of({"a.rego": "package a\n\nx := ((", "b.rego": "package b", "c.rego": "pakage c"}))

    assert [fault.file for fault in found] == ["a.rego", "c.rego"]


def test_files_that_do_not_parse_are_not_looked_for_without_end() -> None:
    began = time.monotonic()
    found = check_bundle(bundle_of({f"{number}.rego": "package a((" for number in range(4_000)}), deadline_s=0.5)
    took = time.monotonic() - began

    assert 0 < len(found) < 4_000
    assert took < 10


def test_several_faults_are_said_at_once() -> None:
    found = faults("a := http.send({})\n\nb := opa.runtime()\n\nc := trace(1)")

    assert [fault.line for fault in found] == [3, 5, 7]


@pytest.mark.parametrize("missing", ["decision", "visible"])
def test_a_missing_entry_point_is_a_fault(missing: str) -> None:
    rule = {"decision": "visible := []", "visible": 'decision := {"decision": false}'}[missing]

    found = check_bundle(bundle_of({"a.rego": f"package interlock\n\n{rule}\n"}))

    assert [fault.message for fault in found if f"data.interlock.{missing}" in fault.message]


@pytest.mark.parametrize(
    ("decision", "visible"),
    [('"yes"', "[]"), ("true", "[]"), ('{"decision": "yes"}', "[]"), ('{"decision": true}', '["a"]'), ("{}", "[]")],
)
def test_an_entry_point_of_another_shape_is_a_fault(decision: str, visible: str) -> None:
    module = f"package interlock\n\ndecision := {decision}\n\nvisible := {visible}\n"

    assert check_bundle(bundle_of({"a.rego": module}))


def test_an_entry_point_that_is_a_function_is_a_fault() -> None:
    found = check_bundle(bundle_of({"a.rego": "package interlock\n\ndecision(x) := x\n\nvisible := []\n"}))

    assert "is a function" in found[0].message


@pytest.mark.parametrize("data", [{"rules": {"team": {"deny": []}}}, {"rules": {"team": 1}}, {"interlock": 1}])
def test_data_in_the_place_of_a_rule_is_a_fault(data: dict[str, object]) -> None:
    found = faults('deny contains "x" if input.bad', data)

    assert any("is given as data too" in fault.message for fault in found)


def test_data_beside_the_rules_of_a_package_is_none() -> None:
    assert faults("allow if input.subject.id in data.rules.team.people", {"rules": {"team": {"people": ["a"]}}}) == []


def test_a_package_in_several_files_is_a_fault_because_the_engine_loses_denials_of_it() -> None:
    files = {
        "lib.rego": LIBRARY,
        "rules/a.rego": "package rules.a\n\nrisky if level > 1\n\ndefault level := 2\n",
        "rules/b.rego": 'package rules.a\n\ndeny contains "x" if { helper; input.resource.id == "bad" }\n',
        "rules/c.rego": "package rules.a\n\nallow if input.action\n\nhelper if risky\n",
    }

    found = check_bundle(bundle_of(files))

    assert [fault.file for fault in found] == ["rules/b.rego", "rules/c.rego"]
    assert "keep a package in one file" in found[0].message


def test_a_package_deeper_than_a_team_is_a_fault_because_nobody_asks_it() -> None:
    files = {"lib.rego": LIBRARY, "deep.rego": "package rules.data.pii\n\nallow if input.action\n"}

    found = check_bundle(bundle_of(files))

    assert ["rules.<team>" in fault.message for fault in found] == [True]


def test_not_round_a_call_needs_the_import_under_which_the_engines_agree() -> None:
    rule = 'deny contains "x" if not startswith(input.resource.properties.arguments.sql, "SELECT")'

    without, plain, with_it = faults(rule), faults("allow if not input.bad"), faults(f"{IMPORT_NOT}{rule}")

    assert ["future.keywords.not" in fault.message for fault in without] == [True]
    assert plain == []
    assert with_it == []


def test_a_policy_that_takes_for_ever_to_parse_is_refused_in_time() -> None:
    found = check_bundle(composed(f"x := {'[' * 60}{']' * 60}"), deadline_s=1)

    assert any("not done within 1 s" in fault.message for fault in found)


@pytest.mark.parametrize("rule", [f"x := 1{' + 1' * 900}", f"x := input{'.a' * 900}"])
def test_an_expression_that_is_too_deep_to_be_followed_is_a_fault(rule: str) -> None:
    assert "split it" in faults(rule)[0].message


def test_a_local_name_like_a_rule_is_no_recursion() -> None:
    found = faults("role contains x if { some x in input.roles }\n\nother if { some role in input.roles; role == 1 }")

    assert not any("recursive" in fault.message for fault in found)


def test_a_function_with_its_output_as_an_argument_is_no_fault() -> None:
    assert faults('allow if { split(input.action.name, ".", parts); parts[0] == "mcp" }') == []


def test_every_function_of_the_table_is_one_of_the_engine() -> None:
    missing: list[str] = []

    for name, arity in ARITY.items():
        call = f"{name}({', '.join(['input.nothing'] * arity)})"
        engine = RegoEngine([("a.rego", f"package a\n\nx := {call}\n")])
        try:
            engine.evaluate("data.a.x", b"{}")
        except EngineFailure as failure:
            if "could not find function" in failure.text:
                missing.append(name)

    assert missing == []
