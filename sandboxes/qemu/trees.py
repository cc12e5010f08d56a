"""Directories that are bound again and again, so that a start need not look at each of their many files.

A tree counts as unchanged while none of its directories changed: whoever replaces, adds or removes a file changes one.
A file that is written in place is noticed in small trees, and in large ones when the memory of them is too old.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandboxes.qemu.base import may_be_elf
from sandboxes.qemu.elf import is_elf
from sandboxes.qemu.images import Images, items_below

_SMALL: Final = 2000
_REMEMBERED_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Tree:
    """An image of a tree, and the programs and libraries in it."""

    image: Path
    programs: tuple[Path, ...]
    directories: tuple[tuple[str, int], ...]
    until: float


class Trees:
    """What is known of each."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._known: dict[str, Tree] = {}

    def of(self, source: Path) -> Tree:
        """The tree, or the single file. Raises `SandboxFailure` and `OSError`."""
        path = str(source)  # resolved when it was checked; a link that is there now is somebody's
        known = self._known.get(path)
        if known is None or time.monotonic() > known.until or not known.image.exists() or _changed(known):
            known = self._known[path] = self._looked_at(path)
        return known

    def _looked_at(self, path: str) -> Tree:
        items = list(self._images.limited(items_below(path), path))
        directories = tuple(
            (item.source, item.status.st_mtime_ns) for item in items if stat.S_ISDIR(item.status.st_mode)
        )
        programs = tuple(Path(item.source) for item in items if may_be_elf(item) and is_elf(Path(item.source)))
        until = time.monotonic() + (_REMEMBERED_S if len(items) > _SMALL else 0)
        return Tree(self._images.of(items, path), programs, directories, until)


def _changed(tree: Tree) -> bool:
    try:
        return any(os.stat(path).st_mtime_ns != when for path, when in tree.directories)
    except OSError:
        return True
