"""Lays a machine out in its box's directory, as a jail for the relay and the commands that the relay runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sandboxes.driver import Place
from sandboxes.host.plan import STAGE, Jail, Mount
from sandboxes.kvm import groups
from sandboxes.qemu.machine import Machine, disk_names, qemu, walls
from sandboxes.qemu.relay import PLAN_FD, STATE_FD, VARIABLE
from sandboxes.qemu.vmm import vmm_files
from sandboxes.spec import MIB

RUN: Final = "run"
"""Directory in the box's own where the relay meets us."""
MACHINE: Final = "machine.json"
"""File in the box's own directory that says what it is made of, for whoever freezes it."""
_PLAN: Final = "plan.json"
_SOURCES: Final = Path(__file__).parents[1]
_MAIN: Final = (
    f"import sys; sys.path.insert(0, {STAGE!r}); from sandboxes.qemu.relay import main; sys.exit(main({STAGE!r}))"
)
_RLIMITS: Final = {"core": 0, "nofile": 1024}
_STATE_SLACK: Final = 256 * MIB
"""What a frozen machine takes on disk beyond its memory, at most; QEMU and the relay write no larger file."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of a machine; with a `state` it goes on from there."""

    machine: Machine
    qemu: Path
    bwrap: Path
    kernel: Path
    initrd: Path
    disks: tuple[Path, ...]
    message: Mapping[str, Any]
    boot_s: float
    state: Path | None = None


def python() -> Path:
    """The Python that the relay runs on: ours."""
    return Path(sys.executable).resolve()


def command() -> tuple[str, ...]:
    """What the reaper starts."""
    prefix = python().parent.parent
    return (f"{STAGE}/python/{python().relative_to(prefix)}", "-I", "-S", "-E", "-B", "-c", _MAIN)


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The relay's environment; the program's own is one variable in it, so that none of it acts on the relay."""
    return {VARIABLE: json.dumps(variables), "LD_LIBRARY_PATH": f"{STAGE}/python/lib"}


def laid_out(launch: Launch, place: Place) -> Jail:
    """Write what the relay reads, and say what it may see. Raises `OSError`."""
    kvm = launch.machine.accelerator == "kvm"
    around = walls(str(launch.bwrap), vmm_files(launch.qemu), len(launch.disks), kvm=kvm)
    words = around + qemu(launch.machine, str(launch.qemu), thaw=launch.state is not None)
    plan = {"command": words, "thaw": launch.state is not None, "boot_s": launch.boot_s, "box": launch.message}
    _write(place.directory / _PLAN, plan)
    files = {"kernel": str(launch.kernel), "initrd": str(launch.initrd), "disks": [str(disk) for disk in launch.disks]}
    _write(place.directory / MACHINE, {"machine": asdict(launch.machine), **files})
    states = {} if launch.state is None else {STATE_FD: str(launch.state)}
    given = {PLAN_FD: str(place.directory / _PLAN)} | states
    return Jail(
        uid=place.uid,
        mounts=_mounts(launch, place),
        rlimits={**_RLIMITS, "fsize": launch.machine.ram_bytes + _STATE_SLACK},
        cgroups=place.cgroup_procs,
        files=given,
        groups=groups() if kvm else (),
    )


def _mounts(launch: Launch, place: Place) -> tuple[Mount, ...]:
    seen = {"python": python().parent.parent, "sandboxes": _SOURCES, "kernel": launch.kernel, "initrd": launch.initrd}
    seen |= dict(zip(disk_names(len(launch.disks)), launch.disks, strict=True))
    mounts = [Mount(name, "bind", str(path), read_only=True) for name, path in seen.items()]
    mounts.append(Mount(RUN, "bind", str(place.directory / RUN), no_exec=True))
    if place.egress is not None:
        mounts.append(Mount("egress.sock", "bind", str(place.egress), read_only=True, no_exec=True))
    return tuple(mounts)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(content, file)
