"""Programs that use up all they can get: processes, memory, disk. Runs inside the box: standard library only.

`python3 bombs.pyz KIND [stay]` goes on until it is killed or can get no more, and then says how much it got, as a
number in a line. With `stay` it keeps what it got. Only its own box may suffer.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from sandboxes.escape.check import SHM, TMP, WORK, quietly
from sandboxes.escape.syscalls import call

_PIECE: Final = 1 << 20
_MOST: Final = 2 << 30
"""Where a bomb stops itself: a host that let it come this far has failed, and is to be spared the rest."""


def main() -> int:
    got = BOMBS[sys.argv[1]]()
    sys.stdout.write(f"{got}\n")
    sys.stdout.flush()
    if "stay" in sys.argv:
        signal.pause()
    return 0


def fork() -> int:
    """Processes that fork on, each in a session of its own."""
    count = 0
    while count < 10_000:
        pid = quietly(os.fork)
        if pid is None:
            return count
        if pid == 0:
            quietly(os.setsid)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            quietly(os.fork)
            signal.pause()
        count += 1
    return count


def memory() -> int:
    """Anonymous memory, written to, by as many processes as can be had."""
    quietly(os.fork)
    quietly(os.fork)
    kept: list[mmap.mmap] = []
    for number in range(_MOST // _PIECE):
        try:
            piece = mmap.mmap(-1, _PIECE)
            piece[:: mmap.PAGESIZE] = b"x" * (_PIECE // mmap.PAGESIZE)
        except (OSError, MemoryError):  # whichever asks for what is there no more
            return number * _PIECE
        kept.append(piece)
    return _MOST


def segments() -> int:
    """System V memory that is written to and let go of, so that no limit on address space sees it."""
    got = 0
    while got < _MOST:
        segment = quietly(partial(call, "shmget", 0, 16 * _PIECE, 0o600 | 0o1000))
        address = None if segment is None else quietly(partial(call, "shmat", segment, None, 0))
        if address is None:
            return got
        ctypes.memset(address, 1, 16 * _PIECE)
        call("shmdt", address)
        got += 16 * _PIECE
    return got


def disk() -> int:
    """Files in every writable place."""
    return sum(_filled(place) for place in (WORK, TMP, SHM, "/dev", "/run", "/"))


def inodes() -> int:
    """Empty files with long names in every writable place."""
    count = 0
    for place in (WORK, TMP, SHM):
        for number in range(30_000):
            name = f"{place}/{number:0200d}"
            fd = quietly(partial(os.open, name, os.O_CREAT | os.O_WRONLY, 0o600))
            if fd is None:
                break
            os.close(fd)
            count += 1
    return count


def _filled(place: str) -> int:
    got = 0
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for number in range(10_000):
        fd = quietly(partial(os.open, f"{place}/{number}", os.O_CREAT | os.O_WRONLY, 0o600))
        before = got
        while fd is not None and got < _MOST:
            count = quietly(partial(os.write, fd, bytes(_PIECE)))
            if not count:
                break
            got += count
        if fd is not None:
            os.close(fd)
        if got == before:
            break
    return got


BOMBS: Final[Mapping[str, Callable[[], int]]] = {
    "fork": fork,
    "memory": memory,
    "segments": segments,
    "disk": disk,
    "inodes": inodes,
}
