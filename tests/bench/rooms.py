"""A driver that works here, with places for its boxes."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

import anyio

from gateway.boxes import Program
from gateway.errors import SandboxFailure
from sandboxes.boxes import new_uid
from sandboxes.cgroups import Cgroups
from sandboxes.driver import Driver, Place, Probe
from sandboxes.spec import BoxSpec, Limits

Start: TypeAlias = Callable[[], Awaitable[Program]]

ANSWER_S: Final = 180.0
"""An emulated machine takes its time."""
END_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Room:
    """One driver, what its probe said, and a directory."""

    driver: Driver
    probe: Probe
    directory: Path
    cgroups: Cgroups

    @property
    def name(self) -> str:
        """The driver's."""
        return self.driver.name

    @asynccontextmanager
    async def place(self, spec: BoxSpec) -> AsyncIterator[Place]:
        """A place for one box, which is ended in the block; made before anything is timed."""
        box_id = f"bench-{secrets.token_hex(6)}"
        own = self.directory / box_id
        own.mkdir(mode=0o700, parents=True)
        joined = self.cgroups.make(box_id, self._limits(spec))
        try:
            yield Place(box_id, own, new_uid(), joined.procs, joined.directories)
        finally:
            self.cgroups.sweep(box_id)

    def _limits(self, spec: BoxSpec) -> Limits:
        limits, own = spec.limits, self.driver.overhead
        return replace(
            limits,
            memory_bytes=limits.memory_bytes + own.memory_bytes,
            processes=limits.processes + own.processes,
        )


async def ended(program: Program) -> None:
    """End a box: nothing of it runs on beside what is measured next."""
    program.kill()
    with anyio.move_on_after(END_S, shield=True):
        await program.wait()


async def answer_to(program: Program, line: bytes) -> bytes:
    """Send one line and read the one that answers it. Raises `InterlockError` and `TimeoutError`."""
    with anyio.fail_after(ANSWER_S):
        await program.send(line, deadline_s=ANSWER_S)
        said = await heard(program)
        while not said.endswith(b"\n"):
            said += await heard(program)
    return said


async def heard(program: Program) -> bytes:
    """What it says next. Raises `SandboxFailure` at its end."""
    said = await program.receive()
    if not said:
        raise SandboxFailure(program.obituary())
    return said


def reaper_of(place: Place) -> int:
    """The supervisor of the box that runs there (`sandboxes/host/reaper.py`, the lock)."""
    return int((place.directory / "lock").read_text(encoding="ascii"))


def interpreter() -> str:
    """The Python that every box with the host's base has. Raises `SandboxFailure`."""
    path = "/usr/bin/python3"
    if not os.path.exists(path):
        raise SandboxFailure(f"there is no {path}; install python3")
    return path
