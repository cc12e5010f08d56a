"""Which policies may be evaluated where they cannot be interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.pdp.bundle import load_bundle
from adapters.pdp.cost import MAX_DATA_BYTES, MAX_POLICY_BYTES, isolation_for, unbounded
from tests.pdp.policies import composed, program_of

POLICIES = Path(__file__).parents[2] / "policies"
ARGUMENTS = "input.resource.properties.arguments"


def why(rules: str, data: dict[str, object] | None = None) -> list[str]:
    bundle = composed(rules, data)
    return list(unbounded(program_of(bundle), bundle))


def test_the_shipped_policies_are_cheap() -> None:
    bundle = load_bundle([POLICIES / "lib", POLICIES / "starter"])

    assert list(unbounded(program_of(bundle), bundle)) == []


@pytest.mark.parametrize(
    "rules",
    [
        'allow if input.action.name == "x"',
        "allow if { some role in input.subject.properties.roles; some name in data.grants[role]; name == 1 }",
        f"allow if {{ some value in {ARGUMENTS}; value == 1 }}",
        f'allow if {{ some name in ["a", "b"]; some value in {ARGUMENTS}[name]; value == 1 }}',
        f"f(x) := {{y | some y in x}}\n\nallow if {{ some y in f({ARGUMENTS}); y == 1 }}",
        f"allow if {{ every value in {ARGUMENTS} {{ value != 1 }} }}",
        "allow if regex.match(`^[a-z]+$`, input.resource.id)",
        'allow if sprintf("%v", [input.resource.id]) == "x"',
        "allow if { some r in input.subject.properties.roles; some s in input.subject.properties.scopes; r == s }",
    ],
)
def test_what_goes_through_the_callers_values_once_is_cheap(rules: str) -> None:
    assert why(rules) == []


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (f"allow if {{ walk({ARGUMENTS}, [_, value]); value == 1 }}", "walk"),
        (f"allow if {{ some a in {ARGUMENTS}; some b in {ARGUMENTS}; a == b }}", "nested loops"),
        (f"allow if {{ a := {ARGUMENTS}; a[i] == a[j]; i != j }}", "nested loops"),
        (f"allow if {{ some a in {ARGUMENTS}; count([b | some b in {ARGUMENTS}; a == b]) > 1 }}", "nested loops"),
        (f"f(x) if {{ some b in {ARGUMENTS}; b == x }}\n\nallow if {{ some a in {ARGUMENTS}; f(a) }}", "nested loops"),
        (f"allow if {{ every a in {ARGUMENTS} {{ some b in {ARGUMENTS}; a == b }} }}", "nested loops"),
        (f"x := [[a, b] | some a in {ARGUMENTS}; some b in {ARGUMENTS}]\n\nallow if x == 1", "nested loops"),
        ("allow if count(numbers.range(1, input.n)) > 1", "numbers.range"),
        (f"allow if regex.match(`^[a-z]+$`, {ARGUMENTS}.text)", "regex.match"),
        ('allow if regex.match(input.resource.id, "x")', "regex.match"),
        ("allow if sprintf(input.resource.id, [1]) == 1", "sprintf"),
        ("allow if json.unmarshal(input.resource.id) == 1", "json.unmarshal"),
        ("allow if net.cidr_expand(input.resource.id) == 1", "net.cidr_expand"),
    ],
)
def test_what_a_caller_can_make_long_is_not(rules: str, words: str) -> None:
    assert any(words in reason and "team.rego" in reason for reason in why(rules))


def test_what_is_never_asked_does_not_count() -> None:
    assert why("unused if { walk(input, [_, value]); value == 1 }\n\nallow if input.subject.id") == []


def test_large_policies_and_data_are_evaluated_apart() -> None:
    assert why("# " + "x" * 60_000 + ("\n# " + "x" * 60_000) * (MAX_POLICY_BYTES // 60_000) + "\nallow := true")
    assert why("allow := true", {"big": "x" * MAX_DATA_BYTES})


def test_the_reason_decides_unless_configuration_does() -> None:
    bundle = composed("allow if { walk(input, [_, value]); value == 1 }")
    program = program_of(bundle)

    assert isolation_for("auto", program, bundle) == "process"
    assert isolation_for("inline", program, bundle) == "inline"
    assert isolation_for("process", program_of(composed("allow := true")), composed("allow := true")) == "process"
