"""A policy that `opa check` refuses is refused here too, without OPA, and at the same line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from adapters.pdp.checks import check_bundle
from tests.pdp.opaserver import HOW_TO, opa_program
from tests.pdp.policies import composed

FAULTY = (
    "allow if ((",
    "allow if x > 1",
    "allow {\n\tinput.action\n}",
    "f(x) := y if x",
    "f(x) := [y | some z in x]",
    "f(x) if { x.y == z }",
    "allow if nope(1)",
    "f(x) := startswith(x)",
    'allow if startswith(input.action.name, "a", 1, 2)',
    "f(x) := x\n\ng(x) := f(x, 1, 2)",
    "allow if data.rules.team.f(1)",
    "f(x) := f(x)",
    "allow if {\n\tinput.action\n\tsome y in input.list\n\ty == z\n}",
    "allow if {\n\tnot input.list[i]\n}",
    "allow if {\n\tnot input.list[_]\n}",
    "allow if {\n\tsome i\n\tnot input.list[i]\n}",
    "allow if {\n\tnot x\n}",
    "allow if {\n\tevery x in input.list {\n\t\tx == q\n\t}\n}",
    "deny contains x if input.action",
    'deny contains {"m": m} if input.action',
    "allow if count([y | y := z]) > 0",
    'allow := "a',
    "allow if input.action with input.list as x",
    'allow := {"a": 1,, }',
    "allow if {\n\tsome x\n\tx > 3\n}",
    "allow if {\n\tinput.action\n\tsome unused\n}",
    "p[x] := 1 if input.action",
    "allow if { y = x }",
    "default allow := x",
    "allow if input.action +",
    "x := y\n\ny := z",
    "allow if true\nelse := y if { z }",
    "allow if [1, 2][i] == j",
    "allow if {\n\tx := {k: v | some k, v in input.o}\n\tv == 1\n}",
)

ELSEWHERE = (  # refused by both, at the one or the other of two rules that do not go together
    "a if b\n\nb if a",
    "allow if {\n\tx := 1\n\tx := 2\n}",
    "allow := 1\n\nallow contains 2 if true",
    "f(x) := 1\n\nf(x, y) := 2",
    "f := 1\n\nf(x) := 2",
)

SOUND = (
    "allow if { some i; input.list[i] == 3; not input.other[i] }",
    "allow if { some x in input.list; not input.other[x] }",
    "allow if { every x in input.list { not input.other[x] } }",
    "allow if { i = 3; not input.list[i] }",
    "allow if { x := [1 | some y in input.list; not input.other[y]]; count(x) > 1 }",
    "who[name] := true if some name in input.list",
    "f(x, _) := x\n\nallow if f(input.a, 2) == 3",
)


def lines_of_opa(rules: str, root: Path) -> set[int]:
    path = root / "team.rego"
    path.write_text(f"package rules.team\n\n{rules}\n")
    done = subprocess.run([opa_program(), "check", str(path)], capture_output=True, text=True, timeout=60, check=False)
    return {int(line) for line in re.findall(r"team\.rego:(\d+): ", done.stderr)}


def lines_of_ours(rules: str) -> set[int]:
    return {fault.line for fault in check_bundle(composed(rules), deadline_s=20)}


@pytest.mark.parametrize("rules", [*FAULTY, *ELSEWHERE])
def test_what_opa_refuses_is_refused_without_it(rules: str) -> None:
    assert lines_of_ours(rules) != set()


@pytest.mark.parametrize("rules", SOUND)
def test_what_opa_takes_is_not_refused(rules: str) -> None:
    assert lines_of_ours(rules) == set()


@pytest.mark.slow
@pytest.mark.skipif(not opa_program(), reason=HOW_TO)
@pytest.mark.parametrize("rules", FAULTY)
def test_opa_names_the_same_lines(rules: str, tmp_path: Path) -> None:
    assert lines_of_ours(rules) == lines_of_opa(rules, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not opa_program(), reason=HOW_TO)
def test_opa_agrees_on_what_is_wrong_elsewhere_and_on_what_is_sound(tmp_path: Path) -> None:
    refused = [rules for rules in (*ELSEWHERE, *SOUND) if lines_of_opa(rules, tmp_path)]

    assert refused == list(ELSEWHERE)


def test_columns_are_those_of_an_editor_where_lines_begin_with_tabs() -> None:
    found = check_bundle(composed('allow if {\n\t\t"é" == input.a; x > 1\n}'), deadline_s=20)

    assert [(fault.line, fault.col) for fault in found] == [(4, 19)]


def test_the_engines_own_columns_are_too() -> None:
    found = check_bundle(composed("allow if {\n\t\tinput.a; ((\n}"), deadline_s=20)

    assert [(fault.line, fault.col) for fault in found] == [(5, 1)]
