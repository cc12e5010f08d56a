"""Chroma is derived: what it lost is taken from the store, and nobody else writes to it meanwhile."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio
import httpx
import pytest
from anyio import to_thread

from adapters.memory.chroma import ChromaIndex, open_chroma
from adapters.memory.chroma_places import LocalChroma, RemoteChroma
from adapters.memory.sqlite import SqliteMemory, open_memory
from gateway.errors import ConfigError
from gateway.memory.ports import MemoryUnavailable
from tests.memory.drafts import MODEL, REVIEWER, Clock, draft, embedded, vector, view_of

pytestmark = pytest.mark.anyio
NORTH = (1.0, 0.0, 0.0, 0.0)
UNIT = (0.5, -0.5, 0.5, -0.5)
"""Of length 1: any other is another number in Chroma's files."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteMemory]:
    made = await open_memory(tmp_path / "memory.db", clock_ms=Clock())
    with anyio.fail_after(120):
        for number in range(5):
            await made.add("acme", draft(f"text {number}"), embedded(1, number, 0, 0))
        yield made
    await made.aclose()


async def opened(store: SqliteMemory, place: Path) -> ChromaIndex:
    return await open_chroma(store, LocalChroma(place), model=MODEL, dimensions=4)


async def count(store: SqliteMemory, index: ChromaIndex) -> int:
    return len(await index.nearest(await view_of(store), vector(*NORTH), 10))


async def used(store: SqliteMemory, place: Path) -> None:
    """Make an index, and leave it."""
    index = await opened(store, place)
    assert await count(store, index) == 5
    await index.aclose()


async def test_index_that_is_behind_catches_up(store: SqliteMemory, tmp_path: Path) -> None:
    await used(store, tmp_path / "chroma")
    await store.add("acme", draft("text 5"), embedded(*NORTH))

    index = await opened(store, tmp_path / "chroma")

    assert await count(store, index) == 6
    await index.aclose()


@pytest.mark.parametrize("damage", ["garbage", "missing"])
async def test_damaged_index_is_made_again(store: SqliteMemory, tmp_path: Path, damage: str) -> None:
    await used(store, tmp_path / "chroma")
    for file in [path for path in (tmp_path / "chroma").rglob("*") if path.is_file() and path.name != "owner.lock"]:
        file.write_bytes(b"garbage" * 1_000) if damage == "garbage" else file.unlink()

    index = await opened(store, tmp_path / "chroma")

    assert await count(store, index) == 5
    await index.aclose()


async def test_index_of_another_store_is_dropped(store: SqliteMemory, tmp_path: Path) -> None:
    await used(store, tmp_path / "chroma")
    other = await open_memory(tmp_path / "other.db", clock_ms=Clock())
    await other.add("acme", draft("other"), embedded(*NORTH))

    index = await opened(other, tmp_path / "chroma")

    assert await count(other, index) == 1
    assert len([path for path in (tmp_path / "chroma").iterdir() if path.is_dir()]) == 1
    await index.aclose()
    await other.aclose()


async def test_what_was_erased_while_nobody_was_there_is_gone_at_the_start(store: SqliteMemory, tmp_path: Path) -> None:
    added = await store.add("acme", draft("gone"), embedded(0.111, 0.222, 0.333, 0.444))
    index = await opened(store, tmp_path / "chroma")
    assert await count(store, index) == 6
    await index.aclose()
    await store.erase_records("acme", [added.record], REVIEWER)

    index = await opened(store, tmp_path / "chroma")

    files = [path.read_bytes() for path in (tmp_path / "chroma").rglob("*") if path.is_file()]
    assert not any(vector(0.111, 0.222, 0.333, 0.444) in data for data in files)
    assert await count(store, index) == 5
    await index.aclose()


MANY: Final = 1_000
"""So many vectors Chroma writes to the files of an index; fewer wait in its list."""


async def filled(store: SqliteMemory, place: Path) -> str:
    """Make an index that has files; the record of a vector in them."""
    added = await store.add("acme", draft("in a file"), embedded(*UNIT))
    async with anyio.create_task_group() as tasks:
        for number in range(MANY):
            tasks.start_soon(store.add, "acme", draft(f"more {number}"), embedded(1, number % 37, number, number**2))
    index = await opened(store, place)
    assert len(await index.nearest(await view_of(store), vector(*NORTH), 2 * MANY)) == MANY + 6
    await index.aclose()
    assert vector(*UNIT) in file_of(place, "data_level0.bin").read_bytes()
    return added.record


def file_of(place: Path, name: str) -> Path:
    (found,) = place.glob(f"*/*/{name}")
    return found


@pytest.mark.parametrize("lost", ["missing", "empty"])
async def test_vectors_whose_list_is_lost_do_not_stay_in_the_directory(
    store: SqliteMemory, tmp_path: Path, lost: str
) -> None:
    record = await filled(store, tmp_path / "chroma")
    await store.erase_records("acme", [record], REVIEWER)
    for file in (tmp_path / "chroma").glob("*/chroma.sqlite3"):  # a crash after the first file that a drop deletes
        file.unlink() if lost == "missing" else file.write_bytes(b"")

    index = await opened(store, tmp_path / "chroma")

    assert len(await index.nearest(await view_of(store), vector(*NORTH), 2 * MANY)) == MANY + 5
    files = [path.read_bytes() for path in (tmp_path / "chroma").rglob("*") if path.is_file()]
    assert not any(vector(*UNIT) in data for data in files)
    await index.aclose()


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _zeros(data: bytes) -> bytes:
    return bytes(len(data))


def _ones(data: bytes) -> bytes:
    return b"\xff" * len(data)


@pytest.mark.parametrize(
    ("name", "damage"), [("header.bin", _cut), ("link_lists.bin", _zeros), ("data_level0.bin", _ones)]
)
async def test_index_that_would_lead_chroma_out_of_its_memory_is_made_again(
    store: SqliteMemory, tmp_path: Path, name: str, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await filled(store, tmp_path / "chroma")
    await (await opened(store, tmp_path / "chroma")).aclose()
    assert "made again" not in caplog.text, "an index that is whole is kept"
    file = file_of(tmp_path / "chroma", name)
    file.write_bytes(damage(file.read_bytes()))

    index = await opened(store, tmp_path / "chroma")  # this process would end here

    assert len(await index.nearest(await view_of(store), vector(*NORTH), 2 * MANY)) == MANY + 6
    await index.aclose()


async def test_many_of_the_same_vector_hide_no_other(store: SqliteMemory, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(1_000):
            tasks.start_soon(store.add, "acme", draft(f"same {number}", labels=("hidden",)), embedded(0, 0, 1, 0))
    index = await opened(store, tmp_path / "chroma")
    view = await view_of(store)
    narrow = replace(view, classes=frozenset(one for one in view.classes if not one.labels))

    hits = await index.nearest(narrow, vector(0, 0, 1, 0), 10)

    found = await store.fetch(narrow, [hit.row for hit in hits])
    assert sorted(one.text for one in found.values()) == [f"text {number}" for number in range(5)]
    assert len(await index.nearest(view, vector(0, 0, 1, 0), 2_000)) == 1_005
    first = next(iter(found.values()))
    await store.erase_records("acme", [first.record], REVIEWER)
    await index.purge("acme")
    assert len(await index.nearest(narrow, vector(0, 0, 1, 0), 10)) == 4
    await index.aclose()


def test_directory_is_of_one_process(tmp_path: Path) -> None:
    first = LocalChroma(tmp_path)

    with pytest.raises(ConfigError, match="another process"):
        LocalChroma(tmp_path)
    first.close()
    LocalChroma(tmp_path).close()


async def test_question_with_a_vector_of_another_length_is_refused(store: SqliteMemory, tmp_path: Path) -> None:
    index = await opened(store, tmp_path / "chroma")

    with pytest.raises(MemoryUnavailable):
        await index.nearest(await view_of(store), vector(1, 2), 1)
    await index.aclose()


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://x:1/path"])
def test_address_of_a_server_is_checked(url: str) -> None:
    with pytest.raises(ConfigError):
        RemoteChroma(url)


async def test_server_that_is_not_there_is_said_so_when_it_is_asked(store: SqliteMemory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    index = await open_chroma(store, RemoteChroma(f"http://127.0.0.1:{port}"), model=MODEL, dimensions=4)

    with pytest.raises(MemoryUnavailable, match=r"cannot be reached|a moment ago"):
        await count(store, index)
    with pytest.raises(MemoryUnavailable, match="cannot be reached"):
        await index.purge("acme")
    await index.aclose()


async def test_server_that_never_answers_holds_nobody_up_for_ever(store: SqliteMemory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = RemoteChroma(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)
        index = await open_chroma(store, place, model=MODEL, dimensions=4)

        with pytest.raises(MemoryUnavailable):
            await count(store, index)
    await index.aclose()


async def test_directory_is_free_again_when_the_index_could_not_be_opened(store: SqliteMemory, tmp_path: Path) -> None:
    await store.aclose()
    for _ in range(2):
        with pytest.raises(MemoryUnavailable, match="closed"):
            await opened(store, tmp_path / "chroma")


@pytest.mark.slow
async def test_server_serves_and_forgets_as_a_directory_does(store: SqliteMemory, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("chroma"))
    words = [program, "run", "--path", str(tmp_path / "server"), "--host", "127.0.0.1", "--port", str(port)]
    async with await anyio.open_process(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            await answering(port)
            place = RemoteChroma(f"http://127.0.0.1:{port}")
            former = await open_chroma(store, place, model="former-4d", dimensions=4)
            assert await count(store, former) == 0
            index = await open_chroma(store, place, model=MODEL, dimensions=4)
            assert await count(store, index) == 5
            assert len(await to_thread.run_sync(place.names)) == 1

            first = (await store.page(await view_of(store))).versions[0]
            await store.erase_records("acme", [first.record], REVIEWER)
            await index.purge("acme")

            assert await count(store, index) == 4
            await index.aclose()
        finally:
            server.kill()


async def answering(port: int) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                (await client.get(f"http://127.0.0.1:{port}/api/v2/heartbeat")).raise_for_status()
            except httpx.TransportError:
                await anyio.sleep(0.05)
            else:
                return
