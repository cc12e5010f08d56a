"""What QEMU itself has to see of the host: its program, libraries, modules and firmware."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sandboxes.qemu.closure import in_usr, libraries

_MODULES: Final = ("lib/*/qemu/accel-*-x86_64.so", "lib64/qemu-kvm/accel-*-x86_64.so")
_FIRMWARE: Final = ("/usr/share/qemu", "/usr/share/seabios", "/usr/share/qemu-kvm")


def vmm_files(qemu: Path) -> tuple[tuple[Path, str], ...]:
    """Files and directories of the host, each with its place inside of QEMU's walls."""
    modules = [path for pattern in _MODULES for path in sorted(Path("/usr").glob(pattern))]
    files = [(path.resolve(), str(in_usr(path))) for path in (qemu, *modules, *libraries([qemu, *modules]))]
    return (*files, *((Path(path), path) for path in _FIRMWARE if Path(path).is_dir()))
