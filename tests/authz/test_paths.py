"""Paths reach what they say and nothing else; nothing that is not a path is taken for one."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.authz.paths import MAX_STEPS, JsonPath, Wildcard, parse_path, replace_at

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
STEPS = st.lists(st.sampled_from([".a", ".b", "['c']", "[0]", "[1]", "[*]", ".*"]), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("$.a", ("a",)),
        ("$.a.b_c-d", ("a", "b_c-d")),
        ("$.rows[*].email", ("rows", Wildcard.EVERY, "email")),
        ("$['a b']['c.d']", ("a b", "c.d")),
        ('$["a"][0][10]', ("a", 0, 10)),
        ("$.*", (Wildcard.EVERY,)),
        ("$.größe", ("größe",)),
    ],
)
def test_a_path_is_read_as_it_is_written(text: str, steps: tuple[object, ...]) -> None:
    path = parse_path(text)

    assert path == JsonPath(text, path.steps)
    assert path.steps == steps


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$",
        "a",
        "$a",
        "$.",
        "$..a",
        "$.a.",
        "$[",
        "$[]",
        "$[-1]",
        "$[01]",
        "$[1:2]",
        "$[?@.a]",
        "$['a",
        "$['']",
        "$.a b",
        "$.0",
        " $.a",
        "$.a ",
        "$.a\n",
        "$[1234567890]",
        "$" + ".a" * (MAX_STEPS + 1),
        "$." + "a" * 512,
    ],
)
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a path"):
        parse_path(text)


@given(st.text(max_size=40))
def test_any_text_is_a_path_or_refused(text: str) -> None:
    try:
        path = parse_path("$" + text)
    except ValueError:
        return

    assert path.steps


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("$.a", {"a": 1, "b": 2}, {"a": "x", "b": 2}),
        ("$.a[*].b", {"a": [{"b": 1}, {"c": 2}, 3]}, {"a": [{"b": "x"}, {"c": 2}, 3]}),
        ("$[*]", {"a": 1, "b": [2]}, {"a": "x", "b": "x"}),
        ("$[1]", [1, 2], [1, "x"]),
        ("$[0].a", {"0": {"a": 1}}, {"0": {"a": 1}}),
        ("$.a", [1], [1]),
        ("$.a.b", {"a": "text"}, {"a": "text"}),
        ("$[5]", [1], [1]),
        ("$.*.*", {"a": [1, 2], "b": 3}, {"a": ["x", "x"], "b": 3}),
    ],
)
def test_a_path_replaces_what_it_reaches(path: str, before: object, after: object) -> None:
    value = copy.deepcopy(before)

    changed = replace_at(value, parse_path(path), lambda _: "x")

    assert value == after
    assert changed is (before != after)


@given(JSON, STEPS)
def test_following_any_path_over_any_value_never_fails(value: object, steps: list[str]) -> None:
    path = parse_path("$" + "".join(steps))

    replace_at(value, path, lambda _: "x")

    assert replace_at(value, path, lambda old: old) in (True, False)
