"""A frozen machine on disk: its memory, and the very disks and kernel that it was made with."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.errors import SandboxFailure
from sandboxes.qemu.launch import MACHINE
from sandboxes.qemu.machine import Accelerator, Machine

_STATE: Final = "state"


class _Machine(BaseModel):
    model_config = ConfigDict(extra="forbid")
    accelerator: Accelerator
    ram_bytes: int
    serials: tuple[str, ...]


class _Description(BaseModel):
    """What stands in the file beside the memory."""

    model_config = ConfigDict(extra="forbid")
    machine: _Machine
    kernel: str
    initrd: str
    disks: tuple[str, ...]
    version: str = ""


@dataclass(frozen=True, slots=True)
class FrozenMachine:
    """All that a clone is made from."""

    machine: Machine
    kernel: Path
    initrd: Path
    disks: tuple[Path, ...]
    state: Path


def prepare(box: Path, directory: Path, version: str) -> Path:
    """Gather everything but the memory, whose file is to be the path returned. Raises `OSError`, `SandboxFailure`.

    Files are linked where they can be: an image may be gone from the cache when the clones are made.
    """
    found = _read(box / MACHINE)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = {"kernel": found.kernel, "initrd": found.initrd}
    names |= {f"disk{number}": disk for number, disk in enumerate(found.disks)}
    for name, source in names.items():
        _linked(Path(source), directory / name)
    disks = tuple(f"disk{number}" for number in range(len(found.disks)))
    kept = found.model_copy(update={"kernel": "kernel", "initrd": "initrd", "disks": disks, "version": version})
    (directory / MACHINE).write_text(kept.model_dump_json(), encoding="utf-8")
    return directory / _STATE


def load(directory: Path, version: str, accelerator: Accelerator) -> FrozenMachine:
    """What was frozen. Raises `SandboxFailure` when it is not whole, or was made by another QEMU."""
    try:
        found = _read(directory / MACHINE)
    except OSError as exc:
        raise SandboxFailure(f"no frozen machine in {str(directory)!r}: {exc.strerror}") from exc
    if found.version != version or found.machine.accelerator != accelerator:
        raise SandboxFailure(f"the frozen machine is of {found.version}, and this is {version}; freeze it anew")
    machine = Machine(found.machine.accelerator, found.machine.ram_bytes, found.machine.serials)
    disks = tuple(directory / os.path.basename(disk) for disk in found.disks)
    kept = FrozenMachine(machine, directory / "kernel", directory / "initrd", disks, directory / _STATE)
    missing = [path.name for path in (kept.kernel, kept.initrd, *disks, kept.state) if not path.is_file()]
    if missing:
        raise SandboxFailure(f"the frozen machine in {str(directory)!r} lacks {missing}; freeze it anew")
    return kept


def _read(path: Path) -> _Description:
    try:
        return _Description.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as exc:
        raise SandboxFailure(f"{path} does not describe a machine") from exc


def _linked(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
        target.chmod(0o444)
