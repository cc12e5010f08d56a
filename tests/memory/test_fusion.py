"""Hybrid recall finds what either finds, best what both find, and goes on without the embedder."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from gateway.embedding import EmbeddingUnavailable
from gateway.memory.fusion import fuse, hybrid
from gateway.memory.ports import MemoryUnavailable
from gateway.memory.records import Hit, View
from tests.fake_memory import FakeIndex, FakeMemory
from tests.memory.drafts import MODEL, Clock, draft, embedded, vector, view_of


class Compass:
    """An embedder that knows two words."""

    name, dimensions = MODEL, 4

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        return [vector(1, 0, 0, 0) if "north" in text else vector(0, 1, 0, 0) for text in texts]


class Dead(Compass):
    """One that cannot answer."""

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        raise EmbeddingUnavailable("the model is missing")


class BrokenIndex(FakeIndex):
    """One that cannot answer."""

    async def nearest(self, view: View, vector: bytes, limit: int) -> Sequence[Hit]:
        raise MemoryUnavailable("the index cannot answer")


class BrokenMemory(FakeMemory):
    """One that cannot answer."""

    async def lexical(self, view: View, query: str, limit: int) -> Sequence[Hit]:
        raise MemoryUnavailable("the store cannot answer")


async def memory() -> FakeMemory:
    store = FakeMemory(Clock())
    await store.add("acme", draft("the north wind"), embedded(1, 0, 0, 0))
    await store.add("acme", draft("arctic cold"), embedded(0.9, 0.1, 0, 0))
    await store.add("acme", draft("true north lies elsewhere"))
    return store


def test_ranks_are_summed_and_equals_keep_their_order() -> None:
    fused = fuse([[1, 2, 3], [3, 4]], k=20)

    assert list(fused) == [3, 1, 2, 4]
    assert fused[3] == pytest.approx(1 / 23 + 1 / 21)


@pytest.mark.anyio
async def test_what_both_find_stands_before_what_one_finds() -> None:
    store = await memory()

    with anyio.fail_after(5):
        found = await hybrid(store, FakeIndex(store, model=MODEL), Compass(), await view_of(store), "north wind")

    assert (found[0].version.text, found[0].by_words, found[0].by_meaning) == ("the north wind", 1, 1)
    assert {one.version.text for one in found} == {"the north wind", "arctic cold", "true north lies elsewhere"}


@pytest.mark.anyio
async def test_words_alone_are_found_while_the_embedder_is_gone() -> None:
    store = await memory()

    with anyio.fail_after(5):
        found = await hybrid(store, FakeIndex(store, model=MODEL), Dead(), await view_of(store), "wind", limit=1)

    assert [(one.version.text, one.by_meaning) for one in found] == [("the north wind", 0)]


@pytest.mark.anyio
async def test_words_alone_are_found_while_the_index_cannot_answer() -> None:
    store = await memory()

    with anyio.fail_after(5):
        found = await hybrid(store, BrokenIndex(store, model=MODEL), Compass(), await view_of(store), "wind")

    assert [(one.version.text, one.by_meaning) for one in found] == [("the north wind", 0)]


@pytest.mark.anyio
async def test_store_that_cannot_answer_is_an_error_of_its_own_name() -> None:
    store = BrokenMemory(Clock())
    await store.add("acme", draft("the north wind"))

    with anyio.fail_after(5), pytest.raises(MemoryUnavailable, match="the store"):
        await hybrid(store, BrokenIndex(store, model=MODEL), Compass(), await view_of(store), "north")
