"""Upkeep and erasure go on with what they can do while the embedder or the index cannot be reached."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import anyio
import pytest

from gateway.embedding import EmbeddingRefused, EmbeddingUnavailable
from gateway.memory.keeping import Keeping
from gateway.memory.ports import MemoryUnavailable
from gateway.memory.records import Status
from gateway.memory.sessions import Sessions
from gateway.memory.upkeep import Upkeep
from tests.fake_memory import FakeIndex, FakeMemory
from tests.memory.drafts import ALL, MODEL, REVIEWER, Clock, draft, vector, view_of

pytestmark = pytest.mark.anyio


class Dead:
    """An embedder that cannot answer."""

    name, dimensions = MODEL, 4

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        raise EmbeddingUnavailable("it cannot be reached")


class Picky:
    """An embedder that refuses some words, and whatever comes with them."""

    name, dimensions = MODEL, 4

    def __init__(self, *refused: str) -> None:
        self.refused, self.requests = refused, 0

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        self.requests += 1
        if any(word in text for word in self.refused for text in texts):
            raise EmbeddingRefused("not this")
        return [vector(1, 0, 0, 0) for _ in texts]


class Away(FakeIndex):
    """An index that cannot be reached the first time it is to purge."""

    purged = 0

    async def purge(self, tenant: str) -> None:
        self.purged += 1
        if self.purged == 1:
            raise MemoryUnavailable("it cannot be reached")


def keeping(store: FakeMemory, index: FakeIndex, clock: Clock) -> Keeping:
    ticks = count()
    return Keeping(store, index, Sessions(lambda: float(next(ticks))), clock)


async def test_what_is_over_is_erased_for_every_tenant_while_the_embedder_cannot_be_reached() -> None:
    clock = Clock()
    store = FakeMemory(clock)
    for tenant in ("acme", "globex"):
        await store.add(tenant, draft("over", retain_until_ms=clock.ms))
        await store.add(tenant, draft("stays"))

    with anyio.fail_after(10), pytest.raises(EmbeddingUnavailable):
        await Upkeep(store, keeping(store, FakeIndex(store, model=MODEL), clock), Dead(), {}).once()

    for tenant in ("acme", "globex"):
        found = (await store.page(await view_of(store, tenant, statuses=ALL))).versions
        assert [(one.text, one.status) for one in found] == [("stays", Status.ACTIVE), ("", Status.ERASED)]


async def test_text_that_the_embedder_refuses_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    store = FakeMemory(clock)
    for number in range(150):
        await store.add("acme", draft(f"odd {number}" if number in {3, 4, 149} else f"plain {number}"))
    embedder = Picky("odd")
    upkeep = Upkeep(store, keeping(store, FakeIndex(store, model=MODEL), clock), embedder, {})

    with anyio.fail_after(10):
        await upkeep.once()
        embedder.requests = 0
        await store.add("acme", draft("plain again"))
        await upkeep.once()

    assert [text for _, text in await store.without_vector("acme", MODEL, 10)] == ["odd 3", "odd 4", "odd 149"]
    assert sum("recalled by words alone" in one.message for one in caplog.records) == 3
    assert "odd" not in caplog.text, "what is remembered stays out of the log"
    assert embedder.requests == 1, "what was refused is not asked for again"


async def test_embedder_that_refuses_everything_is_asked_no_more_than_twice() -> None:
    clock = Clock()
    store = FakeMemory(clock)
    for number in range(100):
        await store.add("acme", draft(f"plain {number}"))
    embedder = Picky("plain", "a text")

    with anyio.fail_after(10), pytest.raises(EmbeddingRefused):
        await Upkeep(store, keeping(store, FakeIndex(store, model=MODEL), clock), embedder, {}).once()

    assert embedder.requests == 2


async def test_erasure_that_did_not_reach_the_index_does_when_it_is_asked_for_again() -> None:
    clock = Clock()
    store = FakeMemory(clock)
    index = Away(store, model=MODEL)
    added = await store.add("acme", draft("gone"))
    keeper = keeping(store, index, clock)

    with anyio.fail_after(10):
        with pytest.raises(MemoryUnavailable):
            await keeper.erase_records("acme", [added.record], REVIEWER)
        await keeper.erase_records("acme", [added.record], REVIEWER)

    assert index.purged == 2
