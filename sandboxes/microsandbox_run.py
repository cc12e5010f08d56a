"""Runs one program in a microVM, its standard streams being ours: `python microsandbox_run.py PLAN`.

Runs as the box's user, under the reaper: when this process ends, so does its machine. Imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any, Protocol

from microsandbox import (  # type: ignore[import-not-found,unused-ignore]  # an optional extra
    ExecEventType,
    Image,
    MicrosandboxError,
    Network,
    Rlimit,
    RlimitResource,
    Sandbox,
    SecurityProfile,
    Stdin,
    Volume,
    VsockRoute,
)

_CHUNK = 65536
_NOT_STARTED = 127


class Sink(Protocol):
    """The program's standard input."""

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class Event(Protocol):
    """Something that the program wrote, or its end."""

    @property
    def event_type(self) -> str: ...

    @property
    def data(self) -> bytes | None: ...

    @property
    def code(self) -> int | None: ...


def machine(plan: dict[str, Any]) -> dict[str, Any]:
    """What the machine is made with. It has no network: at most one vsock port, which leads to the egress socket."""
    return {
        "image": Image.bind(plan["root"]),
        "memory": plan["memory_mib"],
        "cpus": plan["cpus"],
        "hostname": plan["hostname"],
        "volumes": {place: _volume(of) for place, of in plan["volumes"].items()},
        "vsock": [VsockRoute.stream(plan["egress"], plan["port"])] if plan["egress"] else None,
        "network": Network.none(),
        "security": SecurityProfile.RESTRICTED,
        "ephemeral": True,
    }


def program(plan: dict[str, Any]) -> dict[str, Any]:
    """How the program is started in it. Its variables are given here only, so that no description keeps a secret."""
    return {
        "cmd": plan["command"][0],
        "args": plan["command"][1:],
        "cwd": plan["cwd"],
        "user": plan["user"],
        "env": plan["env"],
        "stdin": Stdin.pipe(),
        "rlimits": [Rlimit(RlimitResource(name), value, value) for name, value in plan["rlimits"].items()],
    }


def _volume(of: dict[str, Any]) -> Any:
    if of["source"] is None:
        return Volume.tmpfs(size_mib=of["size_mib"], noexec=True, nosuid=True, nodev=True)
    write = of["writable"]
    return Volume.bind(of["source"], readonly=not write, noexec=write, nosuid=True, nodev=True)


async def pour(source: int, sink: Sink) -> None:
    """Pass on what comes in, and then its end."""
    loop = asyncio.get_running_loop()
    while data := await loop.run_in_executor(None, os.read, source, _CHUNK):
        await sink.write(data)
    await sink.close()


async def passed_on(events: AsyncIterator[Event], out: int, err: int) -> int:
    """Write what the program writes, in order. Returns its exit status."""
    loop = asyncio.get_running_loop()
    async for event in events:
        match event.event_type:
            case ExecEventType.STDOUT | ExecEventType.STDERR:
                to = out if event.event_type == ExecEventType.STDOUT else err
                await loop.run_in_executor(None, _write, to, event.data or b"")
            case ExecEventType.EXITED:
                return _NOT_STARTED if event.code is None else event.code
            case ExecEventType.FAILED:
                return _NOT_STARTED
    return _NOT_STARTED


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


async def _run(plan: dict[str, Any]) -> int:
    sandbox = await Sandbox.create(plan["name"], **machine(plan))
    try:
        handle = await sandbox.exec_stream(**program(plan))
        sink = handle.take_stdin()
        pouring = asyncio.create_task(pour(0, sink)) if sink is not None else None
        try:
            return await passed_on(handle, 1, 2)
        finally:
            if pouring is not None:
                pouring.cancel()
    finally:
        await sandbox.kill()


def main() -> None:
    """Run the plan in the named file, and end as the program did."""
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    try:
        status = asyncio.run(_run(plan))
    except MicrosandboxError as exc:
        sys.stderr.write(f"microsandbox: {exc}\n")
        sys.stderr.flush()
        status = _NOT_STARTED
    os._exit(status)  # a thread may still be waiting for input


if __name__ == "__main__":
    main()
