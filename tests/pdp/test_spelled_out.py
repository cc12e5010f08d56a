"""The library with the teams written out is asked faster and answers the same; in doubt it stays as it is."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.pdp.bundle import Bundle, bundle_of, load_bundle
from adapters.pdp.engine import EngineFailure, RegoEngine
from adapters.pdp.spelled_out import spelled_out
from gateway import codec
from gateway.config import policy_library, starter_policies

LIBRARY = (policy_library() / "interlock.rego").read_text()

TEAM = """package rules.{team}

import future.keywords.not

default allow := false

allow if input.{team}.allow

deny contains "no" if input.{team}.deny

hold contains {{"approvers": "group:x", "title": "t"}} if input.{team}.hold

obligation contains {{"type": "label", "properties": {{"labels": ["{team}"]}}}} if input.{team}.label

label contains "{team}" if input.{team}.label

list_allow if input.{team}.list
"""


def composed(*teams: str, data: Mapping[str, object] | None = None, **more: str) -> Bundle:
    files = {"lib.rego": LIBRARY, **{f"{team}.rego": TEAM.format(team=team) for team in teams}}
    return bundle_of({**files, **{name.replace("__", "/") + ".rego": text for name, text in more.items()}}, data)


def asked(modules: tuple[tuple[str, str], ...], data: bytes, entry: str, question: object) -> object:
    try:
        return codec.loads(RegoEngine(modules, data).evaluate(f"data.interlock.{entry}", codec.dumps(question)))
    except EngineFailure as failure:
        return failure.kind


def test_shipped_policies_are_written_out() -> None:
    bundle = load_bundle([policy_library(), starter_policies()])

    text = "".join(text for _, text in spelled_out(bundle))

    for name in ("allow", "deny", "hold", "obligation", "label", "list_allow"):
        assert f"data.rules.starter.{name}" in text


def test_what_no_file_of_a_package_mentions_is_not_asked_for() -> None:
    plain = "package rules.one\n\ndefault allow := false\n\nallow if input.good\n"
    more = 'package rules.one\n\ndeny contains "x" if input.bad\n'

    alone, together = composed(one=plain), composed(one=plain, two=more)

    for name, asked_alone, asked_together in (("deny", False, True), ("hold", False, False)):
        asking = f"not data.rules.one.{name} != set()"
        assert (asking in _text(alone), asking in _text(together)) == (asked_alone, asked_together)


def _text(bundle: Bundle) -> str:
    return "".join(text for _, text in spelled_out(bundle))


FLAGS = st.fixed_dictionaries({name: st.booleans() for name in ("allow", "deny", "hold", "label", "list")})


@settings(deadline=None, max_examples=60)
@given(one=FLAGS, two=FLAGS, three=FLAGS)
def test_answers_are_those_of_the_library_as_written(
    one: Mapping[str, bool], two: Mapping[str, bool], three: Mapping[str, bool]
) -> None:
    bundle = composed("one", "two", "three")
    candidate = {"type": "tool", "id": "up/x", "properties": {"upstream": "up", "name": "x"}}
    resource = {"type": "tool", "id": "up/x", "properties": {"candidates": [candidate]}}
    question = {"one": one, "two": two, "three": three, "action": {"name": "mcp.tools.call"}, "resource": resource}

    assert spelled_out(bundle) != bundle.modules
    for entry in ("decision", "visible"):
        written_out = asked(spelled_out(bundle), bundle.data, entry, question)
        as_written = asked(bundle.modules, bundle.data, entry, question)
        assert written_out == as_written


ODD_TEAM = """package rules.{team}

import future.keywords.not

default allow := false

allow if input.{team}.allow

deny := input.{team}.deny

hold := input.{team}.hold

obligation := input.{team}.obligation

label := input.{team}.label

label := "two answers" if input.{team}.label == 7
"""

MISSING = "missing"
ODD: tuple[object, ...] = (MISSING, False, True, None, 0, 7, "", "x", [], ["x"], {}, {"approvers": "group:x"})
SAID = ("deny", "hold", "obligation", "label")
SHAPES = st.fixed_dictionaries({name: st.just(MISSING) | st.sampled_from(ODD) for name in SAID})


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("name", [*SAID, "truncated"])
@pytest.mark.parametrize("teams", [("one",), ("one", "two"), ("two", "one")], ids="-".join)
def test_one_rule_of_any_shape_counts_as_it_does_in_the_library_as_written(
    teams: tuple[str, ...], name: str, value: object
) -> None:
    said = {teams[0]: {name: value}} if name in SAID else {}

    _answers_agree(teams, said, truncated=value if name == "truncated" else MISSING)


@settings(deadline=None, max_examples=100)
@given(one=SHAPES, two=SHAPES, truncated=st.sampled_from(ODD))
def test_rules_of_any_shape_count_together_as_they_do_in_the_library_as_written(
    one: Mapping[str, object], two: Mapping[str, object], truncated: object
) -> None:
    _answers_agree(("one", "two"), {"one": one, "two": two}, truncated=truncated)


def _answers_agree(teams: tuple[str, ...], said: Mapping[str, Mapping[str, object]], *, truncated: object) -> None:
    bundle = bundle_of({"lib.rego": LIBRARY, **{f"{team}.rego": ODD_TEAM.format(team=team) for team in teams}})
    resource = {"type": "tool", "id": "up/x", "properties": _there({"truncated": truncated})}
    question: dict[str, object] = {
        "action": {"name": "mcp.tools.call"},
        "resource": resource,
        "one": {"allow": True},
    }
    for team, values in said.items():
        question[team] = {"allow": team == "one", **_there(values)}

    assert spelled_out(bundle) != bundle.modules
    written_out = asked(spelled_out(bundle), bundle.data, "decision", question)
    assert written_out == asked(bundle.modules, bundle.data, "decision", question)


def _there(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value != MISSING}


@pytest.mark.parametrize(
    "bundle",
    [
        composed("one", data={"rules": {"two": {"deny": ["x"]}}}),
        composed("one", odd='package rules["two-b"]\n\ndeny contains "x" if input.bad\n'),
        composed("one", odd='package rules\n\ntwo := {"deny": ["x"]}\n'),
        composed("one", odd='# package rules.two\npackage\nrules.two\n\ndeny contains "x" if input.bad\n'),
        composed("one", odd="package rules.two.deep\n\nallow if input.good\n"),
        composed("one", odd="package other\n\ntext := `\npackage rules.two\n`\n"),
        composed(),
    ],
    ids=["rules as data", "quoted", "the root", "on two lines", "deep", "in a text", "no team"],
)
def test_anything_out_of_the_ordinary_leaves_the_library_alone(bundle: Bundle) -> None:
    assert spelled_out(bundle) == bundle.modules


def test_a_library_that_somebody_changed_is_left_alone() -> None:
    changed = LIBRARY.replace("not found in nothing", "not found in {false}", 1)
    bundle = bundle_of({"lib.rego": changed, "one.rego": TEAM.format(team="one")})

    assert spelled_out(bundle) == bundle.modules
    assert dict(bundle.modules)["lib.rego"] == changed
