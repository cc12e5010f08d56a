"""Answers are given again where policy says so, to the one who got them, for what they were asked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from adapters.embedders.hashing import Hashing
from gateway.authz.obligations import obligations_in
from gateway.authz.reading import UnsupportedObligation
from gateway.embedding import EmbeddingUnavailable
from gateway.errors import UpstreamUnavailable
from gateway.routing.answers import Answers, Cached, Kept
from gateway.routing.likeness import alike
from gateway.types import Call, Entity, Identity, Obligation, Permit, Result, Ruling, Usage
from tests.fakes import ANA, BO, permit_for
from tests.routing_calls.world import World, said

pytestmark = pytest.mark.anyio

EXACT = Obligation("cache", {"mode": "exact", "ttl_s": 60})
SEMANTIC = Obligation("cache", {"mode": "semantic", "ttl_s": 60, "similarity": 0.9})


def caching(world: World, obligation: Obligation = EXACT, revision: str = "r1", *more: Obligation) -> World:
    """Have every call be permitted with this obligation."""

    def decide(call: Call, identity: Identity) -> Permit:
        permit = permit_for(call, identity)
        return replace(permit, obligations=(obligation, *more), ruling=Ruling("d1", revision))

    world.decider.decide_with = decide
    return world


async def test_nothing_is_kept_unless_policy_says_so() -> None:
    world = World()

    await world.ask("small/one")
    await world.ask("small/one")

    assert (len(world.small.seen), len(world.answers)) == (2, 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["small/one", "auto"])
async def test_the_same_question_gets_the_same_answer_for_nothing(model: str, stream: bool) -> None:
    world = caching(World())
    first = await world.ask(model, stream=stream)
    events = list(world.exchange.events)
    world.exchange.events.clear()
    world.clock.now += 5

    again = await world.ask(model, stream=stream)

    assert world.asked in ((1, 0, 0), (0, 1, 0))
    assert again.payload == first.payload
    assert world.exchange.events == events
    assert again.usage == Usage()
    assert dict(again.headers)[b"x-interlock-cache"] == b"hit; mode=exact; age_s=5.0"
    assert world.trail.records[-1].notes is not None
    assert world.trail.records[-1].notes["cache"] == {"hit": True, "mode": "exact", "age_s": 5.0}


async def test_an_answer_is_not_given_again_once_the_catalogue_was_read_anew() -> None:
    world = caching(World())
    await world.ask("small/one")
    world.generation += 1

    await world.ask("small/one")

    assert len(world.small.seen) == 2


OTHER_TENANT = replace(ANA, tenant="other")
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "the same person in another tenant": {"by": OTHER_TENANT},
    "another person of the tenant": {"by": BO},
    "the same person with another role": {"by": replace(ANA, roles=("analyst", "admin"))},
    "the same person through an agent": {"by": replace(ANA, delegation=("agent:x",))},
    "the same person for somebody": {"by": replace(ANA, on_behalf_of=Entity("user", "user:cy"))},
    "another issuer's": {"by": replace(ANA, issuer="https://else.example")},
    "other words": {"text": "Ho"},
    "another temperature": {"temperature": 0.1},
    "a stream": {"stream": True},
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "another model": {"model": "large/one"},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("obligation", [EXACT, SEMANTIC], ids=["exact", "semantic"])
async def test_no_answer_goes_to_anybody_else_or_for_anything_else(
    obligation: Obligation, other: Mapping[str, Any]
) -> None:
    world = caching(World(), obligation)
    semantics(world)
    await world.ask("small/one")

    result = await world.ask(**{"model": "small/one", **other})

    assert len(world.small.seen) + len(world.large.seen) == 2
    assert b"x-interlock-cache" not in dict(result.headers)


async def test_other_labels_another_policy_and_another_narrowing_are_another_question() -> None:
    world = caching(World())
    await world.ask("small/one")
    world.labels = ("untrusted",)
    await world.ask("small/one")
    world.labels = ()
    caching(world, EXACT, "r2")
    await world.ask("small/one")
    caching(world, EXACT, "r1", Obligation("model", {"max_tokens": 9}))
    await world.ask("small/one")

    assert len(world.small.seen) == 4


async def test_an_answer_is_as_old_as_each_permit_allows() -> None:
    world = caching(World())
    await world.ask("small/one")
    world.clock.now += 59
    await world.ask("small/one")
    caching(world, Obligation("cache", {"mode": "exact", "ttl_s": 30}))
    await world.ask("small/one")

    assert len(world.small.seen) == 2


async def test_failures_and_broken_streams_are_not_kept() -> None:
    world = caching(World())
    world.small.steps = [UpstreamUnavailable("down")]
    with pytest.raises(UpstreamUnavailable):
        await world.ask("small/one")

    await world.ask("small/one")

    assert len(world.small.seen) == 2


async def test_what_is_kept_passes_policy_anew() -> None:
    world = caching(World())
    await world.ask("small/one")
    world.decider.inspect_with = lambda _, result: replace(result, payload=b'{"redacted": true}')

    again = await world.ask("small/one")

    assert again.payload == b'{"redacted": true}'


def semantics(world: World, embedder: Any = None) -> None:
    """Have questions compared by their vectors."""
    made = embedder or Hashing()
    cached = Cached(world.carrier, world.answers, lambda _, __: world.labels, lambda: made, now_s=world.clock)
    world.pipeline._upstream_for = lambda _: cached  # the path is made before the embedder


async def test_nearly_the_same_words_get_the_same_answer_and_the_head_says_how_near() -> None:
    world = caching(World(), SEMANTIC)
    semantics(world)
    await world.ask("small/one", text="what is the capital city of the country of france")

    result = await world.ask("small/one", text="what is the capital city of the country of france please")

    assert said(result) == "small says"
    assert len(world.small.seen) == 1
    assert dict(result.headers)[b"x-interlock-cache"].startswith(b"hit; mode=semantic; age_s=0.0; similarity=0.9")


UNLIKE = [
    ("transfer 10 euros to my savings account today", "transfer 100 euros to my savings account today"),
    ("should i take this medicine with a meal", "should i not take this medicine with a meal"),
    ("tell me everything about Paris in winter", "tell me everything about Lyon in winter"),
    ("what does the flag `--force` do to my branch", "what does the flag `--soft` do to my branch"),
    ("is a + b even when both are odd numbers", "is a * b even when both are odd numbers"),
    ("did my sister pay my brother back last week", "did my brother pay my sister back last week"),
    ("how many dogs did Alice give to Bob in spring", "how many dogs did Bob give to Alice in spring"),
    ("what is 10 minus 4 in the end", "what is 4 minus 10 in the end"),
    ("send ten thousand euros to my savings account today", "send ten million euros to my savings account today"),
    ("should i increase my dose of this drug tonight", "should i decrease my dose of this drug tonight"),
    ("how do i make a good stew of one whole 🐖 at home", "how do i make a good stew of one whole 🐄 at home"),
    ("如何治疗猫的发烧？", "如何治疗狗的发烧？"),
    ("is it true for ∀ of them in this case or not", "is it true for ∃ of them in this case or not"),
    ("what does it print:\nfor i in x:\n    a()\n    b()", "what does it print:\nfor i in x:\n    a()\nb()"),
    ("what does the pattern (ab)c match in a text", "what does the pattern [ab]c match in a text"),
    ("what does the pattern a? match in a long text", "what does the pattern a. match in a long text"),
    ("does it print if (!flag) is what i write there", "does it print if (flag) is what i write there"),
    ("turn this word round for me: " + "ab" * 60, "turn this word round for me: " + "ba" * 60),
    ("WHO is responsible for public health in a country", "Who is responsible for public health in a country"),
]


@pytest.mark.parametrize(("one", "other"), UNLIKE)
async def test_other_numbers_names_signs_and_negations_are_another_question(one: str, other: str) -> None:
    world = caching(World(), SEMANTIC)
    semantics(world)

    await world.ask("small/one", text=one)
    await world.ask("small/one", text=other)

    assert len(world.small.seen) == 2
    assert not alike(one, other)


@pytest.mark.parametrize("text", ["a" * 600, "A" * 600, "a@" * 300, '"' * 600, "\n" * 600, ". " * 300, "é" * 600])
def test_no_text_takes_long_to_compare(text: str) -> None:
    before = time.thread_time()

    for _ in range(100):
        alike(text, text)

    assert time.thread_time() - before < 0.25


class Broken:
    """Has no vectors."""

    name, dimensions = "broken", 8

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        raise EmbeddingUnavailable("gone")


async def test_without_vectors_only_the_very_question_is_answered_again() -> None:
    world = caching(World(), SEMANTIC)
    semantics(world, Broken())

    await world.ask("small/one")
    await world.ask("small/one")

    assert len(world.small.seen) == 1


def test_memory_is_bounded_and_whoever_has_most_loses_first() -> None:
    answers = Answers(now_s=lambda: 0.0, max_bytes=20_000)
    kept = Kept(Result(b"x" * 2_000), (), 0.0)
    answers.keep("little", b"k", b"", kept)
    for number in range(50):
        answers.keep("much", f"{number}".encode(), b"near", kept)

    assert answers.size <= 20_000
    assert answers.exact("little", b"k", 60) is not None
    assert answers.exact("much", b"0", 60) is None
    assert answers.exact("much", b"49", 60) is not None
    assert answers.exact("other", b"49", 60) is None


GOOD = [
    ([{"ttl_s": 9}], {"mode": "exact", "ttl_s": 9}),
    ([{"mode": "semantic", "ttl_s": 9}, {"ttl_s": 90}], {"mode": "exact", "ttl_s": 9}),
    (
        [{"mode": "semantic", "ttl_s": 9, "similarity": 0.95}, {"mode": "semantic", "ttl_s": 7}],
        {"mode": "semantic", "ttl_s": 7, "similarity": 0.97},
    ),
]


@pytest.mark.parametrize(("given", "merged"), GOOD)
def test_several_obligations_are_the_strictest_of_all(
    given: Sequence[Mapping[str, object]], merged: Mapping[str, object]
) -> None:
    (found,) = obligations_in([{"type": "cache", "properties": each} for each in given])

    assert found.properties == merged


BAD = [{}, {"ttl_s": 0}, {"ttl_s": 9, "mode": "near"}, {"ttl_s": 9, "similarity": 0.99}, {"ttl_s": True},
       {"ttl_s": 9, "mode": "semantic", "similarity": 0.5}, {"ttl_s": 9, "more": 1}]  # fmt: skip


@pytest.mark.parametrize("properties", BAD)
def test_what_cannot_be_carried_out_is_no_permit(properties: Mapping[str, object]) -> None:
    with pytest.raises(UnsupportedObligation, match="cache"):
        obligations_in([{"type": "cache", "properties": properties}])
