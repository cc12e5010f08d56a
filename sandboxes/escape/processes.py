"""Tries to reach other processes and to gain rights. Runs inside the box: standard library only."""

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
from sandboxes.escape.files import others
from sandboxes.escape.mounts import NAMESPACES
from sandboxes.escape.syscalls import call, prctl

CHECKS: Final[list[Check]] = []
check = collector(CHECKS)

_SEIZE, _DETACH = 0x4206, 17
_SO_PEERPIDFD: Final = 77
_PR_CAP_AMBIENT, _PR_SET_SECUREBITS, _PR_GET_NO_NEW_PRIVS = 47, 28, 39
GONE: Final = (errno.ESRCH,)


def opened_at_start() -> list[str]:
    """What is open in this process beyond its three streams. To be asked before anything is opened."""
    directory = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    names = [name for name in os.listdir(directory) if int(name) > 2 and int(name) != directory]
    found = [f"{name} -> {quietly(partial(os.readlink, f'/proc/self/fd/{name}'))}" for name in names]
    os.close(directory)
    return [entry for entry in found if not entry.endswith("None")]


@check("process.ptrace", "trace other processes")
def ptrace(tries: Tries) -> None:
    """PTRACE_SEIZE of every process that is not of this suite, the box's first one above all"""
    for pid in others():
        if tries.make(f"seize {pid}", partial(call, "ptrace", _SEIZE, int(pid), 0, 0), *GONE) is not None:
            quietly(partial(call, "ptrace", _DETACH, int(pid), 0, 0))


@check("process.memory", "read and write the memory of other processes")
def memory(tries: Tries) -> None:
    """process_vm_readv and process_vm_writev of, and open /proc/PID/mem of, every process that is not of this suite"""
    own = ctypes.create_string_buffer(8)
    local = struct.pack("QQ", ctypes.addressof(own), 8)
    remote = struct.pack("QQ", 4096, 8)
    for pid in others():
        tries.make(f"read {pid}", partial(call, "process_vm_readv", int(pid), local, 1, remote, 1, 0), *GONE)
        tries.make(f"write {pid}", partial(call, "process_vm_writev", int(pid), local, 1, remote, 1, 0), *GONE)
        tries.open(f"/proc/{pid}/mem", os.O_RDWR)


@check("process.host", "signal a process of the host", reach="host")
def host(tries: Tries) -> None:
    """kill with signal 0 and pidfd_open of a process of the gateway, by its number there"""
    number = tries.target.pid
    here = quietly(partial(_content, f"/proc/{number}/cmdline"))
    if here is None or tries.target.canary.encode() in here:  # else it is one of the box that has the same number
        tries.make("kill", lambda: os.kill(number, 0), *GONE)
        tries.make("pidfd_open", lambda: call("pidfd_open", number, 0), *GONE)


@check("process.list", "see processes of the host", reach="host")
def listing(tries: Tries) -> None:
    """look for the arguments of a process of the gateway in every /proc/PID/cmdline"""
    for pid in others():
        found = quietly(partial(_content, f"/proc/{pid}/cmdline")) or b""
        tries.see(f"{pid}: {found[:60]!r}", tries.target.canary.encode() in found)


@check("process.environment", "read the gateway's environment", reach="host")
def environment(tries: Tries) -> None:
    """look for a variable of the gateway in our own environment and in every /proc/PID/environ"""
    tries.see("own environment", tries.target.canary in repr(dict(os.environ)))
    for pid in others():
        found = quietly(partial(_content, f"/proc/{pid}/environ"))
        tries.see(f"{pid}: {'closed' if found is None else len(found)}", tries.target.canary.encode() in (found or b""))


@check("process.launcher", "look into the launcher of the box")
def launcher(tries: Tries) -> None:
    """read /proc/1/environ, maps, exe, root and cwd of the first process, where that is not of the suite"""
    for name in ("environ", "maps", "auxv", "stack", "syscall"):
        if "1" in others():
            tries.make(name, partial(_content, f"/proc/1/{name}"), *ABSENT)
    for name in ("exe", "root", "cwd"):
        if "1" in others():
            tries.make(name, partial(os.readlink, f"/proc/1/{name}"), *ABSENT)


@check("process.files", "find files that somebody left open for us", reach="host")
def files(tries: Tries) -> None:
    """what stood in /proc/self/fd beyond the three streams when the program began, and what the streams are"""
    for entry in os.environ.get("ESCAPE_OPENED", "").split("|"):
        tries.see(entry, bool(entry))
    for fd in (0, 1, 2):
        link = os.readlink(f"/proc/self/fd/{fd}")
        tries.see(f"{fd} -> {link}", link.startswith("/") and not link.startswith(("/dev/null", "/dev/pts", "/dev/")))


@check("process.pidfd-getfd", "take open files out of other processes")
def pidfd_getfd(tries: Tries) -> None:
    """pidfd_open, then pidfd_getfd of the first ten descriptors of every process that is not of this suite"""
    for pid in others():
        handle = quietly(partial(call, "pidfd_open", int(pid), 0))
        for number in range(10):
            if handle is not None:
                tries.make(f"{pid} {number}", partial(call, "pidfd_getfd", handle, number, 0), errno.EBADF, *GONE)


@check("process.peer", "reach the gateway through the other end of a socket", reach="host")
def peer(tries: Tries) -> None:
    """SO_PEERPIDFD of streams that are sockets; signal, enter and take files from whoever that is"""
    for fd in (0, 1, 2):
        handle = quietly(partial(_peer_of, fd))
        if handle is None:
            continue
        tries.make(f"{fd}: signal", partial(call, "pidfd_send_signal", handle, 0, None, 0), errno.EINVAL, *GONE)
        tries.make(f"{fd}: take a file", partial(call, "pidfd_getfd", handle, 0, 0), *GONE)
        for name in ("mnt", "net", "pid"):
            tries.make(f"{fd}: enter {name}", partial(call, "setns", handle, NAMESPACES[name]), *GONE)


@check("process.advise", "push the memory of others around")
def advise(tries: Tries) -> None:
    """process_madvise, process_mrelease, move_pages and migrate_pages of the first process"""
    if "1" not in others():
        return
    handle = quietly(lambda: call("pidfd_open", 1, 0))
    vector = struct.pack("QQ", 4096, 4096)
    if handle is not None:
        tries.make("process_madvise", lambda: call("process_madvise", handle, vector, 1, 21, 0), *GONE)
        tries.make("process_mrelease", lambda: call("process_mrelease", handle, 0), *GONE)
    nodes = ctypes.create_string_buffer(b"\1", 128)
    tries.make("migrate_pages", lambda: call("migrate_pages", 1, 64, nodes, nodes), *GONE)


@check("process.compare", "compare kernel objects with other processes")
def compare(tries: Tries) -> None:
    """kcmp of our files and memory with those of the first process"""
    if "1" in others():
        for kind in range(4):
            tries.make(f"kcmp {kind}", partial(call, "kcmp", os.getpid(), 1, kind, 0, 0), errno.EINVAL, *GONE)


@check("process.capabilities", "hold a capability")
def capabilities(tries: Tries) -> None:
    """the five sets of /proc/self/status; capset, an ambient capability, securebits"""
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        tries.see(f"{name} {status(name)}", int(status(name) or "0", 16) != 0)
    header, everything = struct.pack("II", 0x20080522, 0), b"\xff" * 24
    tries.make("capset", lambda: call("capset", header, everything))
    tries.make("ambient", lambda: prctl(_PR_CAP_AMBIENT, 2, 21), errno.EINVAL)
    tries.make("securebits", lambda: prctl(_PR_SET_SECUREBITS, 0), errno.EINVAL)


@check("process.no-new-privileges", "gain rights by executing")
def no_new_privileges(tries: Tries) -> None:
    """what prctl(PR_GET_NO_NEW_PRIVS) says"""
    tries.see("no new privileges", not no_gain())


@check("process.seccomp", "reach every system call")
def seccomp(tries: Tries) -> None:
    """whether a filter stands in /proc/self/status"""
    tries.see(f"Seccomp {status('Seccomp')}", status("Seccomp") != "2")


@check("process.setuid", "become root or another user")
def setuid(tries: Tries) -> None:
    """setresuid, setresgid and setgroups to 0 and to a neighbour's number"""
    for number in (0, os.getuid() + 1):
        if number != os.getuid():
            tries.make(f"uid {number}", partial(os.setresuid, number, number, number), errno.EINVAL)
        if number != os.getgid():
            tries.make(f"gid {number}", partial(os.setresgid, number, number, number), errno.EINVAL)
        tries.make(f"groups {number}", partial(os.setgroups, [number]), errno.EINVAL)


@check("process.limits", "raise our own limits and those of others")
def limits(tries: Tries) -> None:
    """setrlimit beyond the hard limits, prlimit of the first process"""
    for name in ("NOFILE", "NPROC", "FSIZE", "CORE", "AS", "MEMLOCK", "NICE", "RTPRIO"):
        number = getattr(resource, f"RLIMIT_{name}")
        soft, hard = resource.getrlimit(number)
        if hard != resource.RLIM_INFINITY:
            tries.make(name, partial(_raise_limit, number, soft, hard + 1))
    if "1" in others():
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        tries.make("prlimit 1", lambda: resource.prlimit(1, resource.RLIMIT_CORE, unlimited), *GONE)


@check("process.priority", "run before everybody else")
def priority(tries: Tries) -> None:
    """nice -5, SCHED_FIFO and the real-time class of disks"""
    tries.make("nice", lambda: os.nice(-5))
    tries.make("fifo", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
    tries.make("disk", lambda: call("ioprio_set", 1, 0, 1 << 13))


@check("process.oom", "have others killed first when memory runs out")
def oom(tries: Tries) -> None:
    """write a lower number to /proc/self/oom_score_adj"""
    now = int(_content("/proc/self/oom_score_adj"))
    tries.make("oom_score_adj", lambda: _write("/proc/self/oom_score_adj", str(max(now - 100, -1000))), *ABSENT)


@check("process.personality", "make readable memory executable")
def personality(tries: Tries) -> None:
    """personality READ_IMPLIES_EXEC with ADDR_NO_RANDOMIZE"""
    tries.make("personality", lambda: call("personality", 0x0440000), errno.EINVAL)


def no_gain() -> bool:
    """Whether executing can gain us nothing."""
    return prctl(_PR_GET_NO_NEW_PRIVS) == 1


def status(name: str) -> str:
    """A line of /proc/self/status."""
    for line in _content("/proc/self/status").decode().splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    return ""


def _raise_limit(number: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError as exc:  # how Python says EPERM here
        raise PermissionError(errno.EPERM, str(exc)) from exc


def _peer_of(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as stream:
        return stream.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(65536)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
