"""The decision log on disk: JSON lines in segments that are compressed when they are full and deleted when old.

Blocking and not thread-safe: `DecisionLog` calls it from one worker thread at a time. A process that is killed
leaves at most one torn line, at the end of a segment; the next one begins a segment of its own.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

MIB: Final = 1 << 20
SEGMENT_BYTES: Final = 16 * MIB
DAY_S: Final = 86_400.0
_NS: Final = 1_000_000_000
_LEVEL: Final = 5
_NAME: Final = re.compile(r"decisions-([0-9]{20})-[0-9]+\.jsonl(\.gz)?")


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """When a segment is full, and when the log as a whole is."""

    retention_s: float = 30 * DAY_S
    max_bytes: int = 1024 * MIB
    segment_bytes: int = SEGMENT_BYTES
    segment_s: float = DAY_S
    """Age at which a segment is full, so that retention works on a quiet gateway too."""


@dataclass(frozen=True, slots=True, order=True)
class SegmentFile:
    """One file of the log, by when it was begun (nanoseconds since the epoch)."""

    began_ns: int
    path: Path

    @property
    def packed(self) -> bool:
        """Whether it is compressed, and so never written again."""
        return self.path.suffix == ".gz"


def segment_files(directory: Path) -> list[SegmentFile]:
    """The segments of a log, oldest first; of one that is just being compressed, the whole copy."""
    found = [(_NAME.fullmatch(path.name), path) for path in directory.iterdir()]
    segments = sorted(SegmentFile(int(match[1]), path) for match, path in found if match)
    whole = {segment.path.name for segment in segments if segment.packed}
    return [segment for segment in segments if segment.packed or f"{segment.path.name}.gz" not in whole]


class Segments:
    """Appends lines to the newest segment. Every method may raise `OSError`."""

    def __init__(self, directory: Path, limits: SegmentLimits, clock_ns: Callable[[], int]) -> None:
        self.directory, self._limits, self._clock_ns = directory, limits, clock_ns
        self._file: int | None = None
        self._path = directory
        self._size = self._began_ns = 0

    @classmethod
    def open(cls, directory: Path, limits: SegmentLimits, clock_ns: Callable[[], int]) -> Self:
        """A log below `directory`, which is made when there is none. What an earlier process left is compressed."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        segments = cls(directory, limits, clock_ns)
        segments.tend()
        return segments

    def append(self, lines: Sequence[bytes]) -> None:
        """Write these lines, all or (as far as the disk lets us) none of them."""
        data = b"".join(line + b"\n" for line in lines)
        file = self._file if self._file is not None else self._begin()
        try:
            _write_all(file, data)
        except OSError:
            self._undo(file)
            raise
        self._size += len(data)
        if self._is_full():
            self.tend()

    def tend(self) -> None:
        """End a segment that is full, compress what is ended, delete what is too old or too much."""
        if self._is_full():
            self._end()
        for segment in segment_files(self.directory):
            if not segment.packed and segment.path != self._path and not _in_use(segment.path):
                _pack(segment.path)
        self._sweep()

    def close(self) -> None:
        """End the newest segment."""
        self._end()

    def _is_full(self) -> bool:
        age_ns = self._clock_ns() - self._began_ns
        return self._size >= self._limits.segment_bytes or age_ns >= self._limits.segment_s * _NS

    def _begin(self) -> int:
        now_ns = self._clock_ns()
        path = self._free_path(now_ns)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # says to other processes that it is being written
        self._file, self._path, self._size, self._began_ns = file, path, 0, now_ns
        return file

    def _free_path(self, now_ns: int) -> Path:
        """A name that no segment had yet, also when the clock stood still or went back."""
        newest = max((segment.began_ns for segment in segment_files(self.directory)), default=0)
        return self.directory / f"decisions-{max(now_ns, newest + 1):020}-{os.getpid()}.jsonl"

    def _undo(self, file: int) -> None:
        """Take back a half-written line; where that fails too, it stays the last one of its segment."""
        try:
            os.ftruncate(file, self._size)
        except OSError:
            with suppress(OSError):
                self._end()

    def _end(self) -> None:
        file, self._file = self._file, None
        self._path, self._size = self.directory, 0
        if file is not None:
            try:
                now_ns = self._clock_ns()
                os.utime(file, ns=(now_ns, now_ns))  # age is by one clock, also where another made the file's times
                os.fsync(file)
            finally:
                os.close(file)

    def _sweep(self) -> None:
        oldest = self._clock_ns() / _NS - self._limits.retention_s
        known = [(segment.path, segment.path.stat()) for segment in segment_files(self.directory)]
        total = sum(facts.st_size for _, facts in known)
        for path, facts in known:
            if path.suffix == ".gz" and (facts.st_mtime < oldest or total > self._limits.max_bytes):
                path.unlink(missing_ok=True)
                total -= facts.st_size


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _in_use(path: Path) -> bool:
    """Whether another process writes it."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _pack(path: Path) -> None:
    """Compress a segment. A crash leaves the plain file, the packed one, or both, and never half of one."""
    facts = path.stat()
    if not facts.st_size:
        path.unlink()
        return
    draft = path.with_name(path.name + ".part")
    try:
        with path.open("rb") as source, os.fdopen(_private(draft), "wb") as target:
            with gzip.GzipFile(filename="", fileobj=target, mode="wb", compresslevel=_LEVEL, mtime=0) as packed:
                shutil.copyfileobj(source, packed, MIB)
            target.flush()
            os.fsync(target.fileno())
        os.utime(draft, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        draft.rename(path.with_name(path.name + ".gz"))
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    path.unlink()


def _private(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
