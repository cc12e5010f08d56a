"""Says before a box is built whether everything that is to be in it has a place there: no driver makes one up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.errors import SandboxFailure
from sandboxes.inside import EGRESS_SOCKET, GUEST, SCRATCH, base_binds, base_links, etc_binds
from sandboxes.spec import Bind, BoxSpec

_RESERVED: Final = ("/proc", "/sys", "/dev", GUEST, EGRESS_SOCKET)


def checked(spec: BoxSpec) -> BoxSpec:
    """The spec, if what it puts into the box has a place and does not get in the way of the walls.

    Raises `SandboxFailure`.
    """
    if not spec.command:
        raise SandboxFailure(f"{spec.label!r} has no command to run")
    fault = next(_faults(spec), "")
    if fault:
        raise SandboxFailure(f"{spec.label!r}: {fault}")
    return spec


def _faults(spec: BoxSpec) -> Iterator[str]:
    places = (*(bind.place for bind in spec.binds), *spec.files)
    for path in (*places, spec.cwd):
        if not path.startswith("/") or path != os.path.normpath(path) or path.startswith("//") or "\0" in path:
            yield f"{path!r} is no absolute path without detours; write it out"
    for path in places:
        if path == "/" or any(_is_in(path, own) for own in _RESERVED) or path in SCRATCH:
            yield f"nothing can be put at {path!r} in a box; choose another place"
        yield from _behind_a_link(spec, path)
    for bind in spec.binds:
        yield from _without_a_place(spec, bind.place, bind.source.is_dir())
    for path in spec.files:
        yield from _without_a_place(spec, path, False)
    yield from _nowhere(spec)


def _behind_a_link(spec: BoxSpec, path: str) -> Iterator[str]:
    for link, target in base_links(spec):
        if _is_in(path, link):
            yield f"{path!r} is behind the link {link} -> {target} in the box; write out where it leads to"


def _without_a_place(spec: BoxSpec, path: str, directory: bool) -> Iterator[str]:
    """What lies in something of the host needs to have its place there, and of its kind."""
    around = _around(spec, path)
    if around is None:
        return
    there = around.source / os.path.relpath(path, around.place)
    if not os.path.lexists(there):
        yield (
            f"nothing can be mounted at {path!r}: {str(around.source)!r}, which is at {around.place!r}, has nothing "
            "there; create it, or choose another place"
        )
    elif there.is_dir() != directory:
        kinds = ("a directory", "a file") if directory else ("a file", "a directory")
        yield f"{kinds[0]} cannot be mounted at {path!r}: {str(there)!r} is {kinds[1]}; choose another place"


def _nowhere(spec: BoxSpec) -> Iterator[str]:
    """Whether the program's first directory will be there."""
    own = ("/", "/etc", "/run", *SCRATCH, *(bind.place for bind in spec.binds if bind.source.is_dir()))
    above = (parent for path in (*own, *spec.files) for parent in Path(path).parents)
    if spec.cwd in own or Path(spec.cwd) in above:
        return
    around = _around(spec, spec.cwd)
    if around is not None and not (around.source / os.path.relpath(spec.cwd, around.place)).is_dir():
        yield f"its directory {spec.cwd!r} is none in {str(around.source)!r}, which is at {around.place!r}"
    if around is None and not any(_is_in(spec.cwd, link) for link, _ in base_links(spec)):
        yield f"its directory {spec.cwd!r} is not in the box; begin in {SCRATCH[0]!r} or in a bind"


def _around(spec: BoxSpec, path: str) -> Bind | None:
    """The innermost of what is shown of the host that the path lies in, but for what is there itself."""
    etc = etc_binds() if spec.base is None else ()
    shown = [bind for bind in (*base_binds(spec), *etc, *spec.binds) if path != bind.place and _is_in(path, bind.place)]
    around = max(shown, key=lambda bind: len(bind.place), default=None)
    inside_memory = around is not None and any(
        _is_in(path, memory) and len(memory) > len(around.place) for memory in SCRATCH
    )
    return None if inside_memory else around


def _is_in(path: str, place: str) -> bool:
    return path == place or path.startswith(place.rstrip("/") + "/")
