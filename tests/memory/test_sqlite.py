"""What only a real file can get wrong: its mode, its release, writers that come together, its end."""

from __future__ import annotations

import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from adapters.memory.sqlite import SqliteMemory, open_memory
from gateway.errors import ConfigError
from gateway.memory.ports import MemoryConflict, MemoryUnavailable
from gateway.memory.records import Reach, Status, Version
from tests.memory.drafts import ALL, REVIEWER, Clock, draft, view_of

pytestmark = pytest.mark.anyio


async def test_only_its_owner_may_read_the_files(tmp_path: Path) -> None:
    store = await open_memory(tmp_path / "state" / "memory.db", clock_ms=Clock())
    await store.add("acme", draft("x"))

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}

    assert modes == dict.fromkeys(["memory.db", "memory.db-wal", "memory.db-shm"], 0o600)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    await store.aclose()


async def test_memory_is_as_it_was_after_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    first = await open_memory(tmp_path / "memory.db", clock_ms=clock)
    added = await first.add("acme", draft("x"))
    await first.aclose()

    second = await open_memory(tmp_path / "memory.db", clock_ms=clock)

    assert await second.get(await view_of(second), added.record) == added
    await second.aclose()


async def test_file_of_a_newer_release_or_of_something_else_is_left_alone(tmp_path: Path) -> None:
    newer, other = tmp_path / "newer.db", tmp_path / "other.db"
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version=99")
    other.write_bytes(b"this is a text, and no database at all" * 100)

    for file in (newer, other, tmp_path):
        with pytest.raises(ConfigError, match=r"\.db|restore|pytest"):
            await open_memory(file, clock_ms=Clock())
    assert other.read_bytes().startswith(b"this is a text")


async def test_file_that_is_opened_again_keeps_its_log_when_another_process_closes_it(tmp_path: Path) -> None:
    file = tmp_path / "memory.db"
    store = await open_memory(file, clock_ms=Clock())
    await (await open_memory(file, clock_ms=Clock())).aclose()
    write = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('PRAGMA user_version'); d.close()"

    with anyio.fail_after(30):
        await anyio.run_process([sys.executable, "-c", write, str(file)])
    added = await store.add("acme", draft("x"))
    other = await open_memory(file, clock_ms=Clock())
    found = await other.get(await view_of(other), added.record)
    await store.aclose()
    await other.aclose()

    assert found == added


async def test_one_of_many_writers_that_fails_harms_no_other(tmp_path: Path) -> None:
    store = await open_memory(tmp_path / "memory.db", clock_ms=Clock())
    done: list[Version | MemoryConflict] = []

    async def write(number: int) -> None:
        try:
            done.append(await store.add("acme", draft(str(number), key="same" if number % 2 else "")))
        except MemoryConflict as exc:
            done.append(exc)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(write, number)

    kept = [one for one in done if isinstance(one, Version)]
    assert (len(done), len(kept)) == (100, 51)
    assert len((await store.page(await view_of(store), limit=200)).versions) == 51
    await store.aclose()


async def test_two_processes_worth_of_stores_share_a_file(tmp_path: Path) -> None:
    clock = Clock()
    one, two = [await open_memory(tmp_path / "memory.db", clock_ms=clock) for _ in range(2)]

    with anyio.fail_after(20):
        added = await one.add("acme", draft("x"))
        await two.supersede("acme", added.record, draft("y"))

    found = await one.get(await view_of(one), added.record)
    assert found is not None
    assert found.text == "y"
    for store in (one, two):
        await store.aclose()


async def test_what_was_just_written_is_seen_though_the_clock_went_back(tmp_path: Path) -> None:
    clock = Clock()
    store = await open_memory(tmp_path / "memory.db", clock_ms=clock)
    first = await store.add("acme", draft("before"))
    clock.ms -= 500_000

    second = await store.supersede("acme", first.record, draft("after"))

    assert second.recorded_at_ms > first.recorded_at_ms
    assert await store.get(await view_of(store), first.record) == second
    await store.aclose()


@pytest.mark.parametrize("query", ["common rare", "common", "common other"])
async def test_filter_that_hides_the_best_matches_shows_the_next_ones(tmp_path: Path, query: str) -> None:
    store = await open_memory(tmp_path / "memory.db", clock_ms=Clock())
    for number in range(60):
        await store.add("acme", draft("common", labels=("hidden",)))
        if number % 20 == 0:
            await store.add("acme", draft(f"common but in a longer text, so it is worse: {number}"))
    view = await view_of(store)
    narrow = await view_of(store, classes=frozenset(one for one in view.classes if not one.labels))

    hits = await store.lexical(narrow, query, 5)

    assert len(hits) == 3
    await store.aclose()


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Die Straße ist lang", "straße"),
        ("cafe\u0301s are open", "cafe\u0301s"),
        ("cafe\u0301s are open", "CAFÉS"),
        ("\u0130stanbul", "\u0130stanbul"),
        ("the \ufb01ne print", "\ufb01ne"),
        ("ΟΔΟΣ", "οδος"),
        ("a snake_case_name", "snake_case_name"),
    ],
)
async def test_words_of_every_script_are_found_as_they_are_written(tmp_path: Path, text: str, query: str) -> None:
    store = await open_memory(tmp_path / "memory.db", clock_ms=Clock())
    await store.add("acme", draft(text))

    assert len(await store.lexical(await view_of(store), query, 5)) == 1
    await store.aclose()


async def test_word_that_was_asked_for_before_anybody_wrote_it_is_found_in_a_large_memory(tmp_path: Path) -> None:
    store = await open_memory(tmp_path / "memory.db", clock_ms=Clock())
    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            for number in range(4_100):
                tasks.start_soon(store.add, "acme", draft(f"filler {number}"))
        before = await store.lexical(await view_of(store), "filler archaeopteryx", 5)
        written = await store.add("acme", draft("An archaeopteryx"))

        hits = await store.lexical(await view_of(store), "filler archaeopteryx", 5)

        found = await store.fetch(await view_of(store), [hit.row for hit in hits])
    assert len(before) == 5
    assert written in found.values()
    await store.aclose()


async def test_memory_whose_file_cannot_be_opened_says_so_and_goes_on_once_it_can(tmp_path: Path) -> None:
    file = tmp_path / "memory.db"
    await (await open_memory(file, clock_ms=Clock())).aclose()
    away = file.rename(tmp_path / "away.db")
    file.mkdir()
    store = SqliteMemory(file, clock_ms=Clock(), new_id=lambda: "mem-1")
    with anyio.fail_after(20):
        with pytest.raises(MemoryUnavailable):
            await store.add("acme", draft("x"))
        file.rmdir()
        away.rename(file)

        assert (await store.add("acme", draft("x"))).record == "mem-1"
        await store.aclose()


async def test_full_disk_refuses_what_it_cannot_keep_and_loses_nothing_that_it_kept(tmp_path: Path) -> None:
    file = tmp_path / "memory.db"
    words = [sys.executable, "-m", "tests.memory.full_disk_child", str(file)]
    with anyio.fail_after(60):
        done = await anyio.run_process(words)
    kept, refused, after = done.stdout.decode().split("\n")[:3]
    store = await open_memory(file, clock_ms=Clock())

    texts = {one.text[:8].strip() async for one in store.everything(await view_of(store))}

    assert set(kept.split()) | {after} == texts
    assert refused == "the memory cannot answer now: see the gateway's log"
    assert b"memory: " in done.stderr
    await store.aclose()


async def test_everything_is_of_one_moment_whatever_is_written_while_it_is_read(tmp_path: Path) -> None:
    store = await open_memory(tmp_path / "memory.db", clock_ms=Clock())
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(1_100):
                tasks.start_soon(store.add, "acme", draft(str(number), valid_from_ms=0))
        view = await view_of(store, statuses=ALL)
        before = [one async for one in store.everything(view)]

        reading = aiter(store.everything(view))
        read = [await anext(reading)]
        await store.supersede("acme", before[-1].record, draft("corrected", valid_from_ms=0))
        await store.set_status("acme", before[-2].record, Status.RETRACTED, REVIEWER)
        read += [one async for one in reading]

    assert read == before
    await store.aclose()


async def test_closed_memory_says_so(tmp_path: Path) -> None:
    store: SqliteMemory = await open_memory(tmp_path / "memory.db", clock_ms=Clock())
    await store.aclose()

    with pytest.raises(MemoryUnavailable):
        await store.add("acme", draft("x"))
    with pytest.raises(MemoryUnavailable):
        await store.classes("acme", Reach(whole=True))
    await store.aclose()
