"""The root directory of a box: links, mount points and made-up files, on which everything else is mounted."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from gateway.errors import SandboxFailure
from sandboxes import inside
from sandboxes.spec import Bind, BoxSpec


def write_root(root: Path, spec: BoxSpec, user: int, binds: Collection[Bind]) -> None:
    """Make it, with a place for each of the binds and of the files. Raises `OSError` and `SandboxFailure`."""
    open_directory(root)
    for path, target in inside.base_links(spec):
        os.symlink(target, root / path.lstrip("/"))
    for path in ("/proc", "/sys", "/dev", "/etc", "/run", *inside.SCRATCH):
        _made(root, path)
    _write_own_files(root, spec, user)
    places = {bind.place: not bind.source.is_dir() for bind in binds}
    for place, is_file in (places | dict.fromkeys(spec.files, True)).items():
        _mount_point(root, place, is_file=is_file)


def open_directory(path: Path) -> Path:
    """A directory that anybody may pass through, whatever the umask."""
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
    return path


def open_file(path: Path, content: bytes) -> None:
    """A file that anybody may read, whatever the umask."""
    path.write_bytes(content)
    path.chmod(0o644)


def _write_own_files(root: Path, spec: BoxSpec, user: int) -> None:
    etc = inside.etc_files(user) if spec.base is None else {}
    for path, content in etc.items():
        _made(root, os.path.dirname(path))
        open_file(root / path.lstrip("/"), content)
    _made(root, inside.GUEST)
    for source in inside.GUEST_SOURCE.glob("*.p[ly]"):
        open_file(root / inside.GUEST.lstrip("/") / source.name, source.read_bytes())


def _mount_point(root: Path, place: str, *, is_file: bool) -> None:
    """Something to mount on, where that is in our own directory; what lies on another mount is there."""
    if place != os.path.normpath(place) or not place.startswith("/") or place.startswith("//") or place == "/":
        raise SandboxFailure(f"{place!r} is no place to mount at: give an absolute path without '..', below '/'")
    if is_file:
        parent = _made(root, os.path.dirname(place))
        if parent is not None and not (parent / os.path.basename(place)).exists():
            open_file(parent / os.path.basename(place), b"")
    else:
        _made(root, place)


def _made(root: Path, path: str) -> Path | None:
    """The directory at `path` in the root, made if need be; `None` behind a link, which may lead anywhere."""
    here = root
    for name in path.strip("/").split("/"):
        here = here / name if name else here
        if here.is_symlink():
            return None
        open_directory(here)
    return here
