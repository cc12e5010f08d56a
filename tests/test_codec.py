"""JSON as it comes in and goes out: strict, exact and with one form for equal values."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from gateway import codec

TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(max_codepoint=0xD7FF)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(max_codepoint=0xD7FF)), inner),
    max_leaves=12,
)


@given(VALUES)
def test_value_comes_back_as_it_was(value: Any) -> None:
    assert codec.loads(codec.dumps(value)) == value


@given(VALUES)
def test_canonical_form_does_not_depend_on_the_order_of_members(value: Any) -> None:
    shuffled = json.loads(json.dumps(value), object_pairs_hook=lambda pairs: dict(reversed(pairs)))

    assert codec.canonical(shuffled) == codec.canonical(value)


@given(PLAIN)
def test_canonical_form_of_plain_values_is_that_of_rfc_8785(value: Any) -> None:
    assert codec.canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, 10**30, -(2**63) - 1, -(10**30), 10**300])
def test_large_whole_numbers_stay_exact(number: int) -> None:
    raw = b'{"n":%d,"a":1}' % number

    value = codec.loads(raw)

    assert value == {"n": number, "a": 1}
    assert codec.dumps(value) == raw
    assert codec.canonical(value) == b'{"a":1,"n":%d}' % number


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"NaN",
        b"[Infinity]",
        b'"\\ud800"',
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{'a':1}",
        b"01",
        b"[1,]",
        b"1" * 5_000,
        b"[" * 3_000 + b"]" * 3_000,
        b"[" * 900 + b"1" * 20 + b"]" * 901,
        b'{"n":' * 100_000,
    ],
)
def test_what_is_no_json_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        codec.loads(raw)


def test_large_number_deep_inside_is_read_or_refused_but_never_crashes() -> None:
    for depth in (10, 500, 1_000, 1_020, 1_024, 2_000):
        raw = b"[" * depth + b"9" * 25 + b"]" * depth
        try:
            assert codec.loads(raw)
        except ValueError:
            continue
