"""A process that keeps an audit log until it is killed: prints the id of each call once its record is acknowledged."""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

import anyio

from gateway.audit.journal import Journal
from gateway.audit.log import AuditLog
from tests.audit.records import SMALL_SEGMENTS, a_record


async def main(data: Path, first: int) -> None:
    """Durable calls from several tasks, others in between, small segments so that kills meet rotations too."""
    journal = Journal(AuditLog.open(data, limits=SMALL_SEGMENTS))
    numbers = count(first)

    async def caller() -> None:
        for number in numbers:
            await journal.commit(a_record(number))
            os.write(1, f"call-{number}\n".encode())
            journal.record(a_record(1_000_000_000 + number))

    async with anyio.create_task_group() as group:
        await group.start(journal.run)
        for _ in range(8):
            group.start_soon(caller)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
