"""A policy that reads what no question has is told so, with the place and the name that was probably meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.pdp.bundle import Bundle, bundle_of, load_bundle
from adapters.pdp.input_schema import Unknown, read_schema, unknown_references
from tests.pdp.policies import LIBRARY, composed, program_of

POLICIES = Path(__file__).parents[2] / "policies"
SCHEMA = POLICIES / "schemas" / "input.schema.json"
PACKS = sorted({path.parent for path in POLICIES.rglob("*.rego")} - {POLICIES / "lib"})


def unknown(bundle: Bundle) -> Unknown:
    return unknown_references(program_of(bundle), read_schema(SCHEMA))


def of(rules: str) -> Unknown:
    return unknown(composed(rules))


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
def test_the_shipped_policies_read_only_what_questions_have(pack: Path) -> None:
    assert unknown(load_bundle([POLICIES / "lib", pack])) == Unknown()


@pytest.mark.parametrize(
    ("rules", "place", "words"),
    [
        ("allow if input.subjekt.id", (3, 10), "input.subjekt does not exist; did you mean subject?"),
        ("allow if {\n\tinput.resource.properties.argments.x\n}", (4, 2), "did you mean arguments?"),
        ('allow if input.resource["nmae"]', (3, 10), "input.resource.nmae does not exist"),
        ("allow if input.subject.id.name", (3, 10), "input.subject.id is text: it has no parts"),
        ("allow if input.subject.properties.roles.admin", (3, 10), "is a list: it has no .admin"),
        ("allow if input.context.session.lables[_]", (3, 10), "did you mean labels?"),
        ("import input.action as act\n\nallow if act.verb", (5, 10), "input.action.verb does not exist"),
        ("import input.action\n\nallow if action.verb", (5, 10), "input.action.verb does not exist"),
        ("f(x) := input.subject.nme if x\n\nallow if f(1)", (3, 9), "input.subject.nme"),
        ("allow if input.resource.properties.candidates[_].kind", (3, 10), "candidates[_].kind"),
    ],
)
def test_what_does_not_exist_has_its_place_and_a_suggestion(rules: str, place: tuple[int, int], words: str) -> None:
    found = of(rules)

    (one,) = [*found.faults, *found.notes]
    assert (one.file, one.line, one.col) == ("team.rego", *place)
    assert words in one.message


def test_where_the_schema_is_open_it_is_a_note() -> None:
    found = of("allow if input.context.weather")

    assert found.faults == ()
    assert ["input.context.weather is not described" in note.message for note in found.notes] == [True]


@pytest.mark.parametrize(
    "rules",
    [
        "allow if input.resource.properties.arguments.any.thing[3].goes",
        "allow if input.resource.properties.hints.readOnlyHint",
        "allow if input.resource.properties.catalog.labels[_]",
        "allow if input.subject.properties.delegation[0]",
        "allow if { some part in [`id`, `type`]; input.subject[part] }",
        "allow if { some key; input.resource.properties[key].deep.er }",
        "allow if input == {}",
        "allow if object.get(input, `anything`, 1) == 1",
        "allow if { subject := {`nme`: 1}; subject.nme }",
    ],
)
def test_what_may_be_there_is_not_remarked_upon(rules: str) -> None:
    assert of(rules) == Unknown()


def test_rules_that_no_entry_point_asks_are_left_alone() -> None:
    files = {"lib.rego": LIBRARY, "other.rego": "package other\n\nverdict if input.tool\n"}

    assert unknown(bundle_of(files)) == Unknown()


def test_a_package_that_is_asked_about_another_input_is_left_alone() -> None:
    team = "package rules.team\n\nimport data.theirs as them\n\nallow if them.ok with input as {`tool`: 1}\n"
    files = {"lib.rego": LIBRARY, "team.rego": team, "theirs.rego": "package theirs\n\nok if input.tool\n"}

    assert unknown(bundle_of(files)) == Unknown()


def test_a_schema_that_leads_nowhere_forbids_nothing(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"properties": {"a": {"$ref": "#/nowhere"}, "b": {"$ref": "#/properties/b"}}}))

    found = unknown_references(program_of(composed("allow if { input.a.x; input.b.y }")), read_schema(schema))

    assert found == Unknown()


@pytest.mark.parametrize("text", ["[]", "{", "1"])
def test_what_is_no_schema_is_refused(tmp_path: Path, text: str) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(text)

    with pytest.raises(ValueError, match=r"."):
        read_schema(schema)
