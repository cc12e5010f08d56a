"""The values on the path: frozen, bounded, and bound to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import codec
from gateway.errors import InputTooLarge, PermitMismatch
from gateway.types import EMPTY, Authorized, Call, Credentials, Entity, FrozenDict, Identity, Permit, Resource, freeze
from tests.fakes import ANA, BO, permit_for

TOOL = Resource("tool", "files/read", "files", "read")


def a_call(arguments: object = None, **changes: Any) -> Call:
    params = freeze({"name": "read", **({"arguments": arguments} if arguments is not None else {})})
    assert isinstance(params, FrozenDict)
    return replace(Call("c1", "mcp.tools.call", "tools/call", TOOL, params), **changes)


CHANGES: list[Callable[[Any], object]] = [
    lambda d: d.__setitem__("a", 1),
    lambda d: d.__delitem__("a"),
    lambda d: d.__ior__({"a": 1}),
    lambda d: d.clear(),
    lambda d: d.pop("a"),
    lambda d: d.popitem(),
    lambda d: d.setdefault("b", 1),
    lambda d: d.update(a=2),
]


@pytest.mark.parametrize("change", CHANGES)
def test_arguments_do_not_change_once_they_are_part_of_a_call(change: Callable[[Any], object]) -> None:
    source = {"a": {"b": [1, {"c": 2}]}}
    frozen = freeze(source)
    assert isinstance(frozen, FrozenDict)

    with pytest.raises(TypeError, match="part of a call"):
        change(frozen)
    source["a"]["b"].append(3)

    assert frozen == {"a": {"b": (1, {"c": 2})}}
    assert codec.dumps(frozen) == b'{"a":{"b":[1,{"c":2}]}}'
    assert hash(frozen) == hash(freeze({"a": {"b": [1, {"c": 2}]}}))


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def test_arguments_may_be_as_deep_and_many_as_policy_can_be_asked_about() -> None:
    assert freeze(nested(32))
    assert freeze({"a": list(range(2_000))})
    for too_large in (nested(33), {"a": nested(32)}, list(range(2_001)), {str(n): n for n in range(2_001)}):
        with pytest.raises(InputTooLarge):
            freeze(too_large)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(one=st.dictionaries(st.sampled_from("ab"), JSON), two=st.dictionaries(st.sampled_from("ab"), JSON))
def test_calls_have_equal_digests_exactly_when_their_arguments_are_equal(one: Any, two: Any) -> None:
    same = codec.canonical(one) == codec.canonical(two)

    assert (a_call(one).digest == a_call(two).digest) is same
    assert (a_call(one).arguments_digest == a_call(two).arguments_digest) is same


def test_digest_differs_for_every_part_that_a_permit_is_about() -> None:
    calls = [
        a_call({"a": 1}),
        a_call({"a": 1.0}),
        a_call({"a": "1"}),
        a_call(),
        a_call({"a": 1}, action="mcp.prompts.get"),
        a_call({"a": 1}, method="prompts/get"),
        a_call({"a": 1}, resource=replace(TOOL, id="files/write")),
        a_call({"a": 1}, resource=replace(TOOL, upstream="web")),
        a_call({"a": 1}, resource=replace(TOOL, type="prompt")),
        a_call({"a": 1}).with_arguments({"a": 2}),
    ]

    assert len({call.digest for call in calls}) == len(calls)


def test_permit_holds_for_its_own_call_only() -> None:
    call, other = a_call({"a": 1}), a_call({"a": 2})

    assert Authorized(call, ANA, permit_for(call, ANA)).call is call
    with pytest.raises(PermitMismatch):
        Authorized(other, ANA, permit_for(call, ANA))
    with pytest.raises(PermitMismatch):
        Authorized(call, ANA, Permit("d1", ""))
    with pytest.raises(FrozenInstanceError):
        Authorized(call, ANA, permit_for(call, ANA)).call = other  # type: ignore[misc]  # that is the point


def test_call_without_arguments_has_none() -> None:
    assert a_call().arguments is EMPTY
    assert a_call(5).arguments is EMPTY


def test_principals_are_told_apart_by_everything_that_makes_them() -> None:
    people = [
        ANA,
        BO,
        replace(ANA, tenant="other"),
        replace(ANA, issuer="https://id.example.org"),
        replace(ANA, method="jwt"),
        replace(ANA, delegation=("agent:planner",)),
        replace(ANA, subject=Entity("agent", "user:ana")),
    ]

    assert len({identity.principal for identity in people}) == len(people)
    assert len({identity.fingerprint for identity in people}) == len(people)
    assert ANA.fingerprint != replace(ANA, roles=("admin",)).fingerprint
    assert ANA.fingerprint != replace(ANA, on_behalf_of=Entity("user", "user:bo")).fingerprint


def test_policy_is_told_on_whose_behalf_an_agent_acts() -> None:
    agent = Identity(Entity("agent", "a"), on_behalf_of=Entity("user", "u"), delegation=("u", "a"))

    assert agent.question["properties"] == {
        "tenant": "",
        "roles": (),
        "scopes": (),
        "delegation": ("u", "a"),
        "method": "none",
        "issuer": "",
        "on_behalf_of": {"type": "user", "id": "u"},
    }


def test_credentials_do_not_show_their_secret() -> None:
    assert "hunter2" not in repr(Credentials("hunter2", "127.0.0.1"))


@pytest.mark.parametrize("empty", [{}, [], ()], ids=str)
def test_empty_values_count_and_freeze_like_any_other(empty: object) -> None:
    assert freeze([empty]) in (({},), ((),))
    with pytest.raises(InputTooLarge, match="2000 values"):
        freeze([empty] * 2_001)
