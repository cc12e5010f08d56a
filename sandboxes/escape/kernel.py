"""Tries to use the parts of a kernel that ways out are made of. Runs inside the box: standard library only."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import struct
from functools import partial
from typing import Final

from sandboxes.escape.check import ABSENT, Check, Tries, collector, quietly
from sandboxes.escape.syscalls import call

CHECKS: Final[list[Check]] = []
check = collector(CHECKS)

_ADJ_TICK: Final = 0x4000


@check("kernel.keys", "use the keyrings of the kernel")
def keys(tries: Tries) -> None:
    """keyctl to find and to join a session keyring, add_key, request_key"""
    tries.make("keyctl get", lambda: call("keyctl", 0, -3, 0))
    tries.make("keyctl join", lambda: call("keyctl", 1, None))
    tries.make("add_key", lambda: call("add_key", b"user", b"escape", b"x", 1, -3))
    tries.make("request_key", lambda: call("request_key", b"user", b"escape", None, -3))


@check("kernel.bpf", "load programs into the kernel")
def bpf(tries: Tries) -> None:
    """bpf(2): make a map, load a filter"""
    for name, command in (("map", 0), ("program", 5), ("next id", 11)):
        tries.make(name, partial(call, "bpf", command, ctypes.create_string_buffer(128), 128))


@check("kernel.perf", "measure the machine")
def perf(tries: Tries) -> None:
    """perf_event_open of a software counter for ourselves and for a whole processor"""
    attributes = struct.pack("IIQ", 1, 128, 0) + bytes(112)
    tries.make("self", lambda: call("perf_event_open", attributes, 0, -1, -1, 0), errno.ENODEV)
    tries.make("processor", lambda: call("perf_event_open", attributes, -1, 0, -1, 0), errno.ENODEV)


@check("kernel.userfaultfd", "hold up the kernel at a page fault")
def userfaultfd(tries: Tries) -> None:
    """userfaultfd(2), also for user mode only, and /dev/userfaultfd"""
    tries.make("userfaultfd", lambda: call("userfaultfd", 0))
    tries.make("user mode", lambda: call("userfaultfd", 1))
    tries.open("/dev/userfaultfd", os.O_RDWR)


@check("kernel.io-uring", "make calls past a filter by a ring")
def io_uring(tries: Tries) -> None:
    """io_uring_setup(2) and io_uring_register(2)"""
    tries.make("setup", lambda: call("io_uring_setup", 4, ctypes.create_string_buffer(120)))
    tries.make("register", lambda: call("io_uring_register", -1, 0, None, 0))


@check("kernel.modules", "load a module or another kernel")
def modules(tries: Tries) -> None:
    """init_module, finit_module, delete_module, kexec_load, kexec_file_load with arguments that nobody accepts"""
    tries.make("init_module", lambda: call("init_module", b"", 0, b""))
    tries.make("finit_module", lambda: call("finit_module", -1, b"", 0))
    tries.make("delete_module", lambda: call("delete_module", b"no such module", os.O_NONBLOCK))
    tries.make("kexec_load", lambda: call("kexec_load", 0, 99, None, 0))
    tries.make("kexec_file_load", lambda: call("kexec_file_load", -1, -1, 0, b"", 8))


@check("kernel.administer", "administer the machine")
def administer(tries: Tries) -> None:
    """swapon, swapoff, acct, quotactl, reboot and vhangup with arguments that change nothing"""
    tries.make("swapon", lambda: call("swapon", b"/no/such/file", 0))
    tries.make("swapoff", lambda: call("swapoff", b"/no/such/file"))
    tries.make("acct", lambda: call("acct", b"/no/such/file"))
    tries.make("quotactl", lambda: call("quotactl", 0x800002 << 8, b"/dev/no-such-disk", 0, None), *ABSENT)
    tries.make("reboot", lambda: call("reboot", 0, 0, 0, None))


@check("kernel.clock", "set the clock")
def clock(tries: Tries) -> None:
    """adjtimex with the tick that it has already"""
    now = ctypes.create_string_buffer(208)
    quietly(lambda: call("adjtimex", now))
    same = ctypes.create_string_buffer(struct.pack("I", _ADJ_TICK) + now.raw[4:], 208)
    tries.make("adjtimex", lambda: call("adjtimex", same))


@check("kernel.names", "rename the machine")
def names(tries: Tries) -> None:
    """sethostname and setdomainname with the names that it has already"""
    name = socket.gethostname().encode()
    tries.make("sethostname", lambda: call("sethostname", name, len(name)))
    tries.make("setdomainname", lambda: call("setdomainname", b"(none)", 6))


@check("kernel.ports", "speak to the hardware")
def ports(tries: Tries) -> None:
    """iopl, ioperm, /dev/port, /dev/mem"""
    tries.make("iopl", lambda: call("iopl", 3))
    tries.make("ioperm", lambda: call("ioperm", 0x80, 1, 1))
    for path in ("/dev/port", "/dev/mem", "/dev/kmem", "/dev/nvram", "/dev/msr", "/dev/cpu/0/msr"):
        tries.open(path)


@check("kernel.ldt", "change the segments of the processor")
def ldt(tries: Tries) -> None:
    """modify_ldt(2) that writes an entry"""
    entry = struct.pack("IIII", 0, 0, 0xFFFFF, 0x51)
    tries.make("modify_ldt", lambda: call("modify_ldt", 1, entry, len(entry)))


@check("kernel.log", "read what the kernel says")
def log(tries: Tries) -> None:
    """syslog(2), /dev/kmsg, /proc/kmsg"""
    tries.make("syslog", lambda: call("syslog", 3, ctypes.create_string_buffer(4096), 4096))
    for path in ("/dev/kmsg", "/proc/kmsg"):
        tries.open(path)
        tries.open(path, os.O_WRONLY)


@check("kernel.addresses", "learn where the kernel is in memory")
def addresses(tries: Tries) -> None:
    """addresses that are not 0 in /proc/kallsyms, /proc/modules and /proc/iomem; /proc/kcore, /proc/self/pagemap"""
    for path in ("/proc/kallsyms", "/proc/modules", "/proc/iomem", "/proc/vmallocinfo"):
        first = (quietly(partial(_head, path)) or "").splitlines()
        told = [line for line in first if any(_address(word) for word in line.replace("-", " ").split())]
        tries.see(f"{path}: {told[:1] or 'nothing'}", bool(told))
    tries.open("/proc/kcore")
    frames = [struct.unpack("Q", entry)[0] & (1 << 55) - 1 for entry in (_pagemap_entry(),) if len(entry) == 8]
    tries.see(f"frame {frames}", any(frames))


@check("kernel.rlimits", "find no limit set")
def rlimits(tries: Tries) -> None:
    """whether the limits on open files, file size and core files are set at all"""
    for name in ("NOFILE", "FSIZE", "CORE"):
        limit = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]
        tries.see(f"{name} {limit}", limit == resource.RLIM_INFINITY)
    tries.see("core files", resource.getrlimit(resource.RLIMIT_CORE)[1] != 0)


def _address(word: str) -> bool:
    try:
        return len(word.removeprefix("0x")) >= 8 and int(word, 16) != 0
    except ValueError:
        return False


def _head(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(20000)


def _pagemap_entry() -> bytes:
    def read() -> bytes:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek(ctypes.addressof(_HERE) // 4096 * 8)
            return file.read(8)

    return quietly(read) or b""


_HERE: Final = ctypes.create_string_buffer(b"here")
