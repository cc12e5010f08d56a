"""Names of the merged view."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.registry import assign_names, merged_name

ALPHABET = "ab_-.0"
upstreams = st.text(ALPHABET, min_size=1, max_size=40) | st.text(min_size=1, max_size=10)
names = st.text(ALPHABET, min_size=1, max_size=60) | st.text(min_size=1, max_size=10)
originals = st.sets(st.tuples(upstreams, names), max_size=12)


@pytest.mark.parametrize(
    ("upstream", "name", "expected"),
    [
        ("github", "create_issue", "github__create_issue"),
        ("a-b", "x-y", "a-b__x-y"),
        ("a", "_b", "a___b"),
        ("a_", "b", "a___b_[0-9a-f]{8}"),
        ("a__b", "c", "a__b__c_[0-9a-f]{8}"),
        ("a", "b.c", "a__b_c_[0-9a-f]{8}"),
        ("a", "b_c_0123abcd", "a__b_c_0123abcd_[0-9a-f]{8}"),
        ("files", "x" * 80, "files__x{48}_[0-9a-f]{8}"),
        ("a", "tool ☃", "a__tool___[0-9a-f]{8}"),
    ],
)
def test_name_in_the_merged_view(upstream: str, name: str, expected: str) -> None:
    assert re.fullmatch(expected, merged_name(upstream, name))


@given(originals)
def test_every_name_is_valid_and_leads_back_to_one_original(pairs: set[tuple[str, str]]) -> None:
    assigned = assign_names(pairs)

    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in assigned)
    assert sorted(assigned.values()) == sorted(pairs)


@given(st.lists(st.tuples(upstreams, names), max_size=12))
def test_order_of_arrival_does_not_matter(pairs: list[tuple[str, str]]) -> None:
    assert assign_names(pairs) == assign_names(reversed(pairs))


@given(originals, originals)
def test_name_never_changes_its_target_when_others_come_and_go(
    before: set[tuple[str, str]], after: set[tuple[str, str]]
) -> None:
    first, second = assign_names(before), assign_names(after)

    assert all(first[name] == second[name] for name in first.keys() & second.keys())
    assert all(
        {original: name for name, original in first.items()}[original]
        == {original: name for name, original in second.items()}[original]
        for original in before & after
    )


def test_even_a_collision_of_the_hash_is_settled_without_regard_to_order() -> None:
    twins = [("up", "x._._.__........__.x"), ("up", "x.____._.____.___..x")]  # found by search: equal in eight digits

    assigned = assign_names(twins)

    assert merged_name(*twins[0]) == merged_name(*twins[1])
    assert assign_names(reversed(twins)) == assigned
    assert {original: len(name) for name, original in assigned.items()} == {
        twins[0]: len(merged_name(*twins[0])),
        twins[1]: len(merged_name(*twins[1])) + 8,
    }
