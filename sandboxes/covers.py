"""Refuses to show a box what would tell it secrets, or let it change what the host or the gateway runs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

from gateway.errors import ConfigError
from sandboxes.binds import place_fault
from sandboxes.guarded import Guarded, Named
from sandboxes.spec import Bind

Identity: TypeAlias = tuple[int, int]

_INSTEAD: Final = "remove it, and hand over a credential by reference where one is needed"
_LESS: Final = "bind only the directory that is needed"
_PSEUDO: Final = frozenset(
    {"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "tracefs", "debugfs", "securityfs", "configfs", "bpf"}
)


def admitted(binds: Sequence[Bind], guard: Guarded, key: str) -> tuple[Bind, ...]:
    """The binds with their sources resolved. Raises `ConfigError` with every one that a box must not have."""
    index = _Index(guard)
    faults: list[tuple[str, str]] = []
    resolved: list[Bind] = []
    for number, bind in enumerate(binds):
        real = Path(os.path.realpath(bind.source))
        what = place_fault(bind) or index.refusal(bind.source, real, bind.writable)
        what = what or _between(real, bind, resolved)
        if what:
            faults.append((f"{key}[{number}]", what))
        resolved.append(replace(bind, source=real, target=bind.place))
    if faults:
        raise ConfigError(faults)
    return tuple(resolved)


def _between(real: Path, bind: Bind, earlier: Iterable[Bind]) -> str:
    """What two binds of one box do to each other: a box that writes the one could choose what the other shows."""
    for other in earlier:
        if other.place == bind.place:
            return f"{bind.place} is bound twice; remove one"
        if other.writable and real != other.source and real.is_relative_to(other.source):
            return f"{real} is inside {other.source}, which is bound writable already; remove this one"
        if bind.writable and real != other.source and other.source.is_relative_to(real):
            return f"{real} is bound writable and holds {other.source}, which is bound already; remove the other one"
    return ""


class _Index:
    """Knows paths by name, and by what they are: a second mount or a hard link of a secret is that secret."""

    def __init__(self, guard: Guarded) -> None:
        self._sealed = _resolved(guard.sealed)
        self._whole = _resolved(guard.whole)
        self._fixed = _resolved(guard.fixed)
        self._written = _resolved(guard.written)
        self._homes = tuple(Path(os.path.realpath(home)) for home in guard.homes)
        self._inner = {found: path for path in self._sealed if (found := _identity(path))}
        self._outer = {
            found: path
            for path in (*self._sealed, *self._whole)
            for place in (path, *path.parents)
            if (found := _identity(place))
        }

    def refusal(self, written: Path, real: Path, writable: bool) -> str:
        """Why a box may not have it; empty when it may."""
        kind = _kind_fault(written, real)
        shown = kind or self._shown(written, real) or self._exchangeable(written, real)
        return shown or (self._steering(real) if writable else "")

    def _shown(self, written: Path, real: Path) -> str:
        for path, what in self._sealed.items():
            if real.is_relative_to(path):
                return f"{_name(written, real)} is {what}, which no box may see; {_INSTEAD}"
        if real in self._whole:
            return f"{_name(written, real)} cannot be shown as a whole ({self._whole[real]}); {_LESS}"
        for path, what in (*self._sealed.items(), *self._whole.items()):
            if path.is_relative_to(real):
                return f"{_name(written, real)} holds {path} ({what}); {_LESS}"
        return self._by_another_name(written, real) or _pseudo_below(written, real) or _socket_below(written, real)

    def _by_another_name(self, written: Path, real: Path) -> str:
        for place in (real, *real.parents):
            secret = self._inner.get(_identity(place) or (0, 0))
            if secret is not None:
                return f"{_name(written, real)} is another name of {secret}, which no box may see; {_INSTEAD}"
        around = self._outer.get(_identity(real) or (0, 0))
        return f"{_name(written, real)} is another name of what holds {around}; {_LESS}" if around else ""

    def _exchangeable(self, written: Path, real: Path) -> str:
        for path, what in self._written.items():
            if real != path and real.is_relative_to(path):
                words = f"is inside {path}, which {what} may write, and so could make this a link to anything"
                return f"{_name(written, real)} {words}; bind {path} itself"
        return ""

    def _steering(self, real: Path) -> str:
        for path, what in self._fixed.items():
            if real.is_relative_to(path) or path.is_relative_to(real):
                return f"{real} must not be writable: {path} is {what}; remove :rw, or bind another directory"
        for home in self._homes:
            below = real.relative_to(home).parts if real.is_relative_to(home) else ()
            if below and below[0].startswith(".") and below[0] != ".cache":
                return f"{real} must not be writable: programs of {home} follow what is in it; remove :rw"
        return ""


def _name(written: Path, real: Path) -> str:
    return str(real) if written == real else f"{written} (which is {real})"


def _resolved(named: Named) -> dict[Path, str]:
    found = {Path(os.path.normpath(path)): what for path, what in named.items()}
    return found | {Path(os.path.realpath(path)): what for path, what in named.items()}


def _identity(path: Path) -> Identity | None:
    try:
        status = path.stat()
    except OSError:  # not there, or not to be seen by us either
        return None
    return status.st_dev, status.st_ino


def _kind_fault(written: Path, real: Path) -> str:
    try:
        mode = real.stat().st_mode
    except OSError as exc:
        return f"{_name(written, real)} cannot be shown: {(exc.strerror or '').lower()}"
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        return ""
    return f"{_name(written, real)} is a socket, a pipe or a device, and leads out of any box; remove it"


def _pseudo_below(written: Path, real: Path) -> str:
    for place, kind in _mounts():
        if kind in _PSEUDO and place.is_relative_to(real):
            return f"{_name(written, real)} holds a mount of {kind} at {place}; {_LESS}"
    return ""


def _socket_below(written: Path, real: Path) -> str:
    """A read-only bind does not keep anybody from connecting to what listens in it."""
    for place in _sockets():
        if place.is_relative_to(real):
            return (
                f"{_name(written, real)} holds the socket {place} of a running program, a way out of any box; {_LESS}"
            )
    return ""


def _sockets() -> Iterator[Path]:
    """Where programs have sockets in the file system now (proc(5), /proc/net/unix); nothing where there is no such."""
    try:
        lines = Path("/proc/net/unix").read_bytes().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        path = line.split(None, 7)[7:]
        if path and path[0].startswith(b"/") and not path[0].startswith(b"/proc/"):
            yield Path(os.fsdecode(os.path.realpath(path[0])))


def _mounts() -> Iterator[tuple[Path, str]]:
    """Where something is mounted, and of which kind (proc(5), /proc/pid/mountinfo); nothing where there is no such."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(b" - ")
        place = before.split(b" ")[4].decode("unicode_escape").encode("latin-1")
        yield Path(os.fsdecode(place)), after.partition(b" ")[0].decode("ascii", "replace")
