"""Tries to reach devices and the settings of the kernel. Runs inside the box: standard library only."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from functools import partial
from typing import Final

from sandboxes.escape.check import ABSENT, SHM, TMP, WORK, Check, Tries, collector, quietly
from sandboxes.escape.syscalls import call

CHECKS: Final[list[Check]] = []
check = collector(CHECKS)

_USUAL: Final = frozenset(
    {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd", "stdin", "stdout",
     "stderr", "core", "console"}
)  # fmt: skip
_HELPERS: Final = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug",
    "/proc/sys/kernel/poweroff_cmd", "/sys/kernel/uevent_helper", "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/kernel/usermodehelper/bset", "/proc/sysrq-trigger", "/proc/sys/kernel/sysrq",
    "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/panic_on_oom", "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/user/max_user_namespaces", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/yama/ptrace_scope",
)  # fmt: skip
_TIOCSTI, _TIOCLINUX, _TIOCSCTTY, _HIGH = 0x5412, 0x541C, 0x540E, 1 << 32
_MOST: Final = 20_000


@check("device.list", "find devices beside the harmless ones")
def listing(tries: Tries) -> None:
    """list /dev and below, and open what is not null, zero, full, random, urandom, tty or a pseudo-terminal"""
    for path in _below("/dev", 3):
        mode = (quietly(partial(os.lstat, path)) or os.lstat("/dev")).st_mode
        if (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and not _USUAL & set(path.split("/")[2:3]):
            tries.open(path)


@check("device.disk", "make the device of a disk of the host, and of its memory")
def disk(tries: Tries) -> None:
    """mknod with the numbers of the host's disk, of /dev/mem and of a terminal, in every writable place"""
    wanted = (stat.S_IFBLK, *tries.target.disk), (stat.S_IFCHR, 1, 1), (stat.S_IFCHR, 4, 0), (stat.S_IFCHR, 10, 232)
    for directory in (WORK, TMP, SHM, "/dev", "/run"):
        for kind, major, minor in wanted:
            path = f"{directory}/node-{major}-{minor}"
            quietly(partial(os.mknod, path, kind | 0o666, os.makedev(major, minor)))
            tries.open(path, os.O_RDWR)


@check("device.inject", "type into a terminal")
def inject(tries: Tries) -> None:
    """TIOCSTI and TIOCLINUX, also with bits above the 32nd, on a controlling terminal and on the streams"""
    terminals = [0, 1, 2, *(fd for fd in (quietly(_controlling), quietly(partial(os.open, "/dev/tty", 2))) if fd)]
    for fd in terminals:
        for name, request in (("TIOCSTI", _TIOCSTI), ("TIOCLINUX", _TIOCLINUX)):
            for bits in (0, _HIGH):
                tries.make(f"{name} {fd}", partial(call, "ioctl", fd, request | bits, b"x"), *_NO_TERMINAL)


@check("device.terminal", "take somebody's terminal", reach="host")
def terminal(tries: Tries) -> None:
    """open /dev/tty and /dev/console, TIOCSCTTY on the streams"""
    tries.open("/dev/tty", os.O_RDWR, errno.EIO)
    tries.open("/dev/tty0", os.O_RDWR)
    for fd in (0, 1, 2):
        tries.make(f"TIOCSCTTY {fd}", partial(fcntl.ioctl, fd, _TIOCSCTTY, 1), *_NO_TERMINAL)


@check("device.pseudo-terminals", "open the terminals of others", reach="host")
def pseudo_terminals(tries: Tries) -> None:
    """open everything in /dev/pts that we have not made"""
    for name in tries.entries("/dev/pts"):
        if name.isdigit():
            tries.open(f"/dev/pts/{name}", os.O_RDWR, errno.EIO)


@check("setting.helpers", "have the kernel run a program of ours as root")
def helpers(tries: Tries) -> None:
    """open for writing core_pattern, modprobe, uevent_helper, binfmt_misc, sysrq-trigger and their like"""
    for path in _HELPERS:
        tries.open(path, os.O_WRONLY)


@check("setting.sysctl", "change any setting of the kernel")
def sysctl(tries: Tries) -> None:
    """open every file below /proc/sys for writing"""
    for path in _below("/proc/sys", 8):
        tries.open(path, os.O_WRONLY)


@check("setting.proc", "write to any file of /proc that belongs to no process")
def proc(tries: Tries) -> None:
    """open for writing everything in /proc but the processes and /proc/sys: irq, bus, fs, scsi, acpi, mtrr..."""
    for name in tries.entries("/proc"):
        if not (name.isdigit() or name in {"sys", "self", "thread-self", "net", "mounts"}):
            for path in (f"/proc/{name}", *_below(f"/proc/{name}", 4)):
                tries.open(path, os.O_WRONLY, errno.EISDIR, errno.EIO, errno.EINVAL)


@check("setting.sysfs", "write to any file of /sys")
def sysfs(tries: Tries) -> None:
    """open every file below /sys for writing, up to 20000 of them"""
    for path in _below("/sys", 5):
        tries.open(path, os.O_WRONLY, errno.EISDIR)


@check("setting.cgroup", "change or leave the control group")
def cgroup(tries: Tries) -> None:
    """open for writing cgroup.procs, release_agent and the limits wherever cgroups are mounted; make one"""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounted = [line.split()[4] for line in file if " - cgroup" in line]
    for directory in {*mounted, "/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"}:
        for name in ("cgroup.procs", "tasks", "release_agent", "notify_on_release", "memory.max", "pids.max"):
            tries.open(f"{directory}/{name}", os.O_WRONLY)
        tries.make(f"{directory}/escape", partial(_made_and_removed, f"{directory}/escape"), *ABSENT)


@check("setting.tracing", "read what the kernel keeps for its developers")
def tracing(tries: Tries) -> None:
    """list debugfs, tracefs, securityfs, bpffs, pstore, efivars; read the firmware's tables and the list of keys"""
    places = ("kernel/debug", "kernel/tracing", "kernel/security", "fs/bpf", "fs/pstore", "firmware/efi/efivars")
    for place in places:
        tries.see(f"/sys/{place}", bool(tries.entries(f"/sys/{place}")))
    for path in ("/sys/firmware/dmi/tables/DMI", "/sys/firmware/qemu_fw_cfg/rev", "/proc/sched_debug"):
        tries.open(path)
    keys = quietly(partial(_text, "/proc/keys")) or ""
    tries.see(f"/proc/keys: {keys[:100]!r}", bool(keys))


_NO_TERMINAL: Final = (errno.ENOTTY, errno.EIO, errno.EINVAL, errno.EBADF, errno.EFAULT)
"""Said by what is no terminal, and by kernels that have switched the call off."""


def _controlling() -> int:
    """The other end of a new pseudo-terminal, made the controlling one of this process."""
    os.setsid()
    _, other = os.openpty()
    fcntl.ioctl(other, _TIOCSCTTY, 0)
    return other


def _made_and_removed(path: str) -> None:
    os.mkdir(path)
    os.rmdir(path)


def _below(root: str, depth: int) -> Iterator[str]:
    """Files below a directory, links not followed."""
    todo, found = [(root, 0)], 0
    while todo and found < _MOST:
        directory, level = todo.pop()
        for entry in quietly(partial(_scan, directory)) or ():
            if entry.is_dir(follow_symlinks=False) and level < depth:
                todo.append((entry.path, level + 1))
            elif not entry.is_symlink():
                found += 1
                yield entry.path


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(4096)


def _scan(directory: str) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)
