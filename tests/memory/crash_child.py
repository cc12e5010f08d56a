"""Writes to a memory until it is killed, and says each time what was acknowledged."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import anyio

from adapters.memory.sqlite import SqliteMemory, open_memory
from tests.memory.drafts import REVIEWER, draft, embedded


async def main(file: Path) -> None:
    """One line for each acknowledged write: the version's id, and its text."""
    store = await open_memory(file, clock_ms=lambda: time.time_ns() // 1_000_000)
    async with anyio.create_task_group() as tasks:
        for writer in range(4):
            tasks.start_soon(write, store, writer)


async def write(store: SqliteMemory, writer: int) -> None:
    for number in range(1_000_000):
        text = f"word{writer}x{number} of writer {writer}"
        version = await store.add("acme", draft(text), embedded(1, writer, number, 1))
        say(version.id, text)
        if number % 3 == 0:
            version = await store.supersede("acme", version.record, draft(f"{text} again"), embedded(2, number, 1, 1))
            say(version.id, f"{text} again")
        if number % 50 == 49:
            await store.erase_records("acme", [version.record], REVIEWER)
            say(version.id, "")


def say(name: str, text: str) -> None:
    sys.stdout.write(f"{name}\t{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
