"""What the agent in a guest asks of its kernel, by way of the C library. Runs as the first process, as root."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterable
from typing import Final

RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, MOVE = 1, 2, 4, 8, 32, 4096, 8192
SCRATCH: Final = NOSUID | NODEV | NOEXEC
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_FINIT_MODULE: Final = 313  # x86-64
_NEWNS, _NEWIPC, _NEWUTS = 0x0002_0000, 0x0800_0000, 0x0400_0000
_CAPBSET_DROP, _NO_NEW_PRIVS, _SECCOMP, _FILTER = 24, 38, 22, 2
_RNDRESEEDCRNG: Final = 0x5207
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_POWER_OFF: Final = 0x4321FEDC


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2), with the target made first."""
    if not os.path.exists(target):
        os.makedirs(target, 0o755)
    arguments = (source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode())
    _check(_LIBC.mount(*arguments), f"mount {target}")


def load_modules(directory: str) -> None:
    """All of a directory, in the order of their names. None can be loaded after that."""
    for name in sorted(os.listdir(directory)):
        fd = os.open(os.path.join(directory, name), os.O_RDONLY)
        _check(_LIBC.syscall(_FINIT_MODULE, fd, b"", 0), f"module {name}")
        os.close(fd)
    write("/proc/sys/kernel/modules_disabled", "1")


def write(path: str, text: str) -> None:
    """One word into a file of the kernel's."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def harden(settings: Iterable[tuple[str, str]]) -> None:
    """Close doors of the kernel that a program in a box has no use for, those that this kernel has."""
    for name, value in settings:
        path = "/proc/sys/" + name
        if os.path.exists(path):
            write(path, value)


def own_namespaces(root: str) -> None:
    """A mount, IPC and host name of one's own, with `root` as the root directory for good."""
    _check(_LIBC.unshare(_NEWNS | _NEWIPC | _NEWUTS), "unshare")
    os.chdir(root)
    _check(_LIBC.mount(b".", b"/", None, ctypes.c_ulong(MOVE), None), "mount --move")
    os.chroot(".")


def become(uid: int, seccomp: bytes) -> None:
    """Another user, with no way back."""
    for capability in range(64):
        if _LIBC.prctl(_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # this kernel has no more
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _check(_LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if seccomp:
        _filter(seccomp)


def _filter(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    _check(_LIBC.prctl(_SECCOMP, _FILTER, ctypes.c_char_p(header), 0, 0), "seccomp")


def reseed(entropy: bytes) -> None:
    """Make the kernel's random numbers our own: clones of one snapshot have the same state until then."""
    fd = os.open("/dev/urandom", os.O_WRONLY)
    os.write(fd, entropy)
    fcntl.ioctl(fd, _RNDRESEEDCRNG)
    os.close(fd)


def set_clock(seconds: float) -> None:
    """The time of day."""
    time.clock_settime(time.CLOCK_REALTIME, seconds)


def raise_loopback() -> None:
    """Bring 127.0.0.1 up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        fcntl.ioctl(line, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def power_off() -> None:
    """End the machine at once."""
    _LIBC.reboot(ctypes.c_int(_POWER_OFF))


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
