"""kill -9 at any moment loses nothing that was acknowledged, and the index is made again from what is there."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from adapters.memory.exact import ExactIndex
from adapters.memory.sqlite import open_memory
from gateway.memory.records import Status, Version
from tests.memory.drafts import ALL, MODEL, Clock, vector, view_of

pytestmark = pytest.mark.anyio


def killed(file: Path, acknowledged: int) -> dict[str, str]:
    """What a writer was told, that is killed while it does more: after so many lines, and what it said meanwhile."""
    words = [sys.executable, "-m", "tests.memory.crash_child", str(file)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(acknowledged)]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.readlines()
    whole = [line.rstrip("\n").split("\t") for line in said if line.endswith("\n")]
    return {line[0]: line[1] for line in whole}


async def check(file: Path, told: dict[str, str]) -> None:
    """Everything that was acknowledged is there, and is found by words and by meaning."""
    store = await open_memory(file, clock_ms=Clock())
    kept = {one.id: one async for one in store.everything(await view_of(store, statuses=ALL))}
    assert [name for name, text in told.items() if name not in kept or lost(kept[name], text)] == []
    view = await view_of(store)
    index = ExactIndex(store, model=MODEL, dimensions=4)
    near = await store.fetch(view, [hit.row for hit in await index.nearest(view, vector(1, 1, 1, 1), 10**6)])
    active = {one.id for one in kept.values() if holds(one)}
    assert {version.id for version in near.values()} == active
    last = next(one for one in reversed(kept.values()) if one.id in active)
    hits = await store.lexical(view, last.text.split()[0], 100)
    assert last in (await store.fetch(view, [hit.row for hit in hits])).values()
    await store.aclose()
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.execute("INSERT INTO words_1(words_1, rank) VALUES ('integrity-check', 1)")


def holds(version: Version) -> bool:
    """Whether it is what its record says now."""
    return version.superseded_at_ms is None and version.valid_to_ms is None and version.status is Status.ACTIVE


def lost(version: Version, text: str) -> bool:
    """A version may have been erased when nobody could be told any more."""
    return version.text != text and version.status is not Status.ERASED


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.slow)])
async def test_no_acknowledged_write_is_lost_wherever_the_writer_is_killed(tmp_path: Path, rounds: int) -> None:
    file, told, chance = tmp_path / "memory.db", dict[str, str](), random.Random(rounds)
    with anyio.fail_after(30 * rounds):
        for _ in range(rounds):
            told |= await to_thread.run_sync(killed, file, chance.randrange(1, 120))

            await check(file, told)
