"""Starts the servers of this folder for a test.

with http_server("legacy_asker", tmp_path) as server: ...  server.url, server.journal()
command, journal = stdio_server("modern_asker", tmp_path)
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from watchfiles import awatch

from conformance.gateway import ROOT
from conformance.processes import free_port, running
from tests.servers.wire import Message, read_journal


@dataclass(frozen=True, slots=True)
class Started:
    """A server over HTTP, ready for requests."""

    port: int
    record: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    def journal(self) -> list[Message]:
        """What it saw so far (`legacy_asker`, `modern_asker` and `faulty` keep one)."""
        return read_journal(self.record)


@contextmanager
def http_server(name: str, place: Path, *arguments: str) -> Iterator[Started]:
    """Run `tests.servers.NAME` over HTTP until the block ends; its journal and log lie in `place`."""
    port = free_port()
    record = place / f"{name}-{port}.jsonl"
    recording = () if name == "counting" else ("--record", str(record))
    transport = () if name == "counting" else ("http",)
    command = [sys.executable, "-m", f"tests.servers.{name}", *transport, "--port", str(port), *recording, *arguments]
    with running(command, port=port, log=place / f"{name}-{port}.log", cwd=ROOT) as process:
        yield Started(port, record, process)


def stdio_server(name: str, place: Path, *arguments: str) -> tuple[list[str], Path]:
    """The command line of `tests.servers.NAME` over stdio (run it in `ROOT`), and where its journal will be."""
    record = place / f"{name}-stdio.jsonl"
    return [sys.executable, "-m", f"tests.servers.{name}", "stdio", "--record", str(record), *arguments], record


def matching(record: Path, event: str, name: str = "") -> list[Message]:
    """The journal's entries of that kind, of that tool if one is named."""
    entries = [entry for entry in read_journal(record) if entry["event"] == event]
    return [entry for entry in entries if not name or entry.get("name") == name]


async def noted(record: Path, event: str, *, name: str = "", after: int = 0, deadline_s: float = 10) -> Message:
    """The first journal entry of that kind (and tool) after so many others, once it is there. Raises `TimeoutError`."""
    with anyio.fail_after(deadline_s):
        async for _ in awatch(record.parent, yield_on_timeout=True, rust_timeout=100, debounce=50, step=10):
            found = matching(record, event, name)
            if len(found) > after:
                return found[after]
    raise TimeoutError(f"no {event!r} in {record.name}")
