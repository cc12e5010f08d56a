"""What the host can see of a box: its processes, their rights and files, and what is left of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandboxes.driver import Place
from sandboxes.host.reaper import below, parents_from_proc

NAMESPACES: Final = ("user", "mnt", "net", "pid", "ipc", "uts")
SETTINGS: Final = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/poweroff_cmd",
    "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname", "/proc/sys/kernel/sysrq",
    "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/unprivileged_userns_clone", "/sys/kernel/uevent_helper",
    "/proc/sys/user/max_user_namespaces", "/proc/sys/net/ipv4/ip_forward", "/proc/swaps", "/proc/modules",
)  # fmt: skip
"""What nobody in a box may have changed."""


@dataclass(frozen=True)
class Seen:
    """One process as /proc shows it to the host."""

    pid: int
    status: Mapping[str, str]
    files: frozenset[str]
    environment: bytes
    arguments: bytes
    namespaces: Mapping[str, str]

    @property
    def uids(self) -> set[int]:
        return {int(number) for number in self.status["Uid"].split()}

    @property
    def gids(self) -> set[int]:
        return {int(number) for number in (self.status["Gid"] + " " + self.status["Groups"]).split()}

    @property
    def capabilities(self) -> int:
        return int(self.status["CapEff"], 16) | int(self.status["CapPrm"], 16)


def seen(pid: int) -> Seen:
    """Look at one process, which must not end meanwhile."""
    root = Path(f"/proc/{pid}")
    lines = (line.partition(":") for line in (root / "status").read_text().splitlines())
    return Seen(
        pid,
        {name: value.strip() for name, _, value in lines},
        files_of(pid),
        (root / "environ").read_bytes(),
        (root / "cmdline").read_bytes(),
        {name: os.readlink(root / "ns" / name) for name in NAMESPACES},
    )


def files_of(pid: int) -> frozenset[str]:
    """What a process has open, as links say it."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:  # the listing itself
            continue
    return frozenset(found)


def reaper_of(place: Place) -> int:
    """The supervisor of a box, which holds its lock."""
    return int((place.directory / "lock").read_text())


def processes_of(place: Place) -> list[int]:
    """Everything of a box below its reaper."""
    return sorted(below(reaper_of(place), parents_from_proc()))


def settings() -> Mapping[str, str]:
    """The settings of the host that a box must not have changed."""
    return {path: Path(path).read_text(errors="replace") for path in SETTINGS if os.path.exists(path)}


def mounts() -> list[str]:
    """The mounts that the gateway sees, without their changing numbers."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return sorted(" ".join(line.split()[3:]) for line in file)


def available_bytes() -> int:
    """Memory that the host has left."""
    with open("/proc/meminfo", encoding="ascii") as file:
        found = next(line for line in file if line.startswith("MemAvailable:"))
    return int(found.split()[1]) * 1024
