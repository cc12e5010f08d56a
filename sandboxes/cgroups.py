"""Limits of a box as the kernel keeps them: control groups where they can be had, rlimits beside or instead."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandboxes.spec import Limits

_PREFIX: Final = "interlock-"
_LEAF: Final = "interlock-gateway"
"""Where the gateway itself goes under version 2: a group with members can have no groups with limits below it."""
_CONTROLLERS: Final = ("memory", "pids", "cpu")
_PERIOD_US: Final = 100_000
_KILL_ROUNDS, _KILL_PAUSE_S = 200, 0.01


@dataclass(frozen=True, slots=True)
class Parent:
    """A group below which groups for boxes can be made, with some of memory, pids and cpu to limit."""

    directory: str
    controllers: tuple[str, ...]
    unified: bool
    """Version 2."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The groups of one box: the files through which its first process joins, and the directories to remove."""

    procs: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Setting:
    file: str
    value: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The groups that can be had on this machine; none is no error."""

    parents: tuple[Parent, ...] = ()

    @classmethod
    def found(cls, proc: Path = Path("/proc/self")) -> Cgroups:
        """Look where our own groups are, and which we may make more below.

        Under version 2 this moves the gateway into a group beside those of its boxes, if it is alone in its own.
        """
        try:
            mounts, own = (proc / "mountinfo").read_text(), (proc / "cgroup").read_text()
        except OSError:
            return cls()
        return cls((*_version_1(mounts, own), *_version_2(mounts, own)))

    @property
    def limits(self) -> frozenset[str]:
        """What can be limited: memory, pids, cpu."""
        return frozenset(name for parent in self.parents for name in parent.controllers)

    def make(self, box_id: str, limits: Limits) -> Joined:
        """Make the groups of a box. One whose limits cannot be set is left out."""
        made = [made for parent in self.parents if (made := _made(parent, f"{_PREFIX}{box_id}", limits))]
        return Joined(tuple(f"{directory}/cgroup.procs" for directory in made), tuple(made))

    def sweep(self, prefix: str) -> int:
        """Kill who is in groups of boxes whose id begins with `prefix`, and remove them. Returns how many are gone.

        Other gateways may have groups beside ours, so there is no "all". Blocks, at worst for two seconds a group.
        """
        return sum(_removed(directory) for parent in self.parents for directory in _ours(parent.directory, prefix))


def home_of(procs: Sequence[str], proc: Path = Path("/proc/self")) -> tuple[str, ...]:
    """Our own group for each group of a box (`Joined.procs`); nothing where one cannot be told (`plan.Jail.home`)."""
    homes = tuple(_home(os.path.dirname(os.path.dirname(path)), proc) for path in procs)
    return homes if all(os.path.exists(path) for path in homes) else ()


def _home(parent: str, proc: Path) -> str:
    if not os.path.exists(f"{parent}/cgroup.subtree_control"):  # version 1: the box's group is below ours
        return f"{parent}/cgroup.procs"
    own = _paths_of((proc / "cgroup").read_text()).get("", "")
    return f"{parent}/{os.path.basename(own)}/cgroup.procs"  # version 2: beside


def joined_at_once(procs: Sequence[str]) -> bool:
    """Whether a process of one thread gets into these groups (`Joined.procs`) without waiting (`host/jail.py`)."""
    return all(os.path.exists(f"{os.path.dirname(path)}/tasks") for path in procs)


def bounds_memory(procs: Sequence[str]) -> bool:
    """Whether one of these groups (`Joined.procs`) limits memory."""
    directories = [os.path.dirname(path) for path in procs]
    names = ("memory.max", "memory.limit_in_bytes")
    return any(os.path.exists(f"{directory}/{name}") for directory in directories for name in names)


def rlimits(limits: Limits, procs: Sequence[str] = ()) -> dict[str, int]:
    """What the kernel bounds for each process, and for `nproc` each user in a user namespace.

    Memory only where no group does it, since it counts what is asked for rather than what is used: private writable
    memory (`data`), because node and others reserve far more addresses (`as`) than any sensible limit.
    """
    always = {
        "core": 0,
        "fsize": limits.file_bytes,
        "memlock": 0,
        "msgqueue": 0,
        "nofile": limits.open_files,
        "nproc": limits.processes,
        "rtprio": 0,
    }
    return always if bounds_memory(procs) else {**always, "data": limits.memory_bytes}


def _mounts_of(text: str) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """(root, mount point, kind, options) of each line of mountinfo (proc(5))."""
    for line in text.split("\n"):
        fields, _, rest = line.partition(" - ")
        words, more = fields.split(" "), rest.split(" ")
        if len(words) >= 6 and len(more) >= 3:
            yield _plain(words[3]), _plain(words[4]), more[0], tuple(more[2].split(","))


def _plain(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _paths_of(text: str) -> dict[str, str]:
    """Our own group for each controller; under the empty name that of version 2 (cgroups(7))."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        names, colon, path = rest.partition(":")
        if number.isdigit() and colon:
            found.update((name, path) for name in names.split(","))
    return found


def _at(mount_point: str, root: str, path: str) -> str | None:
    """The directory of a group, if it can be seen through this mount."""
    if path != root and not path.startswith(root.rstrip("/") + "/"):
        return None
    return (mount_point + "/" + path[len(root.rstrip("/")) :].strip("/")).rstrip("/")


def _version_1(mounts: str, own: str) -> Iterator[Parent]:
    paths = _paths_of(own)
    for root, point, kind, options in _mounts_of(mounts):
        names = tuple(name for name in _CONTROLLERS if kind == "cgroup" and name in options and name in paths)
        directory = _at(point, root, paths[names[0]]) if names else None
        if directory is not None and _may_make(directory):
            yield Parent(directory, names, unified=False)


def _version_2(mounts: str, own: str) -> Iterator[Parent]:
    path = _paths_of(own).get("")
    for root, point, kind, _ in _mounts_of(mounts):
        directory = _at(point, root, path) if kind == "cgroup2" and path is not None else None
        if directory is not None:
            parent = _roomy(directory, point)
            names = _enabled(parent) if parent else ()
            if parent and names:
                yield Parent(parent, names, unified=True)
            return


def _may_make(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK) and os.access(f"{directory}/cgroup.procs", os.W_OK)


def _roomy(own: str, mount_point: str) -> str | None:
    """A group without members that is ours to use: the one above our own, or our own once we left it."""
    above = os.path.dirname(own)
    if own != mount_point and _given(own, above) and _may_make(above) and not _members(above):
        return above
    if not _may_make(own) or _members(own) != [os.getpid()]:
        return None
    leaf = f"{own}/{_LEAF}"
    try:
        os.makedirs(leaf, exist_ok=True)
    except OSError:
        return None
    return own if _done(f"{leaf}/cgroup.procs", str(os.getpid())) else None


def _given(own: str, above: str) -> bool:
    """Whether the group above ours is ours too: we made our own, or systemd did so for us (`DelegateSubgroup=`)."""
    if os.path.basename(own) == _LEAF:
        return True
    try:
        return os.getxattr(above, "user.delegate") == b"1"
    except OSError:
        return False


def _enabled(directory: str) -> tuple[str, ...]:
    """What may be limited below this group: what we are let switch on, which is no error when it is on already."""
    return tuple(name for name in _CONTROLLERS if _done(f"{directory}/cgroup.subtree_control", f"+{name}"))


def _done(path: str, text: str) -> bool:
    try:
        _write(path, text)
    except OSError:
        return False
    return True


def _made(parent: Parent, name: str, limits: Limits) -> str | None:
    directory = f"{parent.directory}/{name}"
    try:
        os.mkdir(directory, 0o755)
    except OSError:
        return None
    try:
        for setting in _settings(parent, limits):
            _set(directory, setting)
    except OSError:
        _removed(directory)
        return None
    return directory


def _settings(parent: Parent, limits: Limits) -> Iterator[_Setting]:
    memory, quota = str(limits.memory_bytes), str(max(1000, int(limits.cpus * _PERIOD_US)))
    known = {
        ("memory", False): (
            _Setting("memory.limit_in_bytes", memory),
            _Setting("memory.memsw.limit_in_bytes", memory, required=False),
        ),
        ("memory", True): (
            _Setting("memory.max", memory),
            _Setting("memory.swap.max", "0", required=False),
            _Setting("memory.oom.group", "1", required=False),
        ),
        ("cpu", False): (_Setting("cpu.cfs_period_us", str(_PERIOD_US)), _Setting("cpu.cfs_quota_us", quota)),
        ("cpu", True): (_Setting("cpu.max", f"{quota} {_PERIOD_US}"),),
    }
    pids = (_Setting("pids.max", str(limits.processes)),)
    for name in parent.controllers:
        yield from pids if name == "pids" else known[name, parent.unified]


def _set(directory: str, setting: _Setting) -> None:
    if setting.required:
        _write(f"{directory}/{setting.file}", setting.value)
    else:  # no swap accounting in this kernel, for one
        _done(f"{directory}/{setting.file}", setting.value)


def _ours(parent: str, prefix: str) -> list[str]:
    try:
        names = os.listdir(parent)
    except OSError:
        return []
    return [f"{parent}/{name}" for name in names if name.startswith(_PREFIX + prefix) and name != _LEAF]


def _removed(directory: str) -> bool:
    """Empty a group by force and remove it."""
    for _ in range(_KILL_ROUNDS):
        for pid in _members(directory):
            _kill(pid)
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return True
        except OSError:  # somebody is still dying in it
            time.sleep(_KILL_PAUSE_S)
            continue
        return True
    return False


def _members(directory: str) -> list[int]:
    try:
        text = Path(directory, "cgroup.procs").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split() if word.isdigit() and word != "0"]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
