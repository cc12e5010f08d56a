"""Builds, inside the guest, what the program will see: layers, memory file systems, devices, and its own cgroup."""

from __future__ import annotations

import base64
import os
import stat
import time
from typing import Any, Final

from sandboxes.qemu.guest_system import BIND, NODEV, NOEXEC, NOSUID, RDONLY, REMOUNT, SCRATCH, mount, write

ROOT: Final = "/room"
CGROUP: Final = "/cgroup/box"
_LAYERS, _FILES, _SKELETON = "/layers", "/files", "/skeleton"
_DEVICES: Final = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_FD_LINKS: Final = (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2"))
_DISKS_S: Final = 10.0


def build(box: dict[str, Any]) -> None:
    """All of it, from what the relay told. Raises `OSError`."""
    disks = _disks({layer["serial"] for layer in box["layers"]})
    base = [layer for layer in box["layers"] if not layer["target"]]
    others = [layer for layer in box["layers"] if layer["target"]]
    mount("box", _SKELETON, "tmpfs", SCRATCH, "mode=755")
    mount("box", _FILES, "tmpfs", NOSUID | NODEV, "mode=755")
    for name in ("proc", "dev", "tmp", "run", "etc", "workspace"):
        os.makedirs(f"{_SKELETON}/{name}", 0o755, exist_ok=True)
    _prepare(box["files"], others, disks)
    lower = ":".join([_SKELETON, *(_mounted(layer, disks) for layer in base)])
    mount("box", ROOT, "overlay", RDONLY | NOSUID | NODEV, f"lowerdir={lower}")
    _scratch(box["scratch"], box["uid"])
    for target in [*(layer["target"] for layer in others), *box["files"]]:
        _appear(target, box["scratch"])
    mount("proc", ROOT + "/proc", "proc", SCRATCH, "hidepid=invisible")
    _devices(box["scratch"], box["uid"])
    _limit(box["limits"])


def _prepare(files: dict[str, str], layers: list[dict[str, Any]], disks: dict[str, str]) -> None:
    """Have every file and layer at hand, and in the skeleton a place where it will appear."""
    for path, content in files.items():
        _put(_FILES + path, base64.b64decode(content), 0o444)
        _put(_SKELETON + path, b"", 0o444)
    mount(_FILES, _FILES, "", BIND)
    mount(_FILES, _FILES, "", REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    for layer in layers:
        content = _mounted(layer, disks)
        if os.path.isdir(content):
            os.makedirs(_SKELETON + layer["target"], 0o755, exist_ok=True)
        else:
            _put(_SKELETON + layer["target"], b"", 0o444)
        _sources[layer["target"]] = content
    _sources.update({path: _FILES + path for path in files})


_sources: dict[str, str] = {}
"""Where what appears at a path of the box is kept outside of it."""


def _mounted(layer: dict[str, Any], disks: dict[str, str]) -> str:
    """Where the content of a layer is now."""
    at = f"{_LAYERS}/{layer['serial']}"
    mount(disks[layer["serial"]], at, "ext4", RDONLY | NOSUID | NODEV)
    return at + "/content"  # images.CONTENT


def _appear(target: str, scratch: list[dict[str, Any]]) -> None:
    source, place = _sources[target], ROOT + target
    if any(target.startswith(memory["path"] + "/") for memory in scratch):
        if os.path.isdir(source):
            os.makedirs(place, 0o755, exist_ok=True)
        else:
            _put(place, b"", 0o444)
    mount(source, place, "", BIND)
    mount(source, place, "", REMOUNT | BIND | RDONLY | NOSUID | NODEV)


def _put(path: str, content: bytes, mode: int) -> None:
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with open(fd, "wb") as file:
        file.write(content)


def _scratch(scratch: list[dict[str, Any]], uid: int) -> None:
    """Writable memory of limited size: never executable."""
    for memory in scratch:
        if memory["path"].startswith("/dev/"):
            continue  # with the devices
        _memory(memory, uid)


def _memory(memory: dict[str, Any], uid: int) -> None:
    options = f"size={memory['bytes']},nr_inodes={memory['inodes']},mode=700,uid={uid},gid={uid}"
    mount("box", ROOT + memory["path"], "tmpfs", SCRATCH, options)


def _devices(scratch: list[dict[str, Any]], uid: int) -> None:
    dev = ROOT + "/dev"
    mount("box", dev, "tmpfs", NOSUID | NOEXEC, "mode=755,size=64k,nr_inodes=64")
    for name, major, minor in _DEVICES:
        os.mknod(f"{dev}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.chmod(f"{dev}/{name}", 0o666)  # noqa: S103  # as everywhere
    for name, of in _FD_LINKS:
        os.symlink("/proc/self/fd" + of, f"{dev}/{name}")
    mount("box", dev + "/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    os.symlink("pts/ptmx", dev + "/ptmx")
    for memory in scratch:
        if memory["path"].startswith("/dev/"):
            _memory(memory, uid)
    mount(dev, dev, "", REMOUNT | BIND | RDONLY | NOSUID | NOEXEC)


def _limit(limits: dict[str, int]) -> None:
    write("/cgroup/cgroup.subtree_control", "+pids +memory")
    os.mkdir(CGROUP)
    write(CGROUP + "/pids.max", str(limits["processes"]))
    write(CGROUP + "/memory.max", str(limits["memory_bytes"]))


def _disks(serials: set[str]) -> dict[str, str]:
    """The device of each serial number. Raises `OSError` when one does not turn up."""
    until = time.monotonic() + _DISKS_S
    while True:
        found = {_serial(name): f"/dev/{name}" for name in os.listdir("/sys/block") if name.startswith("vd")}
        if serials <= found.keys():
            return found
        if time.monotonic() > until:
            raise OSError(f"no disk {sorted(serials - found.keys())}")
        time.sleep(0.01)


def _serial(name: str) -> str:
    with open(f"/sys/block/{name}/serial", encoding="utf-8") as file:
        return file.read().strip()
