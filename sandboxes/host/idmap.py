"""Shows a directory of the host as the property of a box's own user, so that a box can write where it is let.

An idmapped mount (Linux 5.12, mount_setattr(2)): on disk everything keeps its owner, and what the box writes belongs to
the directory's owner. Files of anybody else in it cannot be written. Runs in the reaper's child, with the gateway's
rights and the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # a supervisor that imports less is up sooner (reaper.py)
    import signal
    from typing import Final
else:
    import _signal as signal

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
_CLONE_NEWUSER: Final = 0x1000_0000
_AT_EMPTY_PATH, _AT_RECURSIVE, _OPEN_TREE_CLONE, _MOVE_FROM_FD = 0x1000, 0x8000, 1, 4
_IDMAP: Final = 0x0010_0000
_NONE: Final = -1


def bind_owned(libc: ctypes.CDLL, source: int, target: bytes, uid: int) -> None:
    """Mount what `source` (a descriptor) is at `target`, its owner shown as `uid`. Raises `OSError`."""
    status = os.fstat(source)
    namespace = _mapping(libc, status.st_uid, status.st_gid, uid)
    try:
        flags = _AT_EMPTY_PATH | _OPEN_TREE_CLONE | _AT_RECURSIVE
        tree = _call(libc, _OPEN_TREE, source, b"", flags)
        attributes = struct.pack("=QQQQ", _IDMAP, 0, 0, namespace)
        size = len(attributes)
        _call(libc, _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attributes, ctypes.c_size_t(size))
        _call(libc, _MOVE_MOUNT, tree, b"", _NONE, target, _MOVE_FROM_FD)
        os.close(tree)
    finally:
        os.close(namespace)


def _mapping(libc: ctypes.CDLL, owner: int, group: int, uid: int) -> int:
    """A user namespace in which the directory's owner is the box's user; it lives as long as the descriptor."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        _hold_a_namespace(libc, tell)
    os.close(tell)
    try:
        if os.read(told, 1) != b"x":
            raise OSError(1, "a writable bind needs a user namespace for its owner, and none can be made")
        for name, number in (("uid_map", owner), ("gid_map", group)):
            with open(f"/proc/{child}/{name}", "w", encoding="ascii") as file:
                file.write(f"{number} {uid} 1")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(told)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _hold_a_namespace(libc: ctypes.CDLL, tell: int) -> None:
    try:
        if libc.unshare(_CLONE_NEWUSER) == 0:
            os.write(tell, b"x")
            signal.pause()
    finally:
        os._exit(1)


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(
            errno,
            f"a writable bind cannot be shown as the box's own ({os.strerror(errno).lower()}): it needs Linux 5.12 and "
            "a file system that can map owners (ext4, xfs, btrfs, tmpfs); bind it read-only",
        )
    return result
