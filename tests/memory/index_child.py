"""Makes an index of a few vectors in Chroma, asks it, and ends."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from adapters.memory.chroma import open_chroma
from adapters.memory.chroma_places import LocalChroma
from adapters.memory.sqlite import open_memory
from tests.memory.drafts import MODEL, Clock, draft, embedded, vector, view_of


async def main(place: Path) -> None:
    """One line: how many were found."""
    store = await open_memory(place / "memory.db", clock_ms=Clock())
    index = await open_chroma(store, LocalChroma(place / "chroma"), model=MODEL, dimensions=4)
    for number in range(5):
        await store.add("acme", draft(f"text {number}"), embedded(1, number, 0, 0))
    found = await index.nearest(await view_of(store), vector(1, 0, 0, 0), 10)
    await index.aclose()
    await store.aclose()
    sys.stdout.write(f"{len(found)}\n")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
