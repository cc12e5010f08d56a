"""Tries to reach files that the box was not given. Runs inside the box: standard library only."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from functools import partial
from typing import Final

from sandboxes.escape.check import ABSENT, TMP, WORK, Check, Tries, collector, quietly
from sandboxes.escape.syscalls import AT_FDCWD, call

CHECKS: Final[list[Check]] = []
check = collector(CHECKS)

_BASE: Final = ("/", "/usr", "/usr/bin", "/usr/local/bin", "/etc", "/bin", "/lib", "/sbin", "/opt", "/var", "/run")
_AROUND: Final = (
    "",
    f"{WORK}/..",
    f"{TMP}/..",
    "/proc/self/root",
    "/proc/self/cwd/..",
    "/oldroot",
    "/newroot",
    "/host",
)


def others() -> list[str]:
    """The processes of the box that are not ours: neither this one nor the runner of the suite."""
    own = {str(os.getpid()), str(os.getppid())}
    return [name for name in os.listdir("/proc") if name.isdigit() and name not in own]


@check("files.shadow", "read the password file", reach="host")
def shadow(tries: Tries) -> None:
    """open /etc/shadow, its backup and /etc/sudoers for reading"""
    for path in ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/sudoers"):
        tries.open(path)


@check("files.canary", "read a file that everybody on the host may read", reach="host")
def canary(tries: Tries) -> None:
    """open a 0644 file of the host that was not bound in, by its path and by ways around it"""
    for prefix in _AROUND:
        tries.open(prefix + tries.target.canary_file)


@check("files.gateway", "see the gateway's own files and those of other boxes", reach="host")
def gateway(tries: Tries) -> None:
    """stat the gateway's configuration and data and the directory of every box"""
    for path in tries.target.gateway_paths:
        tries.make(path, partial(os.stat, path), *ABSENT)


@check("files.homes", "list what a system keeps beside its programs", reach="host")
def homes(tries: Tries) -> None:
    """list /root, /home, /mnt, /media, /srv, /boot, /var/lib and /var/log"""
    for path in ("/root", "/home", "/mnt", "/media", "/srv", "/boot", "/var/lib", "/var/log"):
        tries.see(f"{path}: {len(tries.entries(path))} entries", bool(tries.entries(path)))


@check("files.write-base", "change the base system", reach="host")
def write_base(tries: Tries) -> None:
    """create a file in each directory of the base, and open programs and settings of it for writing"""
    for directory in (*_BASE, os.path.dirname(sys.argv[0])):
        tries.open(f"{directory}/.escape", os.O_WRONLY | os.O_CREAT)
    for path in (os.path.realpath(sys.executable), sys.argv[0], "/etc/passwd", "/etc/hosts", "/usr/bin/env"):
        tries.open(path, os.O_WRONLY, errno.ETXTBSY)


@check("files.metadata", "change whose files are, and when they were made", reach="host")
def metadata(tries: Tries) -> None:
    """chmod, chown, utime, setxattr, rename and unlink of programs and settings of the base, and of what was given"""
    for path in (sys.argv[0], "/usr/bin/env", "/etc/passwd", "/run/egress.sock", "/usr/bin", "/"):
        if os.path.exists(path):
            mode = os.stat(path).st_mode & 0o7777
            tries.make(f"chmod {path}", partial(os.chmod, path, mode))
            tries.make(f"chown {path}", partial(os.chown, path, os.getuid(), os.getgid()))
            tries.make(f"utime {path}", partial(os.utime, path))
            tries.make(f"setxattr {path}", partial(os.setxattr, path, "user.escape", b"x"), errno.EOPNOTSUPP)
            tries.make(f"rename {path}", partial(os.rename, path, path), errno.EBUSY)


@check("files.symlink", "follow a symbolic link out of the workspace", reach="host")
def symlink(tries: Tries) -> None:
    """make links in the workspace to the canary, to /etc/shadow and to other roots, and open through them"""
    for goal in (
        tries.target.canary_file,
        "/etc/shadow",
        f"/proc/1/root{tries.target.canary_file}",
        "/proc/1/root/etc/shadow",
    ):
        link = f"{WORK}/link"
        os.symlink(goal, link)
        tries.open(link)
        os.unlink(link)


@check("files.proc-root", "pass through other processes' view of the file system", reach="host")
def proc_root(tries: Tries) -> None:
    """open the canary below /proc/PID/root, cwd and task/ of every process that can be seen"""
    for pid in others():
        for link in ("root", "cwd", "root/proc/1/root", f"task/{pid}/root"):
            tries.open(f"/proc/{pid}/{link}{tries.target.canary_file}")


@check("files.proc-fd", "reopen the open files of other processes")
def proc_fd(tries: Tries) -> None:
    """list /proc/PID/fd of every other process and open what is there, the launcher of the box above all"""
    for pid in others():
        for name in tries.entries(f"/proc/{pid}/fd"):
            tries.open(f"/proc/{pid}/fd/{name}")


@check("files.handle", "open files by handle")
def handle(tries: Tries) -> None:
    """open_by_handle_at with a handle from name_to_handle_at, or a made-up one of inode 2"""
    wanted = ctypes.create_string_buffer((8).to_bytes(4, "little") + (1).to_bytes(4, "little") + b"\2" + bytes(7), 136)
    named = ctypes.create_string_buffer((128).to_bytes(4, "little"), 136)
    mount = ctypes.c_int()
    if quietly(lambda: call("name_to_handle_at", AT_FDCWD, b"/usr", named, ctypes.byref(mount), 0)) is not None:
        wanted = named
    usr = os.open("/usr", os.O_RDONLY)
    tries.make("open_by_handle_at", lambda: call("open_by_handle_at", usr, wanted, os.O_RDONLY), errno.EOPNOTSUPP)


@check("files.watch", "watch what happens to files of the host", reach="host")
def watch(tries: Tries) -> None:
    """inotify on the canary file"""
    fd = quietly(lambda: call("inotify_init1", 0))
    if fd is not None:
        tries.make("inotify", lambda: call("inotify_add_watch", fd, tries.target.canary_file.encode(), 2), *ABSENT)


@check("files.fanotify", "intercept what others open")
def fanotify(tries: Tries) -> None:
    """fanotify_init of the class that may hold up and deny accesses"""
    tries.make("fanotify_init", lambda: call("fanotify_init", 4, os.O_RDONLY))


@check("files.dirty-cow", "write to a read-only file through a private mapping", reach="host")
def dirty_cow(tries: Tries) -> None:
    """map this program's own file privately, write to the mapping through /proc/self/mem, read the file anew"""
    path = sys.argv[0]
    before = _read(path)
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), len(before), mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(len(before)), mmap.PROT_READ)
    quietly(partial(_poke, address))
    tries.see("the program's own file", _read(path) != before)


@check("files.dirty-pipe", "write to a read-only file through a pipe", reach="host")
def dirty_pipe(tries: Tries) -> None:
    """splice a page of this program's own file into a pipe that was filled and drained, and write after it"""
    path = sys.argv[0]
    before = _read(path)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    while quietly(partial(os.write, writing, bytes(4096))):
        pass
    while quietly(partial(os.read, reading, 65536)):
        pass
    with open(path, "rb") as file:
        _splice(file.fileno(), writing)
    os.write(writing, b"dirty")
    tries.see("the program's own file", _read(path) != before)


@check("files.shm", "see the host's shared memory", reach="host")
def shm(tries: Tries) -> None:
    """open a world-readable file that the host keeps in /dev/shm"""
    tries.open(tries.target.shm_file)


@check("files.permissions", "do without permissions")
def permissions(tries: Tries) -> None:
    """take every permission off a file and open it; give a file away: only capabilities allow that"""
    path = f"{WORK}/closed"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0))
    tries.open(path, os.O_RDWR)
    tries.make("chown", partial(os.chown, path, os.getuid() + 1, -1), errno.EINVAL)
    os.unlink(path)


@check("files.trusted-xattr", "mark files in ways that kernels trust")
def trusted_xattr(tries: Tries) -> None:
    """set trusted.overlay.opaque and security.capability on a file of our own"""
    path = f"{WORK}/marked"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o700))
    capability = b"\1\0\0\2" + bytes(16)
    tries.make("trusted", partial(os.setxattr, path, "trusted.overlay.opaque", b"y"), errno.EOPNOTSUPP)
    tries.make("file capability", partial(os.setxattr, path, "security.capability", capability), errno.EOPNOTSUPP)
    os.unlink(path)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _poke(address: int) -> None:
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(address)
        memory.write(b"dirty")


def _splice(source: int, pipe: int) -> None:
    splice = getattr(os, "splice", None)  # Python 3.10
    if splice is not None:
        quietly(partial(splice, source, pipe, 1, offset_src=0))
