"""Child programs for the tests, and a way to see a process of somebody else's end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import anyio
import pytest

from adapters.upstreams.wire.jsonlines import JsonLines
from sandboxes.host.process import ChildProcess, ProcessSpec

ECHO = """
import sys
for line in sys.stdin:
    sys.stdout.write(line)
    sys.stdout.flush()
"""

TREE = """
import json, os, signal, sys, time

def report(place, pid):
    print(json.dumps({"place": place, "pid": pid}), flush=True)

def stay():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    while True:
        time.sleep(60)

def daemon(place):
    # the classic: fork, setsid, fork, let go of the streams
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        report(place, os.getpid())
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        if "bare" in sys.argv:
            os.execve(sys.executable, [sys.executable, "-ISc", "import time; time.sleep(600)"], {})
        stay()
    os.wait()

report(0, os.getpid())
report(1, os.getppid())
daemon(2)
daemon(3)
if os.fork() == 0:
    os.setpgid(0, 0)
    report(4, os.getpid())
    stay()
if "exit" in sys.argv:
    sys.stdin.read()
    sys.exit(7)
stay()
"""
"""Reports five processes: itself, its reaper, two daemons in sessions of their own, a child in a group of its own."""
TREE_SIZE = 5

GATEWAY = """
import anyio, json, sys
from adapters.upstreams.wire.jsonlines import JsonLines
from sandboxes.host.process import ChildProcess, ProcessSpec

async def main():
    spec = ProcessSpec((sys.executable, "-c", sys.argv[1]))
    async with await ChildProcess.start(spec) as child:
        async for message in JsonLines(child, max_line_bytes=1000, label="tree"):
            print(json.dumps(message), flush=True)

anyio.run(main)
"""
"""A gateway that passes on what its child reports; to be killed."""


def python(program: str, *arguments: str, **options: object) -> ProcessSpec:
    command = (sys.executable, "-c", program, *arguments)
    return ProcessSpec(command, **options)  # type: ignore[arg-type]  # each test knows which it sets


def messages_of(child: ChildProcess, *, max_line_bytes: int = 100_000) -> JsonLines:
    return JsonLines(child, max_line_bytes=max_line_bytes, label="x")


async def reported_pids(lines: JsonLines) -> list[int]:
    reports = [await lines.receive() for _ in range(TREE_SIZE)]
    return [int(str(report["pid"])) for report in sorted(reports, key=lambda report: str(report["place"]))]


@contextmanager
def watched(pids: Iterable[int]) -> Iterator[list[int]]:
    """File descriptors that become readable when the processes end; no other process can take their place."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("needs Linux 5.3 or newer: processes are watched by pidfd")
    fds = [os.pidfd_open(pid) for pid in pids]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


async def all_ended(fds: Iterable[int]) -> None:
    for fd in fds:
        await anyio.wait_readable(fd)
