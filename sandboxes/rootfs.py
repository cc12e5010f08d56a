"""What a root file system holds, as one digest, and which Python is in it; nothing of it is run."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import ConfigError

_PYTHON: Final = re.compile(r"python(3\.[0-9]{1,2})")
_PLACES: Final = ("usr/local/bin/python3", "usr/bin/python3", "bin/python3")
_MOST_LINKS: Final = 10


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter by its place in the box, and its version such as `3.11`."""

    place: str
    version: str


def tree_digest(root: Path) -> str:
    """`sha256:` over the names, modes and content of all that is in a directory. Raises `ConfigError`."""
    whole = hashlib.sha256()
    try:
        for entry in _entries(root):
            whole.update(hashlib.sha256(entry).digest())
    except OSError as exc:
        raise ConfigError([("base", f"{exc.filename} cannot be read: {exc.strerror}")]) from exc
    return f"sha256:{whole.hexdigest()}"


def _entries(root: Path) -> Iterator[bytes]:
    for parent, folders, names in os.walk(root, onerror=_raised):
        folders.sort()
        for name in sorted((*folders, *names)):
            path = os.path.join(parent, name)
            status = os.lstat(path)
            words = (os.path.relpath(path, root), f"{status.st_mode:o}", _content(path, status.st_mode))
            yield b"\0".join(os.fsencode(word) for word in words)


def _raised(error: OSError) -> None:
    raise error


def _content(path: str, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if not stat.S_ISREG(mode):
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def python_of(base: Path | None) -> Python | None:
    """The interpreter that `python3` is in a box of that base (`None`: the host's /usr), told by the names of links."""
    root = base or Path("/")
    for place in _PLACES:
        version = _version(root, place)
        if version:
            return Python(f"/{place}", version)
    return None


def _version(root: Path, place: str) -> str:
    """Follow links as they would be followed in the box, where the root is `root`."""
    for _ in range(_MOST_LINKS):
        match = _PYTHON.fullmatch(os.path.basename(place))
        path = root / place
        if match and path.exists():
            return match[1]
        if not path.is_symlink():
            return ""
        place = os.path.normpath(os.path.join("/", os.path.dirname(place), os.readlink(path))).lstrip("/")
    return ""
