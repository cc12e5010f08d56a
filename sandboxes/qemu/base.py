"""What of the host's own programs a guest gets: a working set instead of all of /usr, which is gigabytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Final

from sandboxes.inside import BASE_LINKS, etc_binds
from sandboxes.qemu.closure import in_usr, libraries, links_to
from sandboxes.qemu.images import Item, items_below

PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")

_PROGRAMS: Final = (
    "sh bash dash env python3 perl node git ls cat cp mv rm ln mkdir rmdir touch chmod chown stat head "
    "tail tee wc cut tr sort uniq seq sed grep awk mawk find xargs test true false echo printf pwd id "
    "whoami date sleep timeout dd df du basename dirname readlink realpath mktemp uname hostname nproc od "
    "sha256sum md5sum base64 tar gzip diff cmp which kill ps getconf locale openssl unshare mount setpriv"
)
"""Those of them that the host has."""
_DIRECTORIES: Final = (
    "/usr/lib/git-core",
    "/usr/share/git-core",
    "/usr/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/usr/lib/locale/C.utf8",
    "/usr/lib/ssl",
    "/usr/share/perl5",
)
_PATTERNS: Final = ("lib/*/perl-base", "lib/*/ossl-modules", "lib/*/libnss_*.so.2")
_NOT_OF_PYTHON: Final = frozenset({"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"})


def host_items() -> list[Item]:
    """The working set of this host."""
    places: dict[str, Item] = {}
    programs = [found for name in _PROGRAMS.split() if (found := on_path(name)) is not None]
    trees = [Path(path) for path in _DIRECTORIES] + [
        path for pattern in _PATTERNS for path in Path("/usr").glob(pattern)
    ]
    trees += [bind.source for bind in etc_binds()]
    for tree in trees:
        _add(places, items_below(str(in_usr(tree)), str(in_usr(tree))) if tree.exists() else ())
    for library in _python_libraries(programs):
        _add(
            places, (item for item in items_below(str(library), str(library)) if not _is_left_out(item.place, library))
        )
    for program in programs:
        _add(places, _linked(program))
    _add(places, _shared(Path(item.source) for item in list(places.values()) if may_be_elf(item)))
    for place, _ in BASE_LINKS:
        _add(places, [Item(place, place, os.lstat(place))])
    return [places[place] for place in sorted(places)]


def extra_items(programs: Iterable[Path], usual: Container[str]) -> list[Item]:
    """What these need beside the working set, at the places `usual`; themselves too where they are the host's."""
    places: dict[str, Item] = {}
    listed = list(programs)
    for program in listed:
        if _is_of_the_base(program):
            _add(places, _linked(program))
    _add(places, _shared(listed))
    return [places[place] for place in sorted(places) if place not in usual]


def may_be_elf(item: Item) -> bool:
    """Whether it is worth a look: a file that can be executed, or is named as a library."""
    mode = item.status.st_mode
    return stat.S_ISREG(mode) and (mode & 0o111 != 0 or ".so" in item.place)


def on_path(name: str) -> Path | None:
    """A command as the box would find it in the host's own programs."""
    candidates = [Path(name)] if name.startswith("/") else [Path(directory, name) for directory in PATH]
    return next((path for path in candidates if path.is_file() and os.access(path, os.X_OK)), None)


def _is_of_the_base(path: Path) -> bool:
    return str(in_usr(path)).startswith("/usr/")


def _python_libraries(programs: Iterable[Path]) -> Iterator[Path]:
    """The standard library of the host's Python: beside the program, by its own name."""
    for program in programs:
        target = program.resolve()
        if target.name.startswith("python3."):
            yield target.parent.parent / "lib" / target.name
            yield target.parent.parent / "lib" / "python3" / "dist-packages"


def _is_left_out(place: str, library: Path) -> bool:
    parts = Path(place).relative_to(library).parts
    return bool(_NOT_OF_PYTHON.intersection(parts)) or any(part.startswith("config-") for part in parts)


def _linked(path: Path) -> Iterator[Item]:
    for step in links_to(path):
        yield Item(str(step), str(step), step.lstat())


def _shared(programs: Iterable[Path]) -> Iterator[Item]:
    """The libraries of the host that these need."""
    for library in libraries(programs):
        if _is_of_the_base(library):
            yield from _linked(library)


def _add(places: dict[str, Item], items: Iterable[Item]) -> None:
    for item in items:
        if not stat.S_ISSOCK(item.status.st_mode):
            places.setdefault(item.place, item)
