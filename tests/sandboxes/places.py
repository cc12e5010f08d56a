"""Places for boxes to be started in by tests, what came out of a box, and a gateway that is not root."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import pytest

from gateway.boxes import Program
from sandboxes.cgroups import Cgroups
from sandboxes.driver import Driver, Place
from sandboxes.host.plan import Jail, Mount
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.spec import BoxSpec, Limits

ROOT: Final = Path(__file__).parents[2]
NOBODY: Final = 65534
_FIRST_UID: Final = 1_900_000_000
_UIDS: Final = 100_000_000


def new_uid() -> int | None:
    """A host user that no other test has, where we may choose one."""
    return _FIRST_UID + secrets.randbelow(_UIDS) if os.geteuid() == 0 else None


def as_root_only() -> int:
    """A host user for a jail. Skips the test where there is no choice."""
    uid = new_uid()
    if uid is None:
        pytest.skip("needs root: only root may choose the user of a box")
    return uid


@asynccontextmanager
async def a_place(
    directory: Path, egress: Path | None = None, limits: Limits | None = None, *, cgroups: bool = True
) -> AsyncIterator[Place]:
    """A place of its own below `directory`; limited by cgroups where they can be had. Its box must end within it.

    Whatever is at `egress` has to let the box's user connect, as the gateway's own egress sockets do.
    """
    box_id = f"test-{secrets.token_hex(6)}"
    own = directory / box_id
    own.mkdir(mode=0o700, parents=True)
    kept = Cgroups.found() if cgroups else Cgroups(())
    joined = kept.make(box_id, limits or Limits())
    try:
        yield Place(box_id, own, new_uid(), joined.procs, joined.directories, egress)
    finally:
        kept.sweep(box_id)


async def output_of(driver: Driver, spec: BoxSpec, place: Place, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Run it to its end: exit status, standard output, standard error. Has to be done within 60 seconds.

    Its input stays open, so what reads it has to know where to stop.
    """
    with anyio.fail_after(60):
        async with await driver.start(spec, place) as program:
            if stdin:
                await program.send(stdin, deadline_s=10)
            output = await all_of(program)
            return await program.wait(), output, program.stderr


async def all_of(program: Program) -> bytes:
    """Its standard output to the end."""
    pieces = bytearray()
    while piece := await program.receive():
        pieces += piece
    return bytes(pieces)


async def as_nobody(script: str, directory: Path, *arguments: str) -> tuple[int, bytes, str]:
    """Run a Python script of ours as an unprivileged user, who sees our Python and our source, and owns `directory`.

    Itself in a jail, so that it works wherever the two are: a user's home is closed to others. Needs root.
    """
    as_root_only()
    os.chown(directory, NOBODY, NOBODY)
    with anyio.fail_after(60):
        async with await ChildProcess.start(_as_nobody(script, directory, arguments)) as child:
            output = await all_of(child)
            return await child.wait(), output, child.stderr


def _as_nobody(script: str, directory: Path, arguments: tuple[str, ...]) -> ProcessSpec:
    sites = [path for path in sys.path if path.endswith("-packages") and os.path.isdir(path)]
    seen = {"python": sys.base_prefix, "source": str(ROOT)} | {f"site{i}": path for i, path in enumerate(sites)}
    mounts = {name: Mount(name, "bind", source, read_only=True) for name, source in seen.items()}
    own, python = Mount("own", "bind", str(directory)), mounts["python"].path
    executable = os.path.relpath(os.path.realpath(sys.executable), sys.base_prefix)
    env = {
        "PYTHONPATH": ":".join(mount.path for name, mount in mounts.items() if name != "python"),
        "LD_LIBRARY_PATH": f"{python}/lib",
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "OWN": own.path,
    }
    jail = Jail(uid=NOBODY, mounts=(*mounts.values(), own))
    return ProcessSpec((f"{python}/{executable}", "-c", script, *arguments), env, jail=jail)
