"""The audit log on disk: one Merkle tree over a row of segment files, written by exactly one process.

Blocking and not thread-safe: `Journal` calls it from one worker thread at a time. What `append` has acknowledged
with `durable=True` is synced to disk under a signed checkpoint; the rest follows with the next checkpoint.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final, Self

from gateway.audit import entry
from gateway.audit.checkpoint import BadNote, Checkpoint, Signer
from gateway.audit.keys import load_signer, sync_directory
from gateway.audit.merkle import TILE_WIDTH, Frontier, leaf_hash
from gateway.audit.segment import (
    Meta,
    Row,
    Segment,
    Signed,
    read_meta,
    read_signed,
    reading,
    segment_path,
    segment_paths,
)
from gateway.errors import AuditUnavailable
from gateway.ports import CallRecord

DAY_S: Final = 86_400
_NS: Final = 1_000_000_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogLimits:
    """When the log signs, starts a new segment and deletes an old one."""

    checkpoint_entries: int = 256
    checkpoint_s: float = 60.0
    segment_bytes: int = 64 * 1024 * 1024
    segment_s: float = 30 * DAY_S
    """Age at which a segment is full, so that retention works on a quiet gateway too."""
    retention_s: float = 400 * DAY_S
    """Age at which a whole segment is deleted; 0 keeps everything."""


class AuditLog:
    """Appends entries; holds the only lock on the directory until it is closed."""

    def __init__(self, directory: Path, lock: int, signer: Signer, limits: LogLimits, clock: Callable[[], int]) -> None:
        self.directory, self.limits, self._lock, self._signer, self._clock = directory, limits, lock, signer, clock
        self._open_segment: Segment | None = None
        self._tree = Frontier()
        self._signed = Signed(0, 0, "")
        self._started_ns = self._swept_ns = 0

    @classmethod
    def open(cls, data: Path, *, limits: LogLimits | None = None, clock: Callable[[], int] = time.time_ns) -> Self:
        """Open the log under `<data>/audit`, made when there is none.

        Raises `AuditUnavailable` when another process has it, its files are damaged, or it cannot be written.
        """
        directory = data / "audit"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _lock(directory)
        except OSError as exc:
            raise AuditUnavailable(f"audit log {directory}: {_reason(exc)}") from exc
        try:
            return cls._under_lock(directory, lock, limits or LogLimits(), clock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _under_lock(cls, directory: Path, lock: int, limits: LogLimits, clock: Callable[[], int]) -> Self:
        try:
            signer = load_signer(directory, create=not segment_paths(directory))
            log = cls(directory, lock, signer, limits, clock)
            log._load()
        except (OSError, sqlite3.Error) as exc:
            raise AuditUnavailable(f"audit log {directory}: {_reason(exc)}") from exc
        return log

    @property
    def size(self) -> int:
        """How many entries the log has ever had."""
        return self._tree.size

    @property
    def verifier(self) -> str:
        """The public key, to be kept elsewhere by whoever wants to check this log."""
        return str(self._signer.verifier)

    @property
    def last_checkpoint(self) -> str:
        """The newest signed checkpoint: keep it elsewhere, and nobody can cut the log before it unseen."""
        return self._signed.note

    @property
    def checkpoint_due(self) -> bool:
        """Whether there are entries that no signed checkpoint covers yet."""
        return self._tree.size > self._signed.size

    def append(self, records: Sequence[CallRecord], *, durable: bool = False) -> None:
        """Write records in order. Raises `AuditUnavailable`; after that, try again with all of them.

        An error that comes while the disk syncs, or between two segments, leaves open which of them were written:
        these then stand twice, but none is missing.
        """
        self._attempt(lambda: self._write_records(records, durable=durable))

    def mark(self, event: str, facts: Mapping[str, object]) -> None:
        """Write an entry about the log itself, durably. Raises `AuditUnavailable`."""
        self._attempt(lambda: self._write([self._marker(event, facts)], durable=True))

    def checkpoint(self) -> None:
        """Sign what is there, when something is not covered yet. Raises `AuditUnavailable`."""
        if self.checkpoint_due:
            self._attempt(lambda: self._write([], durable=True))

    def close(self) -> None:
        """Sign, close and release the directory. Raises `AuditUnavailable` when the last checkpoint failed."""
        if self._lock < 0:
            return
        try:
            self.checkpoint()
        finally:
            self._abandon()
            os.close(self._lock)
            self._lock = -1

    @property
    def _segment(self) -> Segment:
        if self._open_segment is None:
            raise AuditUnavailable("the audit log is closed")
        return self._open_segment

    def _attempt(self, write: Callable[[], None]) -> None:
        try:
            if self._open_segment is None and self._lock >= 0:
                self._load()
            write()
        except (sqlite3.Error, OSError) as exc:
            # After a failed sync nobody knows what the file holds: the next attempt reads it again.
            self._abandon()
            raise AuditUnavailable(f"the audit log cannot be written: {_reason(exc)}") from exc

    def _abandon(self) -> None:
        if self._open_segment is not None:
            self._open_segment.close()
            self._open_segment = None

    def _load(self) -> None:
        paths = segment_paths(self.directory)
        if paths:
            self._resume(Segment.open(paths[-1][1]))
        else:
            self._begin_segment(1, previous="")
        self._expire()

    def _resume(self, segment: Segment) -> None:
        try:
            stored = segment.signed()
            self._tree = _rebuilt(segment, self._signer.verifier.open(stored[-1].note.encode()))
        except (BadNote, IndexError, sqlite3.Error) as exc:
            segment.close()
            raise AuditUnavailable(
                f"audit log {segment.path.name}: damaged ({exc}); run 'interlock audit verify', then move the log aside"
            ) from exc
        self._open_segment, self._signed, self._started_ns = segment, stored[-1], stored[0].time_ns

    def _write_records(self, records: Sequence[CallRecord], *, durable: bool) -> None:
        if self._clock() - self._swept_ns > DAY_S * _NS:
            self._expire()
        if self._is_full():
            records = self._fill_up(records, durable=durable)
        bodies: list[bytes] = []
        for record in records:
            bodies += entry.encode(record, self._tree.size + len(bodies))
        self._write(bodies, durable=durable)

    def _fill_up(self, records: Sequence[CallRecord], *, durable: bool) -> Sequence[CallRecord]:
        """Begin a new segment at the next whole tile, if these records reach it; returns those left to write.

        Whole tiles, so that the tiles of what is kept can be exported after older segments are deleted.
        """
        room = -self._tree.size % TILE_WIDTH
        bodies: list[bytes] = []
        for number, record in enumerate(records):
            more = entry.encode(record, self._tree.size + len(bodies))
            if len(bodies) + len(more) > room:
                self._write([*bodies, *self._padding(len(bodies), room)], durable=durable)
                self._rotate()
                return records[number:]
            bodies += more
        return records

    def _padding(self, used: int, room: int) -> list[bytes]:
        """Entries that take the place of a record of several parts, which would cross the tile's end."""
        now, size = self._clock(), self._tree.size
        return [entry.marker("padding", size + number, now, {}) for number in range(used, room)]

    def _write(self, bodies: Sequence[bytes], *, durable: bool) -> None:
        tree, rows = self._grown(bodies)
        now = self._clock()
        signed = self._sign(tree, now) if durable or self._is_due(tree, now) else None
        # What is signed must outlast a power cut, or the log could sign another history of the same size later.
        self._segment.append(rows, signed, durable=signed is not None)
        self._tree, self._signed = tree, signed or self._signed

    def _grown(self, bodies: Sequence[bytes]) -> tuple[Frontier, list[Row]]:
        tree, rows = self._tree.copy(), []
        for body in bodies:
            row = Row(tree.size, leaf_hash(body), body)
            tree.append(row.leaf)
            rows.append(row)
        return tree, rows

    def _sign(self, tree: Frontier, now: int) -> Signed:
        return Signed(tree.size, now, self._signer.sign(tree.size, tree.root()))

    def _is_due(self, tree: Frontier, now: int) -> bool:
        waited_ns = now - self._signed.time_ns
        entries = tree.size - self._signed.size
        return waited_ns >= self.limits.checkpoint_s * _NS or entries >= self.limits.checkpoint_entries

    def _is_full(self) -> bool:
        too_old = self._clock() - self._started_ns > self.limits.segment_s * _NS
        return too_old or self._segment.size_bytes() >= self.limits.segment_bytes

    def _rotate(self) -> None:
        self._write([], durable=True)
        previous = self._segment.meta.number
        self._abandon()
        self._begin_segment(previous + 1, previous=self._signed.note)

    def _begin_segment(self, number: int, *, previous: str) -> None:
        edge = tuple(tuple(tile) for tile in self._tree.edge)
        facts = {"segment": number, "previous_segment": number - 1, "previous_checkpoint": previous}
        tree, rows = self._grown([self._marker("segment", facts)])
        signed = self._sign(tree, self._clock())
        meta = Meta(number, self._tree.size, edge, previous)
        self._open_segment = Segment.create(segment_path(self.directory, number), meta, rows, signed)
        self._tree, self._signed, self._started_ns = tree, signed, signed.time_ns

    def _expire(self) -> None:
        """Delete the segments whose newest entry is too old; the log says so before they go."""
        self._swept_ns = self._clock()
        if not self.limits.retention_s:
            return
        limit_ns = self._swept_ns - int(self.limits.retention_s * _NS)
        closed = segment_paths(self.directory)[:-1]
        expired = list(takewhile(lambda item: _ended_before(item[1], limit_ns), closed))
        if expired:
            self._delete(expired)

    def _delete(self, expired: Sequence[tuple[int, Path]]) -> None:
        with reading(segment_path(self.directory, expired[-1][0] + 1)) as db:
            first = read_meta(db).first
        facts = {"first_segment": expired[0][0], "last_segment": expired[-1][0], "before": first}
        self._write([self._marker("expired", facts)], durable=True)
        for _, path in expired:
            for suffix in ("-wal", "-shm", ""):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        sync_directory(self.directory)
        _log.info("audit: deleted %d expired segment(s), the entries before %d", len(expired), first)

    def _marker(self, event: str, facts: Mapping[str, object]) -> bytes:
        return entry.marker(event, self._tree.size, self._clock(), facts)


def _rebuilt(segment: Segment, signed: Checkpoint) -> Frontier:
    """The tree up to the last entry, which must agree with the last checkpoint. Raises `BadNote`."""
    tree = Frontier.from_edge(segment.meta.edge)
    root = b""
    for seq, leaf in segment.leaves():
        if seq != tree.size:
            raise BadNote(f"entry {tree.size} is missing")
        tree.append(leaf)
        if tree.size == signed.size:
            root = tree.root()
    if root != signed.root:
        raise BadNote(f"the entries are not those of the checkpoint at size {signed.size}")
    return tree


def _ended_before(path: Path, limit_ns: int) -> bool:
    """Whether a closed segment is older than that; one that cannot be read is kept for `verify` to report."""
    try:
        with reading(path) as db:
            stored = read_signed(db)
    except sqlite3.Error as exc:
        _log.error("audit: %s cannot be read (%s), so it and later segments are not expired", path.name, exc)
        return False
    return bool(stored) and stored[-1].time_ns < limit_ns


def _lock(directory: Path) -> int:
    """Take the directory for this process until the descriptor is closed."""
    path = directory / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except OSError as exc:
        taken = isinstance(exc, BlockingIOError)
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace") if taken else ""
        os.close(descriptor)
        if not taken:
            raise
        raise AuditUnavailable(
            f"audit log {directory} is in use by process {owner}; stop it, or give this one a data directory of its own"
        ) from exc
    return descriptor


def _reason(exc: OSError | sqlite3.Error) -> str:
    return exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else str(exc)
