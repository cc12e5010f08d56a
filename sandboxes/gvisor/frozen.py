"""The files of a frozen box: its user writes them, then the gateway takes them over, so that no box can change them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gateway.errors import SandboxFailure


def prepare(image: Path, uid: int | None) -> None:
    """A directory that the box's user may write to. Its parent is the gateway's alone. Raises `OSError`."""
    image.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    image.mkdir(mode=0o700)
    if uid is not None:
        os.chown(image, uid, uid)


def take_over(image: Path) -> None:
    """Make it the gateway's, readable for any box that it is staged for. Nobody of the frozen box may be left.

    Raises `SandboxFailure` when there is anything but plain files of one name each: whoever wrote them might have
    been taken over, and is not to make the gateway hand out a file of its own.
    """
    directory = os.open(image, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give(directory, 0o700)
        names = os.listdir(directory)
        if not names:
            raise SandboxFailure(f"the frozen box in {image} is empty")
        for name in names:
            _take_over_file(directory, name)
        os.fchmod(directory, 0o755)
    finally:
        os.close(directory)


def _take_over_file(directory: int, name: str) -> None:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as exc:
        raise SandboxFailure(f"the frozen box has {name[:40]!r}, which is no plain file") from exc
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise SandboxFailure(f"the frozen box has {name[:40]!r}, which is no plain file")
        _give(file, 0o444)
    finally:
        os.close(file)


def _give(file: int, mode: int) -> None:
    """To ourselves; where there is no box user the file is ours already."""
    os.fchown(file, os.geteuid(), os.getegid())
    os.fchmod(file, mode)
