"""The files of the workspace, for the agent (`agent.py`): no symbolic link is followed, so nothing leads out of it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from typing import Any

MAX_CHANGED = 200
MAX_DEPTH = 32
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

Entry = tuple[str, str, int, tuple[int, ...]]
"""(path, type, size, mark): the mark differs when the content may."""


class Refused(Exception):
    """The request cannot be carried out; `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def inside(root: str, path: object) -> list[str]:
    """The elements of a path below the workspace. Raises `Refused` for one that leads elsewhere."""
    if not isinstance(path, str) or "\0" in path:
        raise Refused("invalid", "path must be a text without NUL")
    if path == root or path.startswith(root.rstrip("/") + "/"):
        path = path[len(root) :]
    elif path.startswith("/"):
        raise Refused("outside", f"path must be below {root}")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused("outside", "path must not contain '..'")
    return parts


class Workspace:
    """The files that the gateway may put and get. No symbolic link is ever followed, so nothing leads out of it."""

    def __init__(self, root: str, name: str) -> None:
        self.root = root
        self._name = name

    def parts(self, path: object) -> list[str]:
        return inside(self._name, path)

    def directory(self, parts: Sequence[str], *, make: bool = False) -> int:
        """A descriptor of a directory, opened element by element."""
        fd = os.open(self.root, _DIRECTORY)
        try:
            for part in parts:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                deeper = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = deeper
        except BaseException:
            os.close(fd)
            raise
        return fd

    def file(self, path: object, flags: int, *, make: bool = False) -> int:
        """A descriptor of a regular file."""
        parts = self.parts(path)
        if not parts:
            raise Refused("is_directory", "path must name a file")
        parent = self.directory(parts[:-1], make=make)
        try:
            fd = os.open(parts[-1], flags | _FILE, 0o644, dir_fd=parent)
        finally:
            os.close(parent)
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            os.close(fd)
            raise Refused("is_directory" if stat.S_ISDIR(mode) else "not_a_file", "not a regular file")
        return fd

    def walk(self, parts: Sequence[str], limit: int) -> tuple[list[Entry], bool]:
        """(path, type, size, mark) of what is below, at most `limit` of them, and whether that is all."""
        found: list[Entry] = []
        pending = [tuple(parts)]
        while pending:
            place = pending.pop()
            try:
                fd = self.directory(place)
            except OSError:
                if place == tuple(parts):
                    raise
                continue
            try:
                complete = self._entries(fd, place, found, pending, limit)
            finally:
                os.close(fd)
            if not complete:
                return found, False
        return found, True

    def _entries(
        self, fd: int, place: tuple[str, ...], found: list[Entry], pending: list[tuple[str, ...]], limit: int
    ) -> bool:
        with os.scandir(fd) as entries:
            for entry in entries:
                if len(found) >= limit:
                    return False
                try:
                    facts = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                kind = _kind(facts.st_mode)
                path = (*place, entry.name)
                mark = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
                found.append(("/".join(path), kind, facts.st_size if kind == "file" else 0, mark))
                if kind == "directory" and len(path) < MAX_DEPTH:
                    pending.append(path)
        return True


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "other"


def shown(path: str) -> str:
    """A path as text: names that are not UTF-8 are shown, but cannot be asked for."""
    return os.fsencode(path).decode("utf-8", "replace")


def changes(before: Sequence[Entry], after: Sequence[Entry]) -> tuple[list[dict[str, Any]], int]:
    """What a run made or changed, by name; how many are left out."""
    known = {path: mark for path, kind, _, mark in before if kind == "file"}
    found: list[dict[str, Any]] = [
        {"path": shown(path), "size": size, "change": "changed" if path in known else "new"}
        for path, kind, size, mark in after
        if kind == "file" and known.get(path) != mark
    ]
    found.sort(key=lambda item: item["path"])
    return found[:MAX_CHANGED], max(0, len(found) - MAX_CHANGED)
