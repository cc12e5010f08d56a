"""Changes a file of somebody else's so that nothing is lost: with a backup, in one step, or not at all."""

from __future__ import annotations

import difflib
import os
import tempfile
import time
from pathlib import Path

from gateway.cli.main import CommandFailed


def backup(path: Path, content: bytes, now_s: float) -> Path:
    """Keep a copy of what the file held beside it, under the time of day."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime(now_s))
    for attempt in range(100):
        copy = path.with_name(f"{path.name}.{stamp}{f'-{attempt}' if attempt else ''}.bak")
        try:
            descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # it may hold secrets
        except FileExistsError:
            continue
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        return copy
    raise CommandFailed(f"{path}: no free name for a backup")


def replace(path: Path, before: bytes | None, after: bytes) -> None:
    """Put `after` in place of `before` in one step; refuses when somebody else wrote in between.

    A link is followed, and the file keeps its mode; a new one can be read by its owner alone.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(after)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            Path(name).chmod(target.stat().st_mode & 0o7777)
        if content(target) != before:
            raise CommandFailed(f"{path} was changed by somebody else just now; nothing was written, run it again")
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def content(path: Path) -> bytes | None:
    """What the file holds, or `None` when there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def diff(path: Path, before: bytes | None, after: bytes) -> str:
    """The change, as people read it."""
    old, new = ((data or b"").decode(errors="replace").splitlines(keepends=True) for data in (before, after))
    return "".join(difflib.unified_diff(old, new, str(path), f"{path} (new)"))
