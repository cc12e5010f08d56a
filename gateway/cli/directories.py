"""Puts one directory in the place of another in one step, and keeps the one that was there."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from gateway.cli.main import CommandFailed

_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2
"""`RENAME_EXCHANGE` of renameat2(2)."""


def stage(source: Path, target: Path) -> Path:
    """A copy of `source` beside `target`, on disk for good, with what is hidden in `target` (such as `.git`).

    What is hidden in `source` stays there. The caller puts the copy in place or removes it.
    """
    place = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.next-"))
    try:
        place.chmod(target.stat().st_mode & 0o7777)
        shutil.copytree(source, place, ignore=shutil.ignore_patterns(".*", "__pycache__"), dirs_exist_ok=True)
        place.chmod(target.stat().st_mode & 0o7777)
        for entry in target.iterdir():
            if entry.name.startswith("."):
                _copied(entry, place / entry.name)
        _synced(place)
    except BaseException:  # an interrupt too: nothing of ours stays behind
        shutil.rmtree(place)
        raise
    return place


def swap(staged: Path, target: Path, now_s: float) -> Path:
    """Put `staged` in the place of `target`; where that is now. Nobody sees a moment without either."""
    kept = _free_name(target, now_s)
    if _exchanged(staged, target):
        os.rename(staged, kept)
    else:  # a file system that cannot: a gateway that looks in between keeps what it has
        os.rename(target, kept)
        os.rename(staged, target)
    _sync(target.parent)
    return kept


def _copied(entry: Path, place: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.copytree(entry, place, symlinks=True)
    else:
        shutil.copy2(entry, place, follow_symlinks=False)


def _free_name(target: Path, now_s: float) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime(now_s))
    for attempt in range(100):
        kept = target.with_name(f"{target.name}.{stamp}{f'-{attempt}' if attempt else ''}.bak")
        if not os.path.lexists(kept):
            return kept
    raise CommandFailed(f"{target}: no free name for a backup")


def _exchanged(one: Path, other: Path) -> bool:
    """Whether both changed places, which takes a system and a file system that can do it."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE)
    return done == 0


def _synced(root: Path) -> None:
    for parent, _, names in os.walk(root):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                _sync(path)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
