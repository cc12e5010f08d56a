"""The boxes of one gateway on disk, so that another process can list and end them, and the next start can clear up.

    ROOT/BOX/box.json    what it is, for people
    ROOT/BOX/lock        held (flock) by the box's reaper, whose pid is in it, while anybody of the box is alive
    ROOT/.OWNER.BOX      one that is being made
    ROOT/owner-TOKEN     held by the process that starts boxes, which box.json names: covers the time before the reaper

A box whose lock and whose owner's are both free is dead, whatever its files say.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

import anyio

from gateway.boxes import Level
from gateway.errors import SandboxFailure
from sandboxes.cgroups import Cgroups

_LONGEST_SOCKET_PATH: Final = 107
"""sun_path without its end (unix(7))."""
_ROOM: Final = 48
"""For a box's id and the name of a socket in its directory."""
_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_OWNER: Final = re.compile(r"owner-[0-9a-f]{16}")
_MOST_BYTES: Final = 64 * 1024
_LOOK_S: Final = 0.02
KILL_S: Final = 15.0


class Phase(StrEnum):
    """Where a box is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Entry:
    """One box. What is not known of it is empty."""

    id: str
    phase: Phase
    driver: str = ""
    version: str = ""
    level: str = ""
    environment: str = ""
    purpose: str = ""
    started_s: int = 0
    pid: int = 0
    """Of its reaper, while it runs."""


@dataclass(slots=True)
class Ledger:
    """The boxes below one directory, which is made at the first box."""

    root: Path
    _owner: str = field(default="", init=False)
    _held: int = field(default=-1, init=False)

    @classmethod
    def of(cls, state: Path, temporary: Path | None = None) -> Self:
        """That of the gateway with this state directory: in it, or where paths of sockets stay short enough."""
        beside = Path(os.path.realpath(state)) / "boxes"
        if len(os.fsencode(beside)) + _ROOM <= _LONGEST_SOCKET_PATH:
            return cls(beside)
        key = hashlib.sha256(f"{os.geteuid()}\0".encode() + os.fsencode(beside)).hexdigest()[:16]
        elsewhere = (temporary or Path(tempfile.gettempdir())) / f"interlock-{key}"
        if len(os.fsencode(elsewhere)) + _ROOM > _LONGEST_SOCKET_PATH:
            raise SandboxFailure(
                f"no place for the sockets of boxes: both {beside} and {elsewhere} are too long; "
                "set state.dir or TMPDIR to a shorter path"
            )
        return cls(elsewhere)

    def make(self, box_id: str, *, driver: str, version: str, level: Level, environment: str, purpose: str) -> Path:
        """A directory for a new box, its own and empty but for what it says. Raises `SandboxFailure` and `OSError`."""
        if not _ID.fullmatch(box_id):
            raise SandboxFailure(f"{box_id!r} is no id for a box")
        self._own()
        draft = self.root / f".{self._owner}.{box_id}"
        draft.mkdir(mode=0o700)
        facts = {
            "id": box_id,
            "driver": driver,
            "version": version,
            "level": level.value,
            "environment": environment,
            "purpose": purpose,
            "started_s": int(time.time()),
            "owner": self._owner,
        }
        try:
            (draft / "box.json").write_text(json.dumps(facts), encoding="utf-8")
            return draft.rename(self.root / box_id)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def forget(self, box_id: str) -> None:
        """Remove what is left of a box of ours that is over, or that never started."""
        if _ID.fullmatch(box_id) and _holder(self.root / box_id / "lock") is None:
            shutil.rmtree(self.root / box_id, ignore_errors=True)

    def close(self) -> None:
        """No more boxes are started: those without a reaper are nobody's now."""
        if self._held >= 0:
            (self.root / self._owner).unlink(missing_ok=True)
            os.close(self._held)
            self._held = -1
            self._leave()

    def entries(self) -> tuple[Entry, ...]:
        """All boxes, the oldest first."""
        return tuple(sorted((self._entry(box_id) for box_id in self._ids()), key=lambda entry: entry.started_s))

    async def kill(self, box_id: str, *, within_s: float = KILL_S) -> None:
        """End a box, whoever started it, and wait for it. Raises `SandboxFailure`."""
        try:
            if not _ID.fullmatch(box_id) or not (self.root / box_id).is_dir():
                raise SandboxFailure(f"there is no box {box_id!r}; `interlock sandbox list` shows those there are")
            with anyio.fail_after(within_s):
                await _ended(self.root / box_id / "lock")
        except TimeoutError as exc:
            raise SandboxFailure(f"box {box_id!r} was told to end and has not within {within_s:g} s") from exc
        except PermissionError as exc:
            raise SandboxFailure(f"box {box_id!r} is not yours to end: do it as the user of its gateway") from exc

    def sweep(self, cgroups: Cgroups) -> tuple[str, ...]:
        """Clear away boxes that are dead: kill who is left in their control groups, and remove their directories.

        Blocks. For the start of a gateway; boxes of others that live are not touched. Returns what was cleared away.
        """
        if self.root.is_dir():
            _check_own(self.root)
        dead = tuple(entry.id for entry in self.entries() if entry.phase is Phase.DEAD)
        for box_id in dead:
            cgroups.sweep(box_id)
            shutil.rmtree(self.root / box_id, ignore_errors=True)
        self._sweep_owners()
        self._leave()
        return dead

    def _sweep_owners(self) -> None:
        """Those that live no more, and boxes that they had begun to make."""
        gone = [name for name in self._names() if _OWNER.fullmatch(name) and _holder(self.root / name) is None]
        for name in self._names():
            if any(name.startswith(f".{owner}.") for owner in gone):
                shutil.rmtree(self.root / name, ignore_errors=True)
        for owner in gone:
            (self.root / owner).unlink(missing_ok=True)

    def _own(self) -> None:
        """Say that we live, before the first box."""
        if self._held >= 0:
            return
        name = f"owner-{secrets.token_hex(8)}"
        while self._held < 0:
            self.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the state may begin with a box
            self.root.mkdir(mode=0o700, exist_ok=True)
            _check_own(self.root)
            with suppress(FileNotFoundError):  # somebody left at this moment, and took the empty directory away
                self._held = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        os.pwrite(self._held, str(os.getpid()).encode(), 0)
        self._owner = name

    def _leave(self) -> None:
        """An empty directory is of no use to anybody."""
        with suppress(OSError):
            self.root.rmdir()

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.root)
        except FileNotFoundError:
            return []

    def _ids(self) -> Iterator[str]:
        for name in self._names():
            if _ID.fullmatch(name) and not _OWNER.fullmatch(name) and (self.root / name).is_dir():
                yield name

    def _entry(self, box_id: str) -> Entry:
        facts = _facts(self.root / box_id / "box.json")
        holder = _holder(self.root / box_id / "lock")
        started = facts.get("started_s")
        return Entry(
            id=box_id,
            phase=Phase.RUNNING if holder is not None else self._phase_without_reaper(facts),
            started_s=started if type(started) is int else 0,
            pid=holder or 0,
            **{name: _text(facts.get(name)) for name in ("driver", "version", "level", "environment", "purpose")},
        )

    def _phase_without_reaper(self, facts: dict[str, object]) -> Phase:
        owner = _text(facts.get("owner"))
        known = _OWNER.fullmatch(owner) is not None
        return Phase.STARTING if known and _holder(self.root / owner) is not None else Phase.DEAD


def _check_own(root: Path) -> None:
    """A directory below the system's temporary one could be somebody's trap."""
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise SandboxFailure(
            f"{root} is not a directory that only this user may enter, so no box is kept there: remove it, or set "
            "state.dir to a short path"
        )


def _holder(lock: Path) -> int | None:
    """Who holds a lock: a pid, 0 while that is not written yet, `None` when it is free or not there."""
    try:
        file = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(file, 20, 0)
        return int(text) if text.isdigit() and int(text) > 1 else 0
    finally:
        os.close(file)
    return None


async def _ended(lock: Path) -> None:
    """Tell the reaper to end until its lock is free."""
    while (pid := _holder(lock)) is not None:
        if pid == 0 or not await _told(lock, pid):
            await anyio.sleep(_LOOK_S)


async def _told(lock: Path, pid: int) -> bool:
    """Tell a reaper and wait for its end. `False` when that number is not the reaper's any more."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if _holder(lock) != pid:  # it held the lock after we got hold of it, so that is who it is
            return False
        signal.pidfd_send_signal(process, signal.SIGUSR1)
        await anyio.wait_readable(process)
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True


def _facts(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            facts = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _text(value: object) -> str:
    """A text fit to be shown."""
    return "".join(character for character in value if character.isprintable()) if isinstance(value, str) else ""
