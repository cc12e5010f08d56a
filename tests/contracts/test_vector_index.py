"""An index finds what is near, of the view only, whatever became of it since: the fake, the exact one and Chroma."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from adapters.memory.chroma import open_chroma
from adapters.memory.chroma_places import LocalChroma
from adapters.memory.exact import ExactIndex
from adapters.memory.sqlite import open_memory
from gateway.memory.ports import MemoryStore, VectorIndex
from gateway.memory.records import Status, View
from tests.fake_memory import FakeIndex, FakeMemory
from tests.memory.drafts import ALL, MODEL, REVIEWER, Clock, draft, embedded, vector, view_of

pytestmark = pytest.mark.anyio
NORTH, EAST = (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)


class Pair:
    """A store, and an index of it."""

    def __init__(self, store: MemoryStore, index: VectorIndex) -> None:
        self.store, self.index = store, index

    async def near(self, view: View | None = None, limit: int = 10) -> list[str]:
        shown = await view_of(self.store) if view is None else view
        hits = await self.index.nearest(shown, vector(*NORTH), limit)
        found = await self.store.fetch(shown, [hit.row for hit in hits])
        assert len(found) == len(hits)
        return [version.text for version in found.values()]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["fake", "exact", "chroma"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Pair]:
    with anyio.fail_after(60):
        if request.param == "fake":
            fake = FakeMemory(clock)
            yield Pair(fake, FakeIndex(fake, model=MODEL))
            return
        store = await open_memory(tmp_path / "memory.db", clock_ms=clock)
        index: VectorIndex = ExactIndex(store, model=MODEL, dimensions=4)
        if request.param == "chroma":
            index = await open_chroma(store, LocalChroma(tmp_path / "chroma"), model=MODEL, dimensions=4)
        yield Pair(store, index)
        await index.aclose()
        await store.aclose()


async def test_nearest_come_first_by_direction_and_not_by_length(pair: Pair) -> None:
    await pair.store.add("acme", draft("north"), embedded(0.1, 0, 0, 0))
    await pair.store.add("acme", draft("north-east"), embedded(9, 9, 0, 0))
    await pair.store.add("acme", draft("east", namespace="other"), embedded(*EAST))
    await pair.store.add("acme", draft("nowhere"))

    assert await pair.near() == ["north", "north-east", "east"]
    assert await pair.near(limit=1) == ["north"]


async def test_what_was_just_written_superseded_or_hidden_is_so_at_once(pair: Pair) -> None:
    assert await pair.near() == []
    first = await pair.store.add("acme", draft("a", valid_from_ms=0), embedded(*NORTH))
    added = await pair.near()
    await pair.store.supersede("acme", first.record, draft("b", valid_from_ms=0), embedded(*EAST))
    superseded = await pair.near()
    await pair.store.set_status("acme", first.record, Status.QUARANTINED, REVIEWER)

    assert (added, superseded, await pair.near()) == (["a"], ["b"], [])
    assert await pair.near(await view_of(pair.store, statuses=frozenset({Status.QUARANTINED}))) == ["b"]
    assert await pair.near(await view_of(pair.store, as_of_recorded_ms=first.recorded_at_ms)) == ["a"]


async def test_valid_time_is_kept_to(pair: Pair) -> None:
    first = await pair.store.add("acme", draft("old", valid_from_ms=0), embedded(*NORTH))
    await pair.store.supersede("acme", first.record, draft("new", valid_from_ms=100), embedded(*NORTH))

    said = [await pair.near(await view_of(pair.store, as_of_valid_ms=moment)) for moment in (-1, 99, 100)]

    assert said == [[], ["old"], ["new"]]


async def test_only_classes_of_the_view_are_ranked_however_far_away_they_are(pair: Pair) -> None:
    for number in range(60):
        await pair.store.add("acme", draft(f"secret {number}", labels=("secret",)), embedded(1, number / 1e4, 0, 0))
    await pair.store.add("acme", draft("open"), embedded(-1, 0, 0, 0))
    view = await view_of(pair.store)

    narrow = replace(view, classes=frozenset(one for one in view.classes if not one.labels))

    assert await pair.near(narrow, limit=1) == ["open"]
    assert await pair.near(replace(view, classes=frozenset())) == []


async def test_another_tenant_has_another_index(pair: Pair) -> None:
    await pair.store.add("acme", draft("mine"), embedded(*NORTH))
    await pair.store.add("globex", draft("theirs"), embedded(*NORTH))
    both = await view_of(pair.store)

    assert await pair.near(both) == ["mine"]
    assert await pair.near(replace(both, tenant="globex")) == ["theirs"]
    assert await pair.near(replace(both, tenant="")) == []


async def test_erased_and_swept_texts_are_gone_and_the_others_stay(pair: Pair, clock: Clock) -> None:
    gone = await pair.store.add("acme", draft("gone"), embedded(*NORTH))
    await pair.store.add("acme", draft("stays"), embedded(*EAST))
    await pair.store.add("acme", draft("over", retain_until_ms=clock.ms + 1), embedded(*EAST))
    assert sorted(await pair.near()) == ["gone", "over", "stays"]
    clock.ms += 1

    await pair.store.erase_records("acme", [gone.record], REVIEWER)
    await pair.store.sweep("acme", {})
    await pair.index.purge("acme")

    assert await pair.near(await view_of(pair.store, statuses=ALL)) == ["stays"]
    await pair.store.add("acme", draft("later"), embedded(*NORTH))
    assert await pair.near() == ["later", "stays"]


async def test_version_that_was_swept_is_not_found_by_the_text_that_a_later_one_has(pair: Pair, clock: Clock) -> None:
    swept = await pair.store.add("acme", draft("kept", valid_from_ms=0), embedded(*NORTH))
    await pair.store.add("acme", draft("further away"), embedded(*EAST))
    then = await view_of(pair.store, as_of_recorded_ms=clock.ms)
    assert await pair.near(then) == ["kept", "further away"]
    clock.ms += 10
    await pair.store.set_status("acme", swept.record, Status.ACTIVE, REVIEWER)
    clock.ms += 10
    await pair.store.add("acme", draft("x"))

    await pair.store.sweep("acme", {"facts": 15})

    assert await pair.near(then, limit=1) == []
    assert await pair.near() == ["kept"]


async def test_vector_that_comes_later_is_found_from_then_on(pair: Pair) -> None:
    await pair.store.add("acme", draft("late"))
    before = await pair.near()
    missing = await pair.store.without_vector("acme", MODEL, 10)

    await pair.store.put_vectors("acme", MODEL, {missing[0][0]: vector(*NORTH)})

    assert (before, await pair.near()) == ([], ["late"])


async def test_vectors_of_another_embedder_are_not_compared(pair: Pair) -> None:
    await pair.store.add("acme", draft("other"), replace(embedded(*NORTH), model="another"))

    assert await pair.near() == []
