"""Tries to change mounts and to enter or make namespaces. Runs inside the box: standard library only."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Final

from sandboxes.escape.check import TMP, WORK, Check, Tries, collector, quietly
from sandboxes.escape.syscalls import AT_FDCWD, X32_BIT, call

CHECKS: Final[list[Check]] = []
check = collector(CHECKS)

_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _SHARED = 1, 2, 4, 32, 4096, 16384, 1 << 20
NAMESPACES: Final = {
    "user": 0x1000_0000, "mnt": 0x2_0000, "net": 0x4000_0000, "pid": 0x2000_0000, "ipc": 0x800_0000,
    "uts": 0x400_0000, "cgroup": 0x200_0000, "time": 0x80,
}  # fmt: skip


@check("mount.new", "mount file systems")
def new(tries: Tries) -> None:
    """mount tmpfs, proc, sysfs, cgroup2, overlay, devpts, mqueue and debugfs on a directory of ours"""
    place = _directory()
    for kind in (b"tmpfs", b"proc", b"sysfs", b"cgroup2", b"overlay", b"devpts", b"mqueue", b"debugfs", b"binfmt_misc"):
        tries.make(kind.decode(), partial(call, "mount", kind, place, kind, 0, None))


@check("mount.remount", "lift the limits of mounts")
def remount(tries: Tries) -> None:
    """remount /tmp and the workspace without noexec; remount /, /usr, /dev and /proc"""
    for path in (TMP, WORK, "/", "/usr", "/dev", "/proc", "/etc"):
        kept = _NOSUID | _NODEV | (_RDONLY if path in {"/", "/usr", "/etc"} else 0)
        flags = _REMOUNT | _BIND | kept
        tries.make(path, partial(call, "mount", None, path.encode(), None, flags, None), errno.ENOENT)
    tries.make("the file system", lambda: call("mount", None, TMP.encode(), None, _REMOUNT | _NOSUID | _NODEV, None))


@check("mount.setattr", "lift the limits of mounts the new way")
def setattr_(tries: Tries) -> None:
    """mount_setattr that clears noexec, of / with all below it, and of /tmp and the workspace"""
    attributes = ctypes.create_string_buffer(bytes(8) + (8).to_bytes(8, "little") + bytes(16), 32)
    for path in ("/", TMP, WORK):
        tries.make(path, partial(call, "mount_setattr", AT_FDCWD, path.encode(), 0x8000, attributes, 32))


@check("mount.bind", "bind directories")
def bind(tries: Tries) -> None:
    """bind / and /usr on a directory of ours, change how / propagates"""
    place = _directory()
    tries.make("bind /", lambda: call("mount", b"/", place, None, _BIND | _REC, None))
    tries.make("bind /usr", lambda: call("mount", b"/usr", place, None, _BIND, None))
    tries.make("share /", lambda: call("mount", None, b"/", None, _REC | _SHARED, None))


@check("mount.fsopen", "make a file system the new way")
def fsopen(tries: Tries) -> None:
    """fsopen of tmpfs and ext4, fspick of /"""
    tries.make("fsopen tmpfs", lambda: call("fsopen", b"tmpfs", 0))
    tries.make("fsopen ext4", lambda: call("fsopen", b"ext4", 0))
    tries.make("fspick", lambda: call("fspick", AT_FDCWD, b"/", 0))


@check("mount.open-tree", "clone a tree of mounts")
def open_tree(tries: Tries) -> None:
    """open_tree and open_tree_attr with OPEN_TREE_CLONE of / and /usr"""
    for path in (b"/", b"/usr"):
        tries.make(path.decode(), partial(call, "open_tree", AT_FDCWD, path, 1 | 0x8000))
    tries.make("open_tree_attr", lambda: call("open_tree_attr", AT_FDCWD, b"/", 1 | 0x8000, None, 0))


@check("mount.move", "move a mount")
def move(tries: Tries) -> None:
    """move_mount of / onto /: whoever may move mounts is told that this one cannot be"""
    tries.make("move_mount", lambda: call("move_mount", AT_FDCWD, b"/", AT_FDCWD, b"/", 0))


@check("mount.umount", "take mounts away to see what is below")
def umount(tries: Tries) -> None:
    """umount2 with MNT_EXPIRE of /proc, /dev, /tmp, the workspace and /: whoever may is told to come again"""
    for path in ("/proc", "/dev", TMP, WORK, "/"):
        tries.make(path, partial(call, "umount2", path.encode(), 4))


@check("mount.pivot-root", "change the root of all processes")
def pivot_root(tries: Tries) -> None:
    """pivot_root of / to /: whoever may is told that it is busy"""
    tries.make("pivot_root", lambda: call("pivot_root", b"/", b"/"))


@check("ns.chroot", "change the root, the first step of an old way out")
def chroot(tries: Tries) -> None:
    """chroot to /tmp"""
    tries.make("chroot", lambda: call("chroot", TMP.encode()))


def _unshare(name: str) -> Callable[[Tries], None]:
    def run(tries: Tries) -> None:
        tries.make("unshare", lambda: call("unshare", NAMESPACES[name]))

    run.__doc__ = f"unshare(2) of the {name} namespace"
    return run


for _name in NAMESPACES:
    check(f"ns.unshare-{_name}", f"make a {_name} namespace")(_unshare(_name))


@check("ns.user-root", "become root of a user namespace and mount there")
def user_root(tries: Tries) -> None:
    """unshare user and mnt at once, map oneself to 0, mount a tmpfs"""
    uid = os.getuid()
    if tries.make("unshare", lambda: call("unshare", NAMESPACES["user"] | NAMESPACES["mnt"])) is not None:
        tries.make("uid_map", lambda: _write("/proc/self/uid_map", f"0 {uid} 1"))
        tries.make("mount", lambda: call("mount", b"tmpfs", TMP.encode(), b"tmpfs", 0, None))


@check("ns.clone", "start a process in new namespaces")
def clone(tries: Tries) -> None:
    """clone(2) with each of the CLONE_NEW flags"""
    for name, flag in NAMESPACES.items():
        if name != "time":  # the bit means something else to clone
            tries.make(name, partial(_cloned, flag))


@check("ns.clone3", "start a process in new namespaces the new way")
def clone3(tries: Tries) -> None:
    """clone3(2), whose flags no filter can see, with each of the CLONE_NEW flags"""
    for name, flag in NAMESPACES.items():
        tries.make(name, partial(_cloned3, flag))


@check("ns.x32", "go round a filter by the other numbers of the calls")
def x32(tries: Tries) -> None:
    """unshare of a user namespace by its x32 number"""
    tries.make("x32 unshare", lambda: call("unshare", NAMESPACES["user"], extra=X32_BIT))


@check("ns.setns", "enter the namespaces of other processes")
def setns(tries: Tries) -> None:
    """setns to each /proc/PID/ns of the first process and of our ancestors that is not our own"""
    for pid in ("1", str(os.getppid())):
        for name in tries.entries(f"/proc/{pid}/ns"):
            tries.make(f"{pid} {name}", partial(_enter, f"/proc/{pid}/ns/{name}"), *_NOT_OTHER)


@check("ns.pidfd-setns", "enter the namespaces of a process by its handle")
def pidfd_setns(tries: Tries) -> None:
    """pidfd_open of process 1, setns of its mnt, net and pid namespaces"""
    fd = quietly(lambda: call("pidfd_open", 1, 0))
    for name in ("mnt", "net", "pid", "uts"):
        if fd is not None:
            tries.make(name, partial(call, "setns", fd, NAMESPACES[name]))


@check("ns.owner", "reach the namespaces above our own")
def owner(tries: Tries) -> None:
    """ioctl NS_GET_USERNS and NS_GET_PARENT on our own namespaces; an owner above ours would come back as a file"""
    for name in ("user", "pid"):
        with open(f"/proc/self/ns/{name}", "rb") as own:
            tries.make(f"parent of {name}", partial(call, "ioctl", own.fileno(), 0xB702), errno.ENOTTY, errno.EINVAL)


@check("ns.maps", "change who we are outside")
def maps(tries: Tries) -> None:
    """write new uid and gid maps for our namespace and for that of process 1"""
    for pid in ("self", "1"):
        for name in ("uid_map", "gid_map", "projid_map"):
            tries.make(f"{pid}/{name}", partial(_write, f"/proc/{pid}/{name}", "0 0 1"), errno.ENOENT)


def _directory() -> bytes:
    path = f"{WORK}/mountpoint"
    os.makedirs(path, exist_ok=True)
    return path.encode()


_NOT_OTHER: Final = (errno.EINVAL,)
"""What setns says to a user namespace that one is in already, after it has allowed nothing."""


def _enter(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        call("setns", fd, 0)
    finally:
        os.close(fd)


def _cloned(flag: int) -> None:
    _waited(call("clone", flag | signal.SIGCHLD, 0, 0, 0, 0))


def _cloned3(flag: int) -> None:
    arguments = ctypes.create_string_buffer(88)
    ctypes.memmove(arguments, flag.to_bytes(8, "little"), 8)
    ctypes.memmove(ctypes.addressof(arguments) + 32, int(signal.SIGCHLD).to_bytes(8, "little"), 8)
    _waited(call("clone3", arguments, 88))


def _waited(pid: int) -> None:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
