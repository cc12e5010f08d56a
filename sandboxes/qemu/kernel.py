"""Finds a kernel for guests: Debian's for clouds, installed or only unpacked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"vmlinuz-(\d[\w.+~-]*cloud[\w.+~-]*)")
_MODULES: Final = (
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/char/virtio_console.ko",
    "fs/overlayfs/overlay.ko",
)
"""In the order in which they are loaded. One that this kernel has built in is left out."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel image and the modules that a guest needs, in the order in which they are loaded."""

    version: str
    image: Path
    modules: tuple[Path, ...]


def find_kernel(root: Path) -> Kernel | None:
    """The newest usable kernel below `root`, which is `/` or where a package was unpacked."""
    images = [(found.group(1), path) for path in root.glob("boot/vmlinuz-*") if (found := _NAME.fullmatch(path.name))]
    for version, image in sorted(images, key=lambda item: _order(item[0]), reverse=True):
        for lib in ("lib/modules", "usr/lib/modules"):
            modules = _modules(root / lib / version)
            if modules is not None:
                return Kernel(version, image, modules)
    return None


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _modules(directory: Path) -> tuple[Path, ...] | None:
    try:
        built_in = (directory / "modules.builtin").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    wanted = [name for name in _MODULES if f"kernel/{name}" not in built_in]
    paths = tuple(directory / "kernel" / name for name in wanted)
    return paths if all(path.is_file() for path in paths) else None
