"""The system calls that a box may make, as the classic BPF program that seccomp(2) wants.

What is refused: ways to other namespaces, mounts, other processes' memory, kernel memory and modules, the clock, keys,
devices and terminals of others, raw and exotic sockets, programs that are run from memory, and System V's segments,
queues and semaphores, which are the kernel's memory and counted by control groups alone. What is newer than this list
does not exist (ENOSYS). The rest is allowed without a look at its arguments, so the kernel caches that answer.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Final, TypeAlias

from sandboxes.syscalls import MACHINES, NEWEST

_Code: TypeAlias = list[tuple[int, int, int, int]]

_LOAD, _AND, _JEQ, _JGE, _JSET, _RET = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _KILL, _ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_X32 = 0x4000_0000

_NEW_NAMESPACES: Final = 0x7E02_0000
"""CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET"""
_FAMILIES, _KINDS, _PROTOCOLS = (1, 2, 10), (1, 2, 5), (0, 1, 6, 17)
"""AF_UNIX, INET, INET6; STREAM, DGRAM, SEQPACKET; what goes with them by itself, ICMP, TCP, UDP. Pairs are made by the
same code of the kernel's, whatever family has them. Not NETLINK: a great part of the kernel listens there."""
_KIND_FLAGS: Final = 0x80800
"""SOCK_CLOEXEC | SOCK_NONBLOCK"""
_TERMINAL: Final = (0x5412, 0x541C, 0x5423)
"""TIOCSTI, TIOCLINUX, TIOCSETD"""
_PERSONALITIES: Final = (0, 8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF)
"""Linux, its 32 bits, with an old version number, and the question which it is"""
_NOEXEC_SEAL: Final = 8


def program(machine: str = "") -> bytes | None:
    """The filter for this machine, as `bwrap --seccomp` reads it; `None` where its calls are not known."""
    known = MACHINES.get(machine or platform.machine())
    return None if known is None else _assembled(known.audit)


@cache
def _assembled(audit: int) -> bytes:
    (machine,) = (known for known in MACHINES.values() if known.audit == audit)
    code: _Code = [(_LOAD, 0, 0, _ARCH), (_JEQ, 1, 0, machine.audit), _kill(), (_LOAD, 0, 0, _NUMBER)]
    if machine.x32:
        code += [(_JGE, 0, 1, _X32), _kill()]
    code += [(_JGE, 0, 1, NEWEST + 1), _error(errno.ENOSYS)]
    for number in sorted(machine.refused.values()):
        code += _for(number, [_error(errno.EPERM)])
    for name, number in machine.checked.items():
        code += _for(number, _CHECKS[name]())
    code.append(_allow())
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def _for(number: int, then: _Code) -> _Code:
    """Steps for one call. They end in a return on every way, so the call's number stays loaded for the next."""
    return [(_JEQ, 0, len(then), number), *then]


def _allow() -> tuple[int, int, int, int]:
    return (_RET, 0, 0, _ALLOW)


def _kill() -> tuple[int, int, int, int]:
    return (_RET, 0, 0, _KILL)


def _error(number: int) -> tuple[int, int, int, int]:
    return (_RET, 0, 0, _ERRNO | number)


def _argument(index: int) -> tuple[int, int, int, int]:
    """Load the low half of an argument: each that is looked at here is an int to the kernel."""
    return (_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * index)


def _unless_one_of(values: Iterable[int], number: int) -> _Code:
    """Return an error unless what is loaded is one of these."""
    listed = list(values)
    tests: _Code = [(_JEQ, len(listed) - place, 0, value) for place, value in enumerate(listed)]
    return [*tests, _error(number)]


def _check_clone() -> _Code:
    return [_argument(0), (_JSET, 0, 1, _NEW_NAMESPACES), _error(errno.EPERM), _allow()]


def _check_socket() -> _Code:
    return [
        _argument(0),
        *_unless_one_of(_FAMILIES, errno.EAFNOSUPPORT),
        _argument(1),
        (_AND, 0, 0, ~_KIND_FLAGS & 0xFFFF_FFFF),
        *_unless_one_of(_KINDS, errno.EPERM),
        _argument(2),
        *_unless_one_of(_PROTOCOLS, errno.EPROTONOSUPPORT),
        _allow(),
    ]


def _check_ioctl() -> _Code:
    tests = [(_JEQ, len(_TERMINAL) - place, 0, value) for place, value in enumerate(_TERMINAL)]
    return [_argument(1), *tests, _allow(), _error(errno.EPERM)]


def _check_personality() -> _Code:
    return [_argument(0), *_unless_one_of(_PERSONALITIES, errno.EPERM), _allow()]


def _check_memfd() -> _Code:
    return [_argument(1), (_JSET, 1, 0, _NOEXEC_SEAL), _error(errno.EPERM), _allow()]


def _absent() -> _Code:
    """As if the kernel were older, so that the C library falls back to what can be looked into."""
    return [_error(errno.ENOSYS)]


_CHECKS: Final[Mapping[str, Callable[[], _Code]]] = {
    "clone": _check_clone,
    "clone3": _absent,
    "socket": _check_socket,
    "socketpair": _check_socket,
    "ioctl": _check_ioctl,
    "personality": _check_personality,
    "memfd_create": _check_memfd,
}
