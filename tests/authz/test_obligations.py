"""Obligations are read strictly, and several of one type become the strictest."""

from __future__ import annotations

import pytest

from gateway.authz.egress import Egress
from gateway.authz.isolation import Sandbox
from gateway.authz.narrowing import CannotNarrow, merge_narrowings, narrow, narrowing_of
from gateway.authz.obligations import (
    SUPPORTED_OBLIGATIONS,
    Audit,
    Label,
    Rate,
    Redact,
    Supported,
    Transform,
    obligations_in,
)
from gateway.authz.reading import UnsupportedObligation
from gateway.types import EMPTY, FrozenDict, freeze
from tests.authz.makers import obligation


def one(kind: str, **properties: object) -> Supported:
    (read,) = obligations_in([obligation(kind, **properties)])
    return read


def test_each_type_is_read() -> None:
    redact = one("redact", paths=["$.a", "$.a"], patterns=["email"], pattern="secret")
    rate = one("rate", limit=3, window_s=60, key="team")
    audit = one("audit", durable=True)
    label = one("label", labels=["pii"])
    transform = one("transform", path="$.a", max=1)

    assert isinstance(one("sandbox", level="vm"), Sandbox)
    assert isinstance(one("egress", max_s=1), Egress)
    assert isinstance(redact, Redact)
    assert redact.properties == {"paths": ["$.a"], "patterns": ["email", "secret"]}
    assert isinstance(rate, Rate)
    assert (rate.limit, rate.window_s, rate.key) == (3, 60, "team")
    assert isinstance(audit, Audit)
    assert audit.properties == {"durable": True, "arguments": False}
    assert isinstance(label, Label)
    assert label.labels == ("pii",)
    assert isinstance(transform, Transform)
    others = {"audit", "cap", "egress", "label", "rate", "redact", "sandbox", "transform"}
    assert set(SUPPORTED_OBLIGATIONS) >= others
    assert list(SUPPORTED_OBLIGATIONS) == sorted(SUPPORTED_OBLIGATIONS)


def test_what_detectors_find_is_masked_unless_it_is_to_be_removed() -> None:
    assert one("redact", detectors=["secret", "secret"]).properties == {
        "paths": [],
        "patterns": [],
        "detectors": ["secret"],
        "mode": "mask",
    }


def test_of_several_caps_and_redactions_the_strictest_holds() -> None:
    merged = obligations_in(
        [
            obligation("cap", max_bytes=900),
            obligation("redact", detectors=["secret"], mode="remove"),
            obligation("redact", paths=["$.a"], detectors=["personal_data"]),
            obligation("cap", max_bytes=500),
        ]
    )

    assert [item.properties for item in merged] == [
        {"paths": ["$.a"], "patterns": [], "detectors": ["secret", "personal_data"], "mode": "remove"},
        {"max_bytes": 500},
    ]


def test_audit_needs_no_properties() -> None:
    assert obligations_in([{"type": "audit", "id": "o1"}]) == (
        Audit("audit", {"durable": False, "arguments": False}, False, False),
    )


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "redact",
        [],
        {},
        {"type": None},
        {"type": "redact"},
        {"type": "model", "properties": {}},
        {"type": "sandbox", "properties": {}},
        {"type": "egress", "properties": {}},
        {"type": ["redact"]},
        {"type": "audit", "properties": None},
        {"type": "audit", "properties": []},
        {"type": "audit", "when": 1},
    ],
)
def test_what_is_no_supported_obligation_is_refused(entry: object) -> None:
    with pytest.raises(UnsupportedObligation):
        obligations_in([entry])


@pytest.mark.parametrize("entries", [None, "redact", 1, {}, [{"type": "audit"}] * 65])
def test_what_is_no_list_of_obligations_is_refused(entries: object) -> None:
    with pytest.raises(UnsupportedObligation, match="obligations must be a list"):
        obligations_in(entries)


@pytest.mark.parametrize(
    ("kind", "properties"),
    [
        ("redact", {}),
        ("redact", {"paths": []}),
        ("redact", {"paths": ["a"]}),
        ("redact", {"paths": [1]}),
        ("redact", {"paths": [""]}),
        ("redact", {"paths": {"$.a": 1}}),
        ("redact", {"paths": ["$.a"] * 257}),
        ("redact", {"patterns": ["phone"]}),
        ("redact", {"pattern": 1}),
        ("redact", {"path": "$.a"}),
        ("redact", {"detectors": []}),
        ("redact", {"detectors": ["phone"]}),
        ("redact", {"detectors": ["unscanned"]}),
        ("redact", {"detectors": ["secret"], "mode": "hide"}),
        ("redact", {"detectors": ["secret"], "mode": ["mask"]}),
        ("redact", {"paths": ["$.a"], "mode": "mask"}),
        ("cap", {}),
        ("cap", {"max_bytes": 0}),
        ("cap", {"max_bytes": 1.5}),
        ("cap", {"max_bytes": (1 << 30) + 1}),
        ("cap", {"max_bytes": 1, "texts": 1}),
        ("rate", {}),
        ("rate", {"limit": 1}),
        ("rate", {"limit": 0, "window_s": 1}),
        ("rate", {"limit": True, "window_s": 1}),
        ("rate", {"limit": 1.5, "window_s": 1}),
        ("rate", {"limit": 30_001, "window_s": 1}),
        ("rate", {"limit": 1, "window_s": 86_401}),
        ("rate", {"limit": 1, "window_s": 1, "key": 1}),
        ("rate", {"limit": 1, "window_s": 1, "key": "x" * 257}),
        ("audit", {"durable": 1}),
        ("audit", {"arguments": "yes"}),
        ("audit", {"level": "full"}),
        ("label", {}),
        ("label", {"labels": [""]}),
        ("label", {"labels": ["x" * 65]}),
        ("transform", {}),
        ("transform", {"path": "$.a"}),
        ("transform", {"path": "$.a", "max": 1, "remove": True}),
        ("transform", {"path": "$.a", "min": 1}),
        ("transform", {"max": 1, "remove": True}),
        ("transform", {"path": 1, "max": 1}),
        ("transform", {"path": "a", "max": 1}),
        ("transform", {"path": "$.a[0]", "max": 1}),
        ("transform", {"path": "$.a[*]", "max": 1}),
        ("transform", {"path": "$.a", "max": True}),
        ("transform", {"path": "$.a", "max": "1"}),
        ("transform", {"path": "$.a", "remove": False}),
        ("transform", {"path": "$.a", "remove": 1}),
        ("transform", {"path": "$.a", "allow": "x"}),
        ("transform", {"path": "$.a", "allow": {"x": 1}}),
    ],
)
def test_malformed_properties_are_refused(kind: str, properties: dict[str, object]) -> None:
    with pytest.raises(UnsupportedObligation):
        one(kind, **properties)


def test_several_of_one_type_become_the_strictest() -> None:
    merged = obligations_in(
        [
            obligation("rate", limit=9, window_s=60),
            obligation("rate", limit=3, window_s=60),
            obligation("rate", limit=5, window_s=60),
            obligation("rate", limit=100, window_s=3_600),
            obligation("redact", paths=["$.a"]),
            obligation("redact", paths=["$.b", "$.a"], patterns=["email"]),
            obligation("audit", durable=True),
            obligation("audit", arguments=True),
            obligation("label", labels=["a", "b"]),
            obligation("label", labels=["b", "c"]),
            obligation("transform", path="$.limit", max=10),
            obligation("transform", path="$.limit", max=5),
        ]
    )

    assert [item.properties for item in merged] == [
        {"limit": 3, "window_s": 60, "key": ""},
        {"limit": 100, "window_s": 3_600, "key": ""},
        {"paths": ["$.a", "$.b"], "patterns": ["email"]},
        EMPTY,
        {"durable": True, "arguments": True},
        {"labels": ["a", "b", "c"]},
    ]
    transforms = [item for item in merged if isinstance(item, Transform)]
    assert [narrowing.most for narrowing in transforms[0].narrowings] == [5]


def narrowed(arguments: object, *properties: dict[str, object]) -> dict[str, object]:
    frozen = freeze(arguments)
    assert isinstance(frozen, FrozenDict)
    return narrow(frozen, merge_narrowings(narrowing_of(one) for one in properties))


@pytest.mark.parametrize(
    ("arguments", "properties", "expected"),
    [
        ({"limit": 500, "q": "x"}, {"path": "$.limit", "max": 100}, {"limit": 100, "q": "x"}),
        ({"limit": 5}, {"path": "$.limit", "max": 100}, {"limit": 5}),
        ({}, {"path": "$.limit", "max": 100}, {"limit": 100}),
        ({}, {"path": "$.page.limit", "max": 100}, {"page": {"limit": 100}}),
        ({"limit": 2.5}, {"path": "$.limit", "max": 1.5}, {"limit": 1.5}),
        ({"x": 1}, {"path": "$.x", "value": None}, {"x": None}),
        ({}, {"path": "$.x", "value": {"a": [1]}}, {"x": {"a": [1]}}),
        ({"x": 1, "y": 2}, {"path": "$.x", "remove": True}, {"y": 2}),
        ({"y": 2}, {"path": "$.x", "remove": True}, {"y": 2}),
        ({"y": 2}, {"path": "$.x.z", "remove": True}, {"y": 2}),
        ({"x": {"z": 1}}, {"path": "$.x.z", "remove": True}, {"x": {}}),
        ({"f": ["a", "b", 1]}, {"path": "$.f", "allow": ["a", "c"]}, {"f": ["a"]}),
        ({"f": "a"}, {"path": "$.f", "allow": ["a"]}, {"f": "a"}),
        ({"f": {"k": 1}}, {"path": "$.f", "allow": [{"k": 1}]}, {"f": {"k": 1}}),
    ],
)
def test_arguments_are_narrowed(
    arguments: dict[str, object], properties: dict[str, object], expected: dict[str, object]
) -> None:
    assert narrowed(arguments, properties) == expected


@pytest.mark.parametrize(
    ("arguments", "properties"),
    [
        ({"limit": "500"}, {"path": "$.limit", "max": 100}),
        ({"limit": True}, {"path": "$.limit", "max": 100}),
        ({"limit": None}, {"path": "$.limit", "max": 100}),
        ({"page": 1}, {"path": "$.page.limit", "max": 100}),
        ({"page": 1}, {"path": "$.page.limit", "remove": True}),
        ({}, {"path": "$.f", "allow": ["a"]}),
        ({"f": "b"}, {"path": "$.f", "allow": ["a"]}),
        ({"f": 1}, {"path": "$.f", "allow": [True]}),
    ],
)
def test_what_cannot_be_narrowed_is_refused(arguments: dict[str, object], properties: dict[str, object]) -> None:
    with pytest.raises(CannotNarrow, match=r"the argument \$\."):
        narrowed(arguments, properties)


def test_arguments_that_are_no_object_cannot_be_narrowed() -> None:
    with pytest.raises(CannotNarrow, match="no arguments"):
        narrow([1], [])  # type: ignore[arg-type]  # what a later protocol might bring


def test_narrowings_of_one_path_merge_to_the_strictest() -> None:
    arguments = {"n": 50, "f": ["a", "b", "c"], "x": 1, "v": 0}

    result = narrowed(
        arguments,
        {"path": "$.n", "max": 10},
        {"path": "$.n", "max": 20},
        {"path": "$.f", "allow": ["a", "b"]},
        {"path": "$.f", "allow": ["b", "c"]},
        {"path": "$.x", "value": 5},
        {"path": "$.x", "remove": True},
        {"path": "$.v", "value": 99},
        {"path": "$.v", "max": 7},
        {"path": "$.v", "value": 99},
    )

    assert result == {"n": 10, "f": ["b"], "v": 7}


@pytest.mark.parametrize(
    "properties",
    [
        [{"path": "$.x", "value": 1}, {"path": "$.x", "value": 2}],
        [{"path": "$.a", "remove": True}, {"path": "$.a.b", "max": 1}],
        [{"path": "$.a.b", "max": 1}, {"path": "$.a", "value": {}}],
    ],
)
def test_narrowings_that_contradict_each_other_are_refused(properties: list[dict[str, object]]) -> None:
    with pytest.raises(UnsupportedObligation):
        obligations_in([obligation("transform", **each) for each in properties])
