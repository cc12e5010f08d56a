"""Writes to a memory on a full disk (a limit on the size of files) until it is refused, then with room again."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import anyio

from adapters.memory.sqlite import open_memory
from gateway.memory.ports import MemoryUnavailable
from tests.memory.drafts import Clock, draft

LIMIT = 1_000_000


async def main(file: Path) -> None:
    """Three lines: the numbers that were kept, what was said of the next one, the number kept when there was room."""
    store = await open_memory(file, clock_ms=Clock())
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, most))
    kept, refused = list[str](), ""
    for number in range(1_000):
        try:
            await store.add("acme", draft(f"{number:<8}{'x' * 10_000}"))
        except MemoryUnavailable as exc:
            refused = str(exc)
            break
        kept.append(str(number))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    await store.add("acme", draft("after"))
    await store.aclose()
    sys.stdout.write(f"{' '.join(kept)}\n{refused}\nafter\n")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
