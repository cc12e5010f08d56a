"""What a policy can see is found from its syntax, and never too little of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.pdp.bundle import load_bundle
from adapters.pdp.cached import KeyMaker
from adapters.pdp.engine import EngineFailure, RegoEngine
from adapters.pdp.projection import Projection, project
from adapters.pdp.samples import SAMPLES
from gateway import codec
from tests.pdp.policies import alone, composed, program_of

POLICIES = Path(__file__).parents[2] / "policies"


def reads(module: str) -> Projection:
    return project(program_of(alone(module)), ("interlock", "decision"))


@pytest.mark.parametrize(
    ("module", "paths"),
    [
        ("decision := 1", ()),
        ("decision := 1 if input.a.b.c == 2", (("a", "b", "c"),)),
        ('decision := 1 if input.a["b"] == 2', (("a", "b"),)),
        ("decision := 1 if input.a[input.k] == 2", (("a",), ("k",))),
        ("decision := 1 if input.a[0] == 2", (("a",),)),
        ("decision := 1 if { some x in input.a.b; x == 1 }", (("a", "b"),)),
        ("decision := 1 if { every x in input.a { x == input.b } }", (("a",), ("b",))),
        ("decision := 1 if { x := input.a; x.y.z == 1 }", (("a",),)),
        ("decision := [x | x := input.a[_]]", (("a",),)),
        ("decision := {input.k: input.v}", (("k",), ("v",))),
        ("decision := input.a.b if input.a", (("a",),)),
        ("decision := input", ((),)),
        ("decision := 1 if { walk(input, [p, v]); v == 1 }", ((),)),
        ("decision := 1 if { some k; input[k] == 1 }", ((),)),
        ('decision := object.get(input, "a", 1)', (("a",),)),
        ('decision := object.get(input.a, ["b", "c"], 1)', (("a", "b", "c"),)),
        ("decision := object.get(input.a, input.k, 1)", (("a",), ("k",))),
        ("import input.a as x\n\ndecision := x.b.c", (("a", "b", "c"),)),
        ("import input.a.b\n\ndecision := b.c", (("a", "b", "c"),)),
        ("f(x) := x.b\n\ndecision := f(input.a)", (("a",),)),
        ("f(x) := x.a.b\n\ndecision := f(input)", ((),)),
        ('f(k) := input.a[k]\n\ndecision := [f("x"), f(`y`)]', (("a", "x"), ("a", "y"))),
        ("f(k) := input.a[k]\n\ndecision := f(input.k)", (("a",), ("k",))),
        ('f(k) := [v | some k in ["q"]; v := input.a[k]]\n\ndecision := f("x")', (("a",),)),
        (
            'f(k) := input.a[k]\n\ng(_) := 1\n\nh := y if { y := g("z") with g as f }\n\ndecision := [h, f("x")]',
            (("a",),),
        ),
        ("a := input.x\n\ndecision := y if { y := a with input.x as input.z }", (("x",), ("z",))),
        ("a := input.x.y\n\ndecision := y if { y := a with input as input.w }", (("w",), ("x", "y"))),
        ("decision := 1 if data.other.rule\n\nunused := input.zzz", ()),
        ("a := 1 if input.p\nelse := 2 if input.q\nelse := 3\n\ndecision := a", (("p",), ("q",))),
        ("default a := 1\na := input.p\n\ndecision := a", (("p",),)),
        ("a[k] := input.v if k := input.k\n\ndecision := a.x", (("k",), ("v",))),
        ("a.b.c := input.x\na.b.d := input.y\n\ndecision := a.b.c", (("x",),)),
        ("a.b.c := input.x\na.b.d := input.y\n\ndecision := a", (("x",), ("y",))),
    ],
)
def test_exactly_the_paths_that_can_be_read_are_found(module: str, paths: tuple[tuple[str, ...], ...]) -> None:
    assert reads(module).paths == paths


def test_rules_of_every_team_are_followed_through_a_computed_step() -> None:
    bundle = composed("allow if input.subject.id\n\nother if input.unread\n\ndeny contains input.reason")

    found = project(program_of(bundle), ("interlock", "decision"))

    assert found.paths == (("reason",), ("subject", "id"))
    assert found.pure


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("decision := time.now_ns()", "time.now_ns"),
        ('decision := rand.intn("a", 2)', "rand.intn"),
        ('decision := uuid.rfc4122("a")', "uuid.rfc4122"),
        ("decision := input.context.time_ns", "context.time_ns"),
        ("decision := input.context.budget.tokens", "context.budget"),
        ("decision := input.context.rate", "context.rate"),
        ("decision := input.context.request_id", "context.request_id"),
        ("decision := input.context.trace_id", "context.trace_id"),
        ("decision := input.context", "context.budget"),
        ("decision := input", "context.budget"),
        ("f := time.now_ns()\n\ng := f\n\ndecision := g", "time.now_ns"),
        ("decision := y if { y := f(1) }\n\nf(_) := time.now_ns()", "time.now_ns"),
    ],
)
def test_what_changes_from_call_to_call_makes_a_policy_impure(module: str, why: str) -> None:
    found = reads(module)

    assert not found.pure
    assert any(why in reason for reason in found.impurities)


def test_the_clock_of_another_rule_does_not_make_this_one_impure() -> None:
    assert reads("unused := time.now_ns()\n\ndecision := 1").pure


def test_a_caller_can_learn_that_the_result_does_not_matter() -> None:
    found = reads("decision := input.resource.properties.name")

    assert found.may_read(("resource", "properties", "name", "deeper"))
    assert found.may_read(("resource",))
    assert not found.may_read(("resource", "properties", "result"))
    assert not found.may_read(("phase",))


def test_the_shipped_policies_are_pure_and_do_not_look_at_results() -> None:
    program = program_of(load_bundle([POLICIES / "lib", POLICIES / "starter"]))

    decision = project(program, ("interlock", "decision"))
    visible = project(program, ("interlock", "visible"))

    assert decision.pure
    assert visible.pure
    assert () not in decision.paths + visible.paths
    assert not decision.may_read(("resource", "properties", "result"))


VARIED = [
    'decision := {"d": true} if { input.subject.id == "a"; not input.resource.x.deny }',
    'decision := {"d": n} if { n := count([1 | some r in input.subject.roles; r in {"a", "b"}]) }',
    'decision := object.get(input, ["resource", "x", "deny"], "none")',
    'f(k) := input.resource.x[k]\n\ndecision := [f("a"), 1] if f("b")\n\nelse := [0]',
    "decision := [v | walk(input.resource.x, [_, v]); is_string(v)]",
    'id := input.subject.id\n\ndecision := [id, y] if { y := id with input.subject.id as input.phase }\n\nelse := "no"',
    'decision := {k: v | some k, v in input.resource; k != "id"}',
    "decision := 1 if { every r in input.subject.roles { r != input.resource.id } }\n\nelse := 2",
]
SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["a", "b", ""])
ANYTHING = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2)


@st.composite
def _questions(draw: st.DrawFn) -> dict[str, object]:
    parts: dict[str, object] = {}
    for name, fields in (("subject", ("id", "roles")), ("resource", ("id", "x", "other")), ("phase", ())):
        if draw(st.integers(0, 9)) == 0:
            parts[name] = draw(ANYTHING)
        elif fields:
            parts[name] = {field: draw(ANYTHING) for field in fields if draw(st.booleans())}
    return parts


def _value(engine: RegoEngine, question: Mapping[str, object]) -> bytes:
    try:
        return engine.evaluate("data.interlock.decision", codec.dumps(question))
    except EngineFailure as failure:
        return failure.kind.encode()


@cache
def _prepared() -> tuple[tuple[RegoEngine, KeyMaker], ...]:
    bundles = [alone(module) for module in VARIED]
    paths = [project(program_of(bundle), ("interlock", "decision")).paths for bundle in bundles]
    return tuple(
        (RegoEngine(bundle.modules), KeyMaker("decision", "", read))
        for bundle, read in zip(bundles, paths, strict=True)
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_questions_with_equal_keys_get_equal_answers(data: st.DataObject) -> None:
    engine, keys = data.draw(st.sampled_from(_prepared()))
    one = data.draw(_questions())
    other = copy.deepcopy(one)
    for name, value in data.draw(_questions()).items():  # a neighbour: some parts replaced, some alike
        if data.draw(st.booleans()):
            other[name] = value

    if keys.key(one) == keys.key(other):
        assert _value(engine, one) == _value(engine, other)


@cache
def _shipped() -> tuple[RegoEngine, KeyMaker]:
    bundle = load_bundle([POLICIES / "lib", POLICIES / "starter"])
    paths = project(program_of(bundle), ("interlock", "decision")).paths
    return RegoEngine(bundle.modules, bundle.data), KeyMaker("decision", "", paths)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_shipped_decisions_do_not_depend_on_what_is_not_in_the_key(
    sample: tuple[str, str, Mapping[str, object]], data: st.DataObject
) -> None:
    engine, keys = _shipped()
    one = copy.deepcopy(dict(sample[2]))
    other = copy.deepcopy(one)
    properties = other["resource"]["properties"]  # type: ignore[index]  # a sample has both
    for name in data.draw(st.lists(st.sampled_from(["result", "hints", "arguments", "name", "catalog", "mode"]))):
        properties[name] = data.draw(ANYTHING)
    other["context"] = data.draw(ANYTHING)

    if keys.key(one) == keys.key(other):
        assert _value(engine, one) == _value(engine, other)
