"""Whatever JSON a result is: what detectors find never gets out, and what gets out has the shape that came in."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.detectors import all_detectors
from gateway.authz.findings import findings_in, findings_in_json
from gateway.authz.obligations import Redact
from gateway.authz.redaction import CannotRedact, redacted

SECRETS = (
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_" + "a1B2" * 9,
    "sk-ant-api03-q7Xv2LmN8pRt5WzB1cYd",
    "4111 1111 1111 1111",
    "DE89370400440532013000",
    "ana.maria@mail.example.org",
    "+49 30 901820",
)
KINDS = ("secret", "personal_data")
Mode = Literal["mask", "remove"]

plain = st.text(max_size=12)
telling = st.builds(" {} ".join, st.tuples(plain, plain)).flatmap(
    lambda text: st.sampled_from(SECRETS).map(lambda secret: text.replace("{}", secret))
)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | plain | telling


def containers(children: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    objects = st.dictionaries(plain | telling | st.sampled_from(["password", "token"]), children, max_size=4)
    return st.lists(children, max_size=4) | objects | objects.map(json.dumps)


values = st.recursive(leaves, containers, max_leaves=20)


def shape(value: object) -> object:
    """What is left of a value when its texts and names are not looked at."""
    if isinstance(value, dict):
        return ["object", sorted(json.dumps(shape(item)) for item in value.values())]
    if isinstance(value, list):
        return ["list", [shape(item) for item in value]]
    return "leaf"


def erased(value: object, mode: Mode) -> object:
    redaction = Redact("redact", detectors=KINDS, mode=mode)
    return json.loads(redacted(json.dumps(value).encode(), redaction, all_detectors()))


@pytest.mark.parametrize("mode", ["mask", "remove"])
@settings(max_examples=150, deadline=None)
@given(values)
def test_no_secret_gets_out_and_the_shape_stays(mode: Mode, value: object) -> None:
    clean = erased(value, mode)

    written = json.dumps(clean)
    assert not [secret for secret in SECRETS if secret in written]
    assert shape(clean) == shape(value)


@settings(max_examples=150, deadline=None)
@given(values)
def test_in_what_gets_out_nothing_more_is_found(value: object) -> None:
    assert findings_in(erased(value, "mask"), all_detectors()) == []


@settings(max_examples=200, deadline=None)
@given(values)
def test_a_path_leads_to_what_was_found(value: object) -> None:
    for finding in findings_in(value, all_detectors()):
        assert finding["kind"] in KINDS
        assert finding["path"] == "" or finding["path"].startswith("/")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_comes_it_is_read_or_withheld(payload: bytes) -> None:
    findings_in_json(payload, all_detectors())
    try:
        clean = redacted(payload, Redact("redact", detectors=KINDS), all_detectors())
    except CannotRedact:
        return

    json.loads(clean)
