"""Keeps whoever may write to a directory of the host from leaving a set-user-id program there.

What a box writes to a writable bind belongs to the directory's owner on disk (`idmap.py`). A file of root's with the
set-user-id bit and a content of the box's choice would make everybody on the host root who runs it: no mount option of
the box's reaches as far as that. So the bits cannot be set, by a system call filter round the launcher and all below
it, whichever driver it is of. Runs in the reaper's child with the standard library alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # a supervisor that imports less is up sooner (reaper.py)
    from collections.abc import Mapping
    from typing import Final, TypeAlias

    _Code: TypeAlias = list[tuple[int, int, int, int]]
    _Numbers: TypeAlias = Mapping[int, int]

_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _KILL, _ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_X32: Final = 0x4000_0000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_BITS: Final = 0o6000
"""Set-user-id and set-group-id."""
_MAKES: Final = 0o100 | 0o20000000
"""O_CREAT and what is O_TMPFILE's own: without these the mode is whatever was in the register."""
_OPAQUE: Final = (437, 425)
"""openat2, whose mode is behind a pointer, and io_uring_setup, which opens files by itself: programs do without."""


_MACHINES: Final[Mapping[str, tuple[int, _Numbers, _Numbers]]] = {
    "x86_64": (0xC000_003E, {90: 1, 91: 1, 268: 2, 452: 2, 85: 1, 133: 1, 259: 2}, {2: 2, 257: 3}),
    "aarch64": (0xC000_00B7, {52: 1, 53: 2, 452: 2, 33: 2}, {56: 3}),
}
"""Of each architecture its name to filters, then the numbers of calls, each with the argument that is a mode:
chmod, fchmod, fchmodat, fchmodat2, creat, mknod, mknodat; open, openat, where the argument before that is flags."""


def forbid(libc: ctypes.CDLL, machine: str = "") -> None:
    """For this process and all below it, for good. Needs no_new_privs. Raises `OSError`."""
    code = program(machine or os.uname().machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(header), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "a writable bind needs system call filters, which this kernel has not")


def program(machine: str) -> bytes:
    """The filter as seccomp(2) wants it. Raises `OSError` where the numbers of the calls are not known."""
    calls = _MACHINES.get(machine)
    if calls is None:
        raise OSError(errno.ENOSYS, f"a writable bind is not possible on {machine!r}; bind it read-only")
    audit, modes, opens = calls
    code: _Code = [(_LOAD, 0, 0, _ARCH), (_JEQ, 1, 0, audit), (_RET, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    code += [(_JGE, 0, 1, _X32), (_RET, 0, 0, _KILL)]
    for number in _OPAQUE:
        code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ERRNO | errno.ENOSYS)]
    for number, argument in modes.items():
        code += [(_JEQ, 0, 4, number), *_refused_with_bits(argument)]
    for number, argument in opens.items():
        makes: _Code = [(_LOAD, 0, 0, _low(argument - 1)), (_JSET, 1, 0, _MAKES), (_RET, 0, 0, _ALLOW)]
        code += [(_JEQ, 0, 7, number), *makes, *_refused_with_bits(argument)]
    code.append((_RET, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def _refused_with_bits(argument: int) -> _Code:
    return [
        (_LOAD, 0, 0, _low(argument)),
        (_JSET, 0, 1, _BITS),
        (_RET, 0, 0, _ERRNO | errno.EPERM),
        (_RET, 0, 0, _ALLOW),
    ]


def _low(argument: int) -> int:
    """Where the low half of an argument is; the kernel looks at no more of a mode or of flags."""
    return _FIRST_ARGUMENT + 8 * argument
