"""Tries to run programs that the box did not bring. Runs inside the box: standard library only."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import shutil
import signal
import stat
import struct
from collections.abc import Callable
from functools import partial
from typing import Final

from sandboxes.escape.check import SHM, TMP, WORK, Check, Tries, collector, quietly
from sandboxes.escape.mounts import NAMESPACES
from sandboxes.escape.processes import no_gain
from sandboxes.escape.syscalls import call

CHECKS: Final[list[Check]] = []
check = collector(CHECKS)

_RAN: Final = 42
_CODE: Final = {
    "x86_64": bytes.fromhex("b83c000000bf2a0000000f05"),  # mov eax, 60; mov edi, 42; syscall
    "aarch64": bytes.fromhex("a80b8052400580d2010000d4"),  # mov w8, 93; mov x0, 42; svc 0
}
_NOEXEC, _NOSUID, _NODEV = 8, 2, 4
_LOADERS: Final = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")


def tiny_program() -> bytes:
    """A static program that exits with status 42 and needs nothing."""
    machine = {"x86_64": 62, "aarch64": 183}[platform.machine()]
    code = _CODE[platform.machine()]
    base, start, size = 0x400000, 64 + 56, 64 + 56 + len(code)
    ident = b"\x7fELF\2\1\1" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + code


def _runs(path: str) -> Callable[[], int]:
    return lambda: _status_of(lambda: os.execv(path, [path]))  # noqa: S606  # that is the try


def _status_of(become: Callable[[], object]) -> int:
    """Exit status of a forked child that turns into a program. Raises what the exec did."""
    pid = os.fork()
    if pid == 0:
        try:
            become()
        except OSError as exc:
            os._exit(exc.errno or 1)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != _RAN:
        raise OSError(errno.EACCES if code in {-signal.SIGSYS, 127} else abs(code), "did not run")
    return code


def _placed(directory: str) -> str:
    path = f"{directory}/program"
    with open(path, "wb") as file:
        file.write(tiny_program())
    os.chmod(path, 0o700)
    return path


def _writable() -> list[str]:
    places = [TMP, WORK, SHM, "/run", "/dev", "/dev/mqueue", "/run/lock", f"/proc/{os.getpid()}/cwd", "/"]
    return [place for place in places if quietly(partial(_placed, place)) is not None]


@check("exec.write", "execute a program that was written in the box")
def write(tries: Tries) -> None:
    """execve of a tiny program in the workspace, /tmp, /dev/shm and wherever else files can be made"""
    for place in _writable():
        tries.make(place, _runs(f"{place}/program"))


@check("exec.script", "execute a script with an interpreter line")
def script(tries: Tries) -> None:
    """execve of a #! file in the workspace"""
    path = f"{WORK}/script"
    with open(path, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\nexit 42\n")
    os.chmod(path, 0o700)
    tries.make("script", _runs(path))


@check("exec.handle", "execute an open file instead of a path")
def handle(tries: Tries) -> None:
    """execveat with AT_EMPTY_PATH and execve of /proc/self/fd/N, of a file in the workspace"""
    fd = os.open(_placed(WORK), os.O_RDONLY)
    os.set_inheritable(fd, True)
    empty = ctypes.create_string_buffer(8)
    tries.make("execveat", lambda: _status_of(lambda: call("execveat", fd, b"", empty, empty, 0x1000)))
    tries.make("/proc/self/fd", _runs(f"/proc/self/fd/{fd}"))


@check("exec.memory", "execute a file that is in memory only")
def memory(tries: Tries) -> None:
    """memfd_create, plain and with MFD_EXEC, then execve of it"""
    for name, flags in (("plain", 0), ("exec", 0x10)):
        fd = tries.make(f"memfd {name}", partial(call, "memfd_create", b"program", flags), errno.EINVAL)
        if fd is not None:
            os.write(fd, tiny_program())
            tries.make(f"run {name}", _runs(f"/proc/self/fd/{fd}"))


@check("exec.secret-memory", "keep memory that not even the kernel reads")
def secret_memory(tries: Tries) -> None:
    """memfd_secret(2)"""
    tries.make("memfd_secret", lambda: call("memfd_secret", 0))


@check("exec.map", "map a written file as code")
def map_(tries: Tries) -> None:
    """mmap PROT_EXEC of a file in the workspace, /tmp and /dev/shm; mprotect of such a mapping afterwards"""
    for place in _writable():
        with open(f"{place}/program", "rb") as file:
            tries.make(place, partial(mmap.mmap, file.fileno(), 64, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC))
            late = mmap.mmap(file.fileno(), 64, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
            tries.make(f"{place} later", partial(_protect, ctypes.addressof(ctypes.c_char.from_buffer(late))))


@check("exec.loader", "have the dynamic loader run what may not be executed")
def loader(tries: Tries) -> None:
    """copy /usr/bin/env to the workspace and run ld.so with it"""
    copy = f"{WORK}/copy"
    shutil.copyfile("/usr/bin/env", copy)
    for path in filter(os.path.exists, _LOADERS):
        words = [path, copy, "sh", "-c", "exit 42"]
        tries.make(path, partial(_status_of, partial(os.execv, path, words)))
    os.unlink(copy)


@check("exec.mount-flags", "find a writable mount that takes programs, devices or set-user-id files")
def mount_flags(tries: Tries) -> None:
    """statvfs of every writable directory: noexec, nosuid and nodev"""
    for place in _writable():
        flags = os.statvfs(place).f_flag
        for name, bit in (("noexec", _NOEXEC), ("nosuid", _NOSUID), ("nodev", _NODEV)):
            tries.see(f"{place} {name} {bool(flags & bit)}", not flags & bit)


@check("exec.setuid", "gain rights from set-user-id programs and file capabilities")
def setuid(tries: Tries) -> None:
    """every su, mount, sudo, newuidmap and so on, on a mount without nosuid while executing can gain anything"""
    free = not no_gain()
    for directory in ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/lib/openssh", "/usr/lib/dbus-1.0"):
        for name in quietly(partial(os.listdir, directory)) or ():
            path = f"{directory}/{name}"
            mode = (quietly(partial(os.lstat, path)) or os.stat("/")).st_mode
            if mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(mode):
                tries.see(path, free and not os.statvfs(path).f_flag & _NOSUID)


@check("exec.setuid-own", "make a set-user-id program of our own")
def setuid_own(tries: Tries) -> None:
    """chmod 6755 of a program in the workspace, on a mount without nosuid while executing can gain anything"""
    path = _placed(WORK)
    quietly(partial(os.chmod, path, 0o6755))
    allowed = not (os.statvfs(path).f_flag & _NOSUID or no_gain())
    tries.see("set-user-id file", allowed and bool(os.stat(path).st_mode & stat.S_ISUID))


@check("exec.i386", "go round a filter by 32-bit calls")
def i386(tries: Tries) -> None:
    """machine code in anonymous memory that makes unshare(CLONE_NEWUSER) and keyctl by int 0x80"""
    if platform.machine() != "x86_64":
        return
    for name, number, first in (("unshare", 310, NAMESPACES["user"]), ("keyctl", 288, 0), ("bpf", 357, 0)):
        tries.make(name, partial(_interrupt, number, first), errno.ENOEXEC)


def _interrupt(number: int, first: int) -> int:
    """The call's result, from a child: where there are no 32-bit calls, it dies."""
    pid = os.fork()
    if pid == 0:
        os._exit(_machine_code(number, first) & 0xFF)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:  # killed by a filter, or by a kernel that knows no 32-bit calls
        raise OSError(errno.ENOEXEC, "no 32-bit calls")
    if code > 128:
        raise OSError(256 - code, "refused")
    return code


def _machine_code(number: int, first: int) -> int:
    code = b"\x53\xb8" + struct.pack("<I", number) + b"\xbb" + struct.pack("<I", first)
    code += bytes.fromhex("31c931d231f631ffcd805bc3")  # xor ecx, edx, esi, edi; int 0x80; pop rbx; ret
    area = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    area.write(code)
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(area)))())


def _protect(address: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address & ~4095), ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_EXEC) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
