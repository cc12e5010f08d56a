"""What was erased is in no file any more: not in tables, words, vectors, free pages, the log, or Chroma's directory."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from adapters.memory.chroma import open_chroma
from adapters.memory.chroma_files import blank_unused
from adapters.memory.chroma_places import LocalChroma
from adapters.memory.sqlite import SqliteMemory, open_memory
from gateway.memory.records import Scope, Status
from tests.memory.drafts import MODEL, REVIEWER, TOOL, Clock, draft, embedded, vector, view_of

pytestmark = pytest.mark.anyio
MARK = "zqxmarker"
ANA = "user:zqxmarker-ana"
FRESH = 0x5A
MARKED = (0.5, -0.5, 0.5, -0.5)


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


def test_index_has_nothing_in_its_files_that_was_in_memory_by_chance(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.memory.index_child", str(tmp_path)]
    environment = {**os.environ, "MALLOC_PERTURB_": str(0xFF ^ FRESH)}  # glibc: what malloc gives is full of this

    said = [
        subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, timeout=120, check=True).stdout
        for _ in ("a new index", "one that is there")
    ]

    assert said == ["5\n", "10\n"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "data_level0.bin" in {path.name for path in files}
    assert [path.name for path in files if bytes([FRESH]) * 8 in path.read_bytes()] == []


@pytest.mark.parametrize(("header", "words"), [(b"", "cut off"), (bytes([2]) + bytes(99), "unknown way")])
def test_index_of_an_unknown_layout_is_not_touched(tmp_path: Path, header: bytes, words: str) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "header.bin").write_bytes(header)
    (tmp_path / "index" / "data_level0.bin").write_bytes(b"data")

    with pytest.raises(RuntimeError, match=words):
        blank_unused(tmp_path)

    assert (tmp_path / "index" / "data_level0.bin").read_bytes() == b"data"


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
