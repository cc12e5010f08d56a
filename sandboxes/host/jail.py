"""Puts the forked child behind walls before it becomes the command: cgroups, mounts, limits, another user.

Runs between fork and exec in the reaper, with the standard library alone. Whatever fails raises `OSError`, and then
nothing is started. The walls of a driver (bubblewrap, gVisor, QEMU) come on top; here is only what has to be done with
the rights of the gateway, and before they are given up.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import struct

from sandboxes.host.direct import opened
from sandboxes.host.idmap import bind_owned
from sandboxes.host.setid import forbid

TYPE_CHECKING = False
if TYPE_CHECKING:  # a supervisor that imports less is up sooner (reaper.py)
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Any, Final

STAGE: Final = b"/tmp"  # plan.py, STAGE
_CLONE_NEWNS: Final = 0x0002_0000
_CLONE_NEWUSER: Final = 0x1000_0000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MOUNT_SETATTR, _AT_RECURSIVE = 442, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 1, 2, 4, 8
_PR_SET_NO_NEW_PRIVS = 38
_FIRST_FILE, _BEYOND = 10, 64
_FIRST_TO_GO: Final = "500"
"""oom_score_adj: when the machine runs out of memory, a box is to be killed rather than the gateway."""


def enter(jail: Mapping[str, Any]) -> None:
    """Do to this process what the plan says (`plan.Jail`). Raises `OSError`; the process must then end."""
    os.umask(0o022)
    if not jail["home"]:  # else we were born in them
        _join_alone(jail["cgroups"])
    _write("/proc/self/oom_score_adj", _FIRST_TO_GO)
    files = {int(number): _opened(path) for number, path in jail["files"].items()}
    mounts: Sequence[Mapping[str, Any]] = jail["mounts"]
    uid: int | None = jail["uid"]
    libc = ctypes.CDLL(None, use_errno=True)
    if mounts or uid is None:
        _own_namespaces(libc, uid)
        _mounted(libc, mounts, uid)
    for name, value in jail["rlimits"].items():
        _limit(name, value)
    if uid is not None:
        os.setgroups(jail["groups"])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if any(item["owned"] for item in mounts):
        forbid(libc)
    _put_in_place(files)


def _join_alone(groups: Sequence[str]) -> None:
    """Put ourselves into control groups: by `tasks` where there is such a file (version 1).

    For a whole process the kernel waits ten milliseconds until nobody forks; one thread, which is all that we are, may
    move itself at once.
    """
    for procs in groups:
        tasks = os.path.join(os.path.dirname(procs), "tasks")
        _write(tasks if os.path.exists(tasks) else procs, "0")


def join(groups: Sequence[str], pid: int) -> None:
    """Put a process into control groups, each a `cgroup.procs`. Raises `OSError`."""
    for procs in groups:
        _write(procs, str(pid))


def _opened(path: str) -> int:
    """Open a file at a number that no plan chooses."""
    with _About(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _BEYOND)
    os.close(fd)
    return high


def _own_namespaces(libc: ctypes.CDLL, uid: int | None) -> None:
    """A mount namespace of our own, from which nothing gets back."""
    own_uid, own_gid = os.getuid(), os.getgid()
    flags = _CLONE_NEWNS if uid is not None else _CLONE_NEWNS | _CLONE_NEWUSER
    _check(libc.unshare(flags), "a mount namespace" if uid is not None else "a user namespace")
    if uid is None:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{own_uid} {own_uid} 1")
        _write("/proc/self/gid_map", f"{own_gid} {own_gid} 1")


def _mounted(libc: ctypes.CDLL, mounts: Sequence[Mapping[str, Any]], uid: int | None) -> None:
    sources = [_source(item) for item in mounts]
    _mount(libc, b"", b"/", b"", _MS_REC | _MS_PRIVATE)
    _mount(libc, b"stage", STAGE, b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=755,size=1m,nr_inodes=4k")
    for item, source in zip(mounts, sources, strict=True):
        target = os.path.join(STAGE, item["name"].encode())
        if source < 0:
            _make(target, directory=True)
            _mount(libc, b"box", target, b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, item["options"].encode())
        else:
            _bind(libc, source, target, item, uid)
            os.close(source)


def _source(item: Mapping[str, Any]) -> int:
    if item["kind"] == "tmpfs":
        return -1
    with _About(item["source"]):
        if item["direct"]:
            return opened(item["source"], os.O_PATH)
        return os.open(item["source"], os.O_PATH | os.O_CLOEXEC)


def _bind(libc: ctypes.CDLL, source: int, target: bytes, item: Mapping[str, Any], uid: int | None) -> None:
    path = b"/proc/self/fd/%d" % source
    _make(target, directory=os.path.isdir(path))
    if item["owned"] and uid is not None:
        bind_owned(libc, source, target, uid)
    else:
        _mount(libc, path, target, b"", _MS_BIND | _MS_REC)
    wanted = _ATTR_NOSUID | _ATTR_NODEV
    wanted |= _ATTR_RDONLY if item["read_only"] else 0
    wanted |= _ATTR_NOEXEC if item["no_exec"] else 0
    attributes = struct.pack("=QQQQ", wanted, 0, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    result = libc.syscall(ctypes.c_long(_MOUNT_SETATTR), -1, target, _AT_RECURSIVE, attributes, size)
    _check(result, f"narrowing {item['source']!r} and what is mounted below it (needs Linux 5.12)")


def _make(target: bytes, *, directory: bool) -> None:
    """Something to mount on."""
    with _About(os.fsdecode(target)):
        if directory:
            os.mkdir(target, 0o755)
        else:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def _limit(name: str, value: int) -> None:
    number = getattr(resource, f"RLIMIT_{name.upper()}")
    hard = resource.getrlimit(number)[1]
    least = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (least, least))


def _put_in_place(files: Mapping[int, int]) -> None:
    for number, fd in files.items():
        if not _FIRST_FILE <= number < _BEYOND:
            raise OSError(errno.EBADF, f"descriptor {number} is not one that a plan may choose")
        os.dup2(fd, number, inheritable=True)
        os.close(fd)


def _mount(libc: ctypes.CDLL, source: bytes, target: bytes, kind: bytes, flags: int, data: bytes = b"") -> None:
    result = libc.mount(source or b"none", target, kind or None, ctypes.c_ulong(flags), data or None)
    _check(result, f"mounting {os.fsdecode(target)}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number).lower()}")


def _write(path: str, text: str) -> None:
    with _About(path), open(path, "w", encoding="ascii") as file:
        file.write(text)


class _About:
    """Says in the error which file it was, and that it was the walls and not the command."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing is done before."""

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, OSError):
            raise OSError(exc.errno, f"{self._path!r}: {(exc.strerror or '').lower()}") from exc
