"""The `Mcp-*` headers, written and checked as the protocol's own library does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import (
    decode_header_value,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    validate_mcp_param_headers,
    x_mcp_header_map,
)

from gateway.headers import annotations_of, decode_value, encode_value, param_headers, param_mismatch

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(st.text())
def test_header_values_are_encoded_as_the_library_does(value: str) -> None:
    try:
        expected = encode_header_value(value)
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            encode_value(value)
        return

    assert encode_value(value) == expected
    assert decode_value(expected) == decode_header_value(expected) == value


@given(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
    | st.from_regex(r"=\?base64\?[A-Za-z0-9+/=]*\?=", fullmatch=True)
)
def test_header_values_are_decoded_as_the_library_does(value: str) -> None:
    assert decode_value(value) == decode_header_value(value)


@given(st.text(st.characters(exclude_characters="".join(map(chr, [9, *range(0x20, 0x7F)]))), min_size=1))
def test_header_value_with_characters_that_may_not_stand_there_equals_nothing(value: str) -> None:
    assert decode_value(value) is None


SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "boolean", "number", "object", ["string"]])},
        optional={"x-mcp-header": st.sampled_from(["Region", "region", "Tier", "", "a b", "é", 5])},
    ),
    lambda inner: st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "properties": st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3) | st.just([]),
            "items": inner,
            "oneOf": st.lists(inner, max_size=2) | inner,
            "$defs": st.dictionaries(st.sampled_from(["d"]), inner, max_size=1),
            "if": inner,
            "default": inner,
        },
    ),
    max_leaves=5,
)
VALUES: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.just(2**60 + 1)
    | st.sampled_from([1.0, 1.5, -0.0, 1e300, 1e16])
    | TEXT
    | st.just([])
)


@given(schema=SCHEMAS | JSON)
def test_annotations_are_judged_as_the_library_does(schema: Any) -> None:
    invalid = find_invalid_x_mcp_header(schema)

    try:
        found = annotations_of(schema)
    except ValueError:
        assert invalid is not None
        return

    assert invalid is None
    assert {path: token for path, token, _ in found} == x_mcp_header_map(schema)


def annotated(token: str) -> st.SearchStrategy[Any]:
    """A property that is mirrored into a header."""
    return st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "boolean"]), "x-mcp-header": st.just(token)}
    )


USABLE = st.fixed_dictionaries(
    {"type": st.just("object")},
    optional={
        "properties": st.fixed_dictionaries(
            {"a": annotated("Region")},
            optional={
                "b": st.fixed_dictionaries({"properties": st.fixed_dictionaries({"c": annotated("Tier")})}),
                "c": st.just({"type": "number"}),
            },
        )
    },
)
MIRRORED = st.fixed_dictionaries(
    {}, optional={"a": VALUES, "b": st.fixed_dictionaries({}, optional={"c": VALUES}) | VALUES, "c": VALUES}
)
SENT = st.dictionaries(
    st.sampled_from(["mcp-param-region", "mcp-param-tier", "mcp-param-other"]),
    st.sampled_from(["1", "1.0", "1.5", "-0", "true", "", "=?base64?w6k=?=", "=?base64?!?=", "1e300", "x", "01", "1."]),
)


@given(schema=USABLE, arguments=MIRRORED)
def test_arguments_are_mirrored_as_the_library_does(schema: Any, arguments: dict[str, Any]) -> None:
    expected = mcp_param_headers(x_mcp_header_map(schema), arguments)

    found = param_headers(annotations_of(schema), arguments)

    assert {name.decode(): value.decode() for name, value in found} == expected


@given(schema=USABLE, arguments=MIRRORED, sent=SENT, honest=st.booleans())
def test_parameter_headers_are_compared_as_the_library_does(
    schema: Any, arguments: dict[str, Any], sent: dict[str, str], honest: bool
) -> None:
    annotations = annotations_of(schema)
    if honest:
        sent = {name.decode().lower(): value.decode() for name, value in param_headers(annotations, arguments)}
    expected = validate_mcp_param_headers(schema, arguments, sent)

    found = param_mismatch(annotations, arguments, sent)

    assert (found is None) == (expected is None)
    assert found is None or not honest


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"x-mcp-header": "A"}, "no chain"),
        ({"items": {"type": "string", "x-mcp-header": "A"}}, "no chain"),
        ({"properties": {"a": {"type": "string", "x-mcp-header": "A B"}}}, "not an HTTP token"),
        ({"properties": {"a": {"type": "number", "x-mcp-header": "A"}}}, "needs type"),
        ({"properties": {"a": {"type": ["string"], "x-mcp-header": "A"}}}, "needs type"),
        ({"properties": {n: {"type": "string", "x-mcp-header": h} for n, h in (("a", "A"), ("b", "a"))}}, "used twice"),
    ],
)
def test_annotation_that_cannot_hold_says_why(schema: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        annotations_of(schema)


@pytest.mark.parametrize(
    "value", ["=?base64?YQ?=", "=?base64?YR==?=", "=?base64?!!!!?=", "=?base64?/w==?=", "=?base64?é?="]
)
def test_sentinel_that_is_not_the_one_way_to_write_a_text_equals_nothing(value: str) -> None:
    assert decode_value(value) is None


def test_input_schema_beyond_all_measure_is_refused() -> None:
    schema: dict[str, Any] = {"properties": {f"p{n}": {} for n in range(10_001)}}

    with pytest.raises(ValueError, match="too large"):
        annotations_of(schema)


@pytest.mark.parametrize("value", [2**53 + 1, -(2**70)])
def test_whole_numbers_beyond_floats_are_compared_exactly(value: int) -> None:
    annotations = annotations_of({"properties": {"n": {"type": "integer", "x-mcp-header": "N"}}})

    assert param_mismatch(annotations, {"n": value}, {"mcp-param-n": f"{value}.0"}) is None
    assert param_mismatch(annotations, {"n": value}, {"mcp-param-n": str(value + 1)}) is not None


def test_header_of_a_tab_and_text_may_stand_as_it_is() -> None:
    annotations = annotations_of({"properties": {"t": {"type": "string", "x-mcp-header": "T"}}})

    assert param_mismatch(annotations, {"t": "a\tb"}, {"mcp-param-t": "a\tb"}) is None
    assert param_mismatch(annotations, {"t": "a\x01b"}, {"mcp-param-t": "a\x01b"}) is not None
