"""What was erased is in no file any more: not in tables, words, vectors, free pages, the log, or Chroma's directory."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from adapters.memory.chroma import open_chroma
from adapters.memory.chroma_places import LocalChroma
from adapters.memory.sqlite import SqliteMemory, open_memory
from gateway.memory.records import Scope, Status
from tests.memory.drafts import MODEL, REVIEWER, TOOL, Clock, draft, embedded, vector, view_of

pytestmark = pytest.mark.anyio
MARK = "zqxmarker"
ANA = "user:zqxmarker-ana"
MARKED = (0.123456, 0.654321, 0.987654, -0.456789)


def traces(place: Path) -> dict[str, int]:
    """How often the mark, or its vector, is in each file."""
    found: dict[str, int] = {}
    for path in sorted(place.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            count = data.count(MARK.encode()) + data.count(vector(*MARKED))
            found |= {str(path.relative_to(place)): count} if count else {}
    return found


async def fill(store: SqliteMemory) -> None:
    """Many records of many sizes, a few of them about Ana, changed in every way there is."""
    chance = random.Random(7)
    for number in range(300):
        filler = " ".join(chance.choices(["alpha", "beta", "gamma", "delta"], k=chance.randrange(1, 300)))
        if number % 10:
            await store.add("acme", draft(filler, key=f"k{number}"), embedded(*(chance.random() for _ in range(4))))
            continue
        source = replace(TOOL, ref=f"{MARK}/tool", on_behalf_of=ANA)
        about = draft(
            f"{MARK}{number} {filler}", key=f"{MARK}-{number}", subjects=(ANA,), labels=(MARK,), source=source
        )
        added = await store.add("acme", about, embedded(*MARKED))
        await store.supersede("acme", added.record, replace(about, text=f"{filler} {MARK}"), embedded(*MARKED))
        await store.set_status("acme", added.record, Status.QUARANTINED, replace(source, session=ANA), note=MARK)
    await store.add("acme", draft("written for Ana", source=replace(TOOL, on_behalf_of=ANA)))
    await store.add("acme", draft("Ana's own", scope=Scope.AGENT, owner=ANA))


async def test_nothing_of_a_subject_is_left_in_any_file(tmp_path: Path) -> None:
    with anyio.fail_after(120):
        store = await open_memory(tmp_path / "memory.db", clock_ms=Clock())
        index = await open_chroma(store, LocalChroma(tmp_path / "chroma"), model=MODEL, dimensions=4)
        await fill(store)
        view = await view_of(store)
        assert len(await index.nearest(view, vector(*MARKED), 500)) > 200
        assert len(traces(tmp_path)) >= 2

        erased = await store.erase_subject("acme", ANA, REVIEWER)
        await index.purge("acme")

        assert (len(erased.records), traces(tmp_path)) == (31, {})
        assert len(await index.nearest(await view_of(store), vector(*MARKED), 500)) == 270
        assert len(await store.lexical(view, "alpha", 500)) > 200
        await index.aclose()
        await store.aclose()
    assert traces(tmp_path) == {}


async def test_erasure_that_a_crash_interrupted_is_finished_at_the_next_start(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        file = tmp_path / "memory.db"
        await (await open_memory(file, clock_ms=Clock())).aclose()
        with closing(sqlite3.connect(file)) as other:  # deleted without care, as if the process ended before the care
            other.execute("PRAGMA secure_delete=OFF")
            other.execute("CREATE TABLE junk(text TEXT)")
            other.executemany("INSERT INTO junk VALUES (?)", [(MARK * 50,)] * 50)
            other.execute("DROP TABLE junk")
            other.execute("UPDATE meta SET value = 1 WHERE name = 'unclean'")
            other.commit()

        before = traces(tmp_path)

        await (await open_memory(file, clock_ms=Clock())).aclose()

    assert before
    assert traces(tmp_path) == {}


async def test_swept_texts_leave_no_trace_either(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        clock = Clock()
        store = await open_memory(tmp_path / "memory.db", clock_ms=clock)
        await store.add("acme", draft(f"{MARK} is over", retain_until_ms=clock.ms), embedded(*MARKED))

        await store.sweep("acme", {})

        assert traces(tmp_path) == {}
        await store.aclose()
