"""Which files of the host programs need to run, found without running any of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

from sandboxes.qemu.elf import needs_of

_CONF: Final = Path("/etc/ld.so.conf.d")
_DEFAULT: Final = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
_MOST_LINKS: Final = 40
_NO_FILES: Final = ("/proc/", "/sys/", "/dev/")


def libraries(programs: Iterable[Path]) -> tuple[Path, ...]:
    """The shared libraries of the host (and the loader) that programs and libraries need, all the way down."""
    found: dict[Path, None] = {}
    todo = list(programs)
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        fresh = [library for library in _needed(path) if library not in found]
        found.update(dict.fromkeys(fresh))
        todo += fresh
    return tuple(sorted(found))


def _needed(path: Path) -> Iterator[Path]:
    needs = needs_of(path)
    own = [
        entry.replace("$ORIGIN", str(path.parent)).replace("${ORIGIN}", str(path.parent)) for entry in needs.directories
    ]
    if needs.loader and _is_a_library(needs.loader):
        yield Path(needs.loader)
    for name in needs.libraries:
        for directory in () if "/" in name else (*own, *_search_path()):
            candidate = Path(directory, name)
            if _is_a_library(str(candidate)):
                yield Path(os.path.normpath(candidate))
                break


def _is_a_library(path: str) -> bool:
    """Not what only looks like a file: to read that may wait without end, or do something."""
    return os.path.isfile(path) and not os.path.realpath(path).startswith(_NO_FILES)


@cache
def _search_path() -> tuple[str, ...]:
    """Where this host's loader looks."""
    listed: list[str] = []
    for conf in sorted(_CONF.glob("*.conf")) if _CONF.is_dir() else ():
        lines = conf.read_text(encoding="utf-8", errors="replace").splitlines()
        listed += [line.strip() for line in lines if re.match(r"\s*/", line)]
    return (*listed, *_DEFAULT)


def in_usr(path: Path) -> Path:
    """Its place where /bin, /lib and the like are links into /usr: the directory resolved, the name kept."""
    return path.parent.resolve() / path.name


def links_to(path: Path) -> Iterator[Path]:
    """The path and, where it is a symbolic link, every step on the way to the file that it means."""
    step = in_usr(path)
    for _ in range(_MOST_LINKS):
        yield step
        if not step.is_symlink():
            return
        step = in_usr(step.parent / step.readlink())
