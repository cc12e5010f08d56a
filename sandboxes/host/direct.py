"""Opens a file of the host by a path on which there is no symbolic link.

A path that was checked once is opened later. Whoever may write beside it, a box with a writable bind for one, could
have put a link there meanwhile, to anything that the gateway may read. Standard library alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # a supervisor that imports less is up sooner (reaper.py)
    from typing import Final

_OPENAT2: Final = 437  # the same on every architecture
_NO_SYMLINKS: Final = 4
_ANYWHERE: Final = -1
_LIBC = ctypes.CDLL(None, use_errno=True)


def opened(path: str, flags: int) -> int:
    """A descriptor that is not inherited. Raises `OSError`, with ELOOP where there is a link."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _NO_SYMLINKS)
    size = ctypes.c_size_t(len(how))
    fd: int = _LIBC.syscall(ctypes.c_long(_OPENAT2), _ANYWHERE, os.fsencode(os.path.abspath(path)), how, size)
    if fd < 0:
        number = ctypes.get_errno()
        why = "a symbolic link is on the way, which was not there before" if number == errno.ELOOP else ""
        raise OSError(number, why or os.strerror(number).lower(), path)
    return fd
