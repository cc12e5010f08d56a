"""Tries to use up more than was given. Runs inside the box: standard library only."""

from __future__ import annotations

import errno
import os
import resource
import signal
from functools import partial
from typing import Final

from sandboxes.escape.check import SHM, TMP, WORK, Check, Tries, collector, quietly
from sandboxes.escape.syscalls import call

CHECKS: Final[list[Check]] = []
check = collector(CHECKS)

_PIECE: Final = 256 * 1024
_SLACK: Final = 1.1
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
_MOST_INODES: Final = 200_000


@check("limit.tmp", "fill /tmp", reach="host")
def tmp(tries: Tries) -> None:
    """write many files to /tmp until no more goes in"""
    _fill(tries, TMP, tries.target.tmp_bytes)


@check("limit.work", "fill the workspace", reach="host")
def work(tries: Tries) -> None:
    """write many files to the workspace until no more goes in"""
    _fill(tries, WORK, tries.target.work_bytes)


@check("limit.shared-memory", "fill /dev/shm and other writable places", reach="host")
def shared_memory(tries: Tries) -> None:
    """write files to /dev/shm, /dev, /run, /etc and / until no more goes in: no more than /tmp takes"""
    for place in (SHM, "/dev", "/run", "/dev/mqueue", "/etc", "/"):
        if os.access(place, os.W_OK | os.X_OK):
            _fill(tries, place, tries.target.tmp_bytes)


@check("limit.file", "write one large file", reach="host")
def file(tries: Tries) -> None:
    """write to one file in the workspace beyond the limit of a file; make a sparse one of a terabyte"""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    wanted = int(tries.target.file_bytes * _SLACK)
    tries.see(f"{tries.target.file_bytes} bytes", _written(f"{WORK}/large", wanted) >= wanted)
    quietly(partial(os.unlink, f"{WORK}/large"))
    with open(f"{WORK}/sparse", "wb") as sparse:
        tries.make("sparse", partial(os.ftruncate, sparse.fileno(), 1 << 40), *_FULL)
    os.unlink(f"{WORK}/sparse")


@check("limit.files", "open more files than were given", reach="host")
def files(tries: Tries) -> None:
    """open /dev/null until that is refused"""
    kept: list[int] = []
    while len(kept) <= tries.target.open_files:
        fd = quietly(partial(os.open, "/dev/null", os.O_RDONLY))
        if fd is None:
            break
        kept.append(fd)
    tries.see(f"{len(kept)} files", len(kept) > tries.target.open_files)


@check("limit.inodes", "make more files than memory is for")
def inodes(tries: Tries) -> None:
    """how many files the workspace, /tmp and /dev/shm take, by statvfs"""
    for place in (WORK, TMP, SHM):
        if os.access(place, os.W_OK):
            count = os.statvfs(place).f_files
            tries.see(f"{place} takes {count}", not 0 < count <= _MOST_INODES)


@check("limit.locked", "lock memory", reach="host")
def locked(tries: Tries) -> None:
    """the hard limit of locked memory: at most 8 MiB"""
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    tries.see(f"{hard} bytes", hard == resource.RLIM_INFINITY or hard > 8 << 20)


@check("limit.huge-pages", "take huge pages")
def huge_pages(tries: Tries) -> None:
    """shmget with SHM_HUGETLB"""
    tries.make("huge pages", lambda: call("shmget", 0, 2 << 20, 0o4000 | 0o600 | 0o1000), *_FULL, errno.EINVAL)


def _fill(tries: Tries, place: str, promised: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    wanted, got, number = int(promised * _SLACK) + _PIECE, 0, 0
    made: list[str] = []
    while got < wanted:
        path = f"{place}/fill{number}"
        number += 1
        size = min(tries.target.file_bytes // 2, wanted - got)
        written = _written(path, size)
        made.append(path)
        got += written
        if written < size:
            break
    for path in made:
        quietly(partial(os.unlink, path))
    tries.see(f"{place}: {got} bytes of {promised}", got >= wanted)


def _written(path: str, size: int) -> int:
    """How much of that goes into a file."""
    got = 0
    fd = quietly(partial(os.open, path, os.O_WRONLY | os.O_CREAT, 0o600))
    while fd is not None and got < size:
        count = quietly(partial(os.write, fd, bytes(min(_PIECE, size - got))))
        if not count:
            break
        got += count
    if fd is not None:
        os.close(fd)
    return got
