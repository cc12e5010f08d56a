"""Answers are kept by what policy can see, and errors never."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from adapters.pdp.cached import DENY_TTL_NS, CachedPdp, KeyMaker, NotAKey
from adapters.pdp.projection import Projection
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Answer, Entrypoint
from gateway.types import FrozenDict
from tests.fakes import FakePdp

READS_NAME: Mapping[Entrypoint, Projection] = {
    "decision": Projection((("resource", "name"),)),
    "visible": Projection((("resource", "name"),)),
}


def permits(entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
    return Answer({"decision": True, "context": {"labels": []}}, "r1", "fake")


def denies(entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
    return Answer({"decision": False, "context": {}}, "r1", "fake")


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


async def test_the_same_visible_part_is_asked_only_once() -> None:
    inner = FakePdp(permits)
    pdp = CachedPdp(inner, READS_NAME)

    first = await pdp.evaluate("decision", {"resource": {"name": "a"}, "time": 1})
    second = await pdp.evaluate("decision", {"resource": {"name": "a"}, "time": 2})

    assert len(inner.asked) == 1
    assert not first.cached
    assert second == Answer({"decision": True, "context": {"labels": []}}, "r1", "fake", cached=True)
    assert (pdp.hits, pdp.misses) == (1, 1)


async def test_another_visible_part_is_another_question() -> None:
    inner = FakePdp(permits)
    pdp = CachedPdp(inner, READS_NAME)

    names: list[object] = ["a", "b", None, 1, True, "1", ["a"], [], {}]
    nameless: list[dict[str, object]] = [{}, {"resource": {}}, {"resource": None}]
    for name in names:
        await pdp.evaluate("decision", {"resource": {"name": name}})
    for question in nameless:
        await pdp.evaluate("decision", question)

    assert len(inner.asked) == 9 + 2  # a resource that is nothing reads like a missing one


async def test_entry_points_and_revisions_do_not_share_answers() -> None:
    inner = FakePdp(lambda entrypoint, _: Answer([0] if entrypoint == "visible" else {"decision": True}))
    pdp = CachedPdp(inner, READS_NAME)

    decision = await pdp.evaluate("decision", {})
    visible = await pdp.evaluate("visible", {})

    assert decision.value != visible.value
    assert KeyMaker("decision", "r1", ()).key({}) != KeyMaker("decision", "r2", ()).key({})


async def test_an_impure_policy_is_always_asked() -> None:
    inner = FakePdp(permits)
    pdp = CachedPdp(inner, {"decision": Projection((), ("reads the clock",))})

    await pdp.evaluate("decision", {})
    answer = await pdp.evaluate("decision", {})

    assert len(inner.asked) == 2
    assert not answer.cached


async def test_an_error_is_never_kept() -> None:
    inner = FakePdp(permits)
    inner.fail_with = PolicyEngineUnavailable("gone")
    pdp = CachedPdp(inner, READS_NAME)

    with pytest.raises(PolicyEngineUnavailable):
        await pdp.evaluate("decision", {})
    inner.fail_with = None
    answer = await pdp.evaluate("decision", {})

    assert not answer.cached


async def test_a_denial_is_kept_for_a_second_at_most() -> None:
    clock, inner = Clock(), FakePdp(denies)
    pdp = CachedPdp(inner, READS_NAME, now_ns=clock)

    await pdp.evaluate("decision", {})
    clock.now = DENY_TTL_NS - 1
    within = await pdp.evaluate("decision", {})
    clock.now = DENY_TTL_NS
    after = await pdp.evaluate("decision", {})

    assert (within.cached, after.cached) == (True, False)
    assert DENY_TTL_NS == 1_000_000_000


@pytest.mark.parametrize("value", [{"decision": "yes"}, {"decision": 1}, {}, [], None, "x"])
async def test_what_is_no_permit_is_treated_as_a_denial(value: object) -> None:
    clock, inner = Clock(), FakePdp(lambda *_: Answer(value))
    pdp = CachedPdp(inner, READS_NAME, now_ns=clock)

    await pdp.evaluate("decision", {})
    clock.now = DENY_TTL_NS
    after = await pdp.evaluate("decision", {})

    assert not after.cached


async def test_the_least_recently_used_answer_makes_room() -> None:
    inner = FakePdp(permits)
    pdp = CachedPdp(inner, READS_NAME, max_entries=2)

    for name in ("a", "b", "a", "c", "a", "b"):
        await pdp.evaluate("decision", {"resource": {"name": name}})

    names = [question["resource"]["name"] for _, question in inner.asked]  # type: ignore[index]  # as asked above
    assert names == ["a", "b", "c", "b"]
    assert len(pdp) == 2


async def test_a_purge_forgets_everything() -> None:
    inner = FakePdp(permits)
    pdp = CachedPdp(inner, READS_NAME)

    await pdp.evaluate("decision", {})
    pdp.purge()
    answer = await pdp.evaluate("decision", {})

    assert not answer.cached


async def test_a_large_answer_is_not_kept() -> None:
    pdp = CachedPdp(FakePdp(lambda *_: Answer({"decision": True, "text": "x" * 70_000})), READS_NAME)

    await pdp.evaluate("decision", {})

    assert len(pdp) == 0


async def test_a_changed_hit_does_not_change_what_is_kept() -> None:
    pdp = CachedPdp(FakePdp(permits), READS_NAME)

    await pdp.evaluate("decision", {})
    first = await pdp.evaluate("decision", {})
    assert isinstance(first.value, dict)
    first.value["decision"] = "changed"
    second = await pdp.evaluate("decision", {})

    assert second.value == {"decision": True, "context": {"labels": []}}


async def test_a_question_that_cannot_be_a_key_is_asked() -> None:
    inner = FakePdp(permits)
    pdp = CachedPdp(inner, READS_NAME)

    for question in ({"resource": MappingProxyType({"name": "a"})}, {"resource": {"name": 2**70}}):
        await pdp.evaluate("decision", question)
        await pdp.evaluate("decision", question)

    assert len(inner.asked) == 4


def test_frozen_and_plain_questions_have_one_key() -> None:
    maker = KeyMaker("decision", "", (("a", "b"), ("c",)))

    assert maker.key({"a": {"b": [1]}, "c": {}}) == maker.key(
        FrozenDict({"a": FrozenDict({"b": (1,)}), "c": FrozenDict()})
    )


def test_a_mapping_that_is_no_object_is_not_taken_for_nothing() -> None:
    with pytest.raises(NotAKey):
        KeyMaker("decision", "", (("a", "b"),)).key({"a": MappingProxyType({"b": 1})})


def test_a_policy_that_reads_everything_is_keyed_by_everything() -> None:
    maker = KeyMaker("decision", "", ((),))

    assert maker.key({"a": 1}) != maker.key({"a": 2})
