"""What a guest is given of the host, worked out from the spec: its disks, its files, and the message that starts it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.errors import SandboxFailure
from sandboxes import inside, seccomp
from sandboxes.qemu.base import extra_items, host_items, on_path
from sandboxes.qemu.images import Images, Item, items_below, serial_of
from sandboxes.qemu.trees import Trees
from sandboxes.spec import WORK, BoxSpec, Limits

_MOST_BINDS: Final = 20
"""Each is a disk in a slot of the machine's bus."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One disk and where it appears; `target` is empty for what the root is made of."""

    image: Path
    target: str = ""


def layers_of(spec: BoxSpec, images: Images, trees: Trees) -> tuple[Layer, ...]:
    """The disks of a box, the base first. Raises `SandboxFailure`."""
    if any(bind.writable for bind in spec.binds):
        raise SandboxFailure(
            f"{spec.label!r}: a virtual machine shares no directory for writing; make the bind read-only, use "
            "/workspace, or choose another driver"
        )
    if len(spec.binds) > _MOST_BINDS:
        raise SandboxFailure(
            f"{spec.label!r}: a virtual machine has room for {_MOST_BINDS} binds, not {len(spec.binds)}"
        )
    try:
        return tuple(_layers(spec, images, trees))
    except OSError as exc:
        raise SandboxFailure(f"{spec.label!r}: {exc.filename or 'a file'} cannot be read: {exc.strerror}") from exc


def _layers(spec: BoxSpec, images: Images, trees: Trees) -> Iterator[Layer]:
    if spec.base is not None:
        yield Layer(
            images.of(
                (item for item in items_below(str(spec.base.resolve())) if _of_base(item)), f"the base {spec.base}"
            )
        )
    else:
        usual = host_items()
        extra = extra_items(_programs(spec, trees), {item.place for item in usual})
        if extra:
            yield Layer(images.of(extra, f"what {spec.label!r} needs of the host"))
        yield Layer(images.of(usual, "the host's programs"))
    for bind in spec.binds:
        yield Layer(trees.of(bind.source).image, bind.place)


def _of_base(item: Item) -> bool:
    return item.place.count("/") < 2 or item.place.split("/")[1] not in (
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "workspace",
    )


def _programs(spec: BoxSpec, trees: Trees) -> Iterator[Path]:
    """What has to find its libraries in the base: the command and whatever is in a bind."""
    command = on_path(spec.command[0])
    if command is not None:
        yield command
    for bind in spec.binds:
        yield from trees.of(bind.source).programs


def message_for(spec: BoxSpec, layers: tuple[Layer, ...], *, egress: bool) -> dict[str, Any]:
    """All that the agent in the guest has to know, but for the environment. Raises `SandboxFailure`."""
    files = inside.etc_files(inside.UID) if spec.base is None else {}
    files |= dict(spec.files) | (inside.guest_files() if inside.has_shim(spec) else {})
    return {
        "layers": [{"serial": serial_of(item.image), "target": item.target} for item in layers],
        "files": {path: base64.b64encode(content).decode() for path, content in files.items()},
        "command": [*inside.entry(spec, landlock=True, egress=False), *spec.command],
        "program": spec.command[0],
        "cwd": spec.cwd,
        "hostname": inside.HOSTNAME,
        "uid": inside.UID,
        "egress": egress,
        "seccomp": base64.b64encode(seccomp.program("x86_64") or b"").decode(),
        "scratch": _scratch(spec.limits),
        "limits": {"processes": spec.limits.processes, "memory_bytes": spec.limits.memory_bytes},
        "rlimits": _rlimits(spec.limits),
    }


def _scratch(limits: Limits) -> list[dict[str, Any]]:
    sizes = {WORK: limits.work_bytes, inside.TMP: limits.tmp_bytes, inside.SHM: limits.tmp_bytes}
    return [{"path": path, "bytes": size, "inodes": max(1024, size // 4096)} for path, size in sizes.items()]


def _rlimits(limits: Limits) -> Mapping[str, int]:
    return {"nofile": limits.open_files, "fsize": limits.file_bytes, "nproc": limits.processes, "core": 0, "memlock": 0}
