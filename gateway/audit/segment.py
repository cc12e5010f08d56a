"""One segment of the log: a SQLite file with a run of entries, their hashes, and the checkpoints over them.

The file says with which unfinished tiles (`edge`) of the tree it begins, so it can be checked and continued
without the segments before it, which retention may have deleted.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from gateway.audit.keys import sync_directory
from gateway.audit.merkle import HASH_BYTES

FORMAT: Final = 1
ROWS_AT_ONCE: Final = 256
_APPLICATION_ID: Final = 0x494C4131  # "ILA1"
_NAME = re.compile(r"segment-([0-9]{8})\.sqlite")
_TABLES: Final = """
    CREATE TABLE meta (number INTEGER NOT NULL, first INTEGER NOT NULL, edge BLOB NOT NULL, base TEXT NOT NULL);
    CREATE TABLE entry (seq INTEGER PRIMARY KEY, leaf BLOB NOT NULL, body BLOB NOT NULL);
    CREATE TABLE checkpoint (size INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, note TEXT NOT NULL);
"""


class Row(NamedTuple):
    """One entry with its sequence number (its index in the tree) and leaf hash."""

    seq: int
    leaf: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """A stored checkpoint: the tree size, the signed note, and our clock when it was made."""

    size: int
    time_ns: int
    note: str


@dataclass(frozen=True, slots=True)
class Meta:
    """How a segment begins: its first sequence number, the tree before it, and that tree's signed checkpoint."""

    number: int
    first: int
    edge: tuple[tuple[bytes, ...], ...]
    base: str = ""


def segment_path(directory: Path, number: int) -> Path:
    """Where the segment of that number lives."""
    return directory / f"segment-{number:08}.sqlite"


def segment_paths(directory: Path) -> list[tuple[int, Path]]:
    """The segments of a log, oldest first."""
    found = [(_NAME.fullmatch(path.name), path) for path in directory.iterdir()]
    return sorted((int(match[1]), path) for match, path in found if match)


class Segment:
    """A segment that is being written. One thread at a time; raises `sqlite3.Error` when it cannot write."""

    def __init__(self, path: Path, db: sqlite3.Connection, meta: Meta) -> None:
        self.path, self._db, self.meta = path, db, meta
        self._durable = True

    @classmethod
    def create(cls, path: Path, meta: Meta, rows: Sequence[Row], signed: Signed) -> Segment:
        """A new segment with its first entries, on disk for good. A crash leaves it whole or not at all."""
        draft = path.with_name(path.name + ".new")
        draft.unlink(missing_ok=True)
        with closing(sqlite3.connect(draft, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=FULL")
            db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={FORMAT}")
            db.executescript(f"BEGIN; {_TABLES}")
            db.execute("INSERT INTO meta VALUES (?, ?, ?, ?)", (meta.number, meta.first, _pack(meta.edge), meta.base))
            _insert(db, rows, signed)
            db.execute("COMMIT")
        draft.rename(path)
        sync_directory(path.parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Segment:
        """Continue a segment. Whatever the write-ahead log still holds is brought into the file first."""
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            # A write that failed may linger in the page cache only: copying it into the file syncs it again.
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return cls(path, db, read_meta(db))
        except BaseException:
            db.close()
            raise

    def append(self, rows: Sequence[Row], signed: Signed | None, *, durable: bool) -> None:
        """Add entries, and a checkpoint when there is one, in one transaction; all of it or nothing."""
        if durable != self._durable:
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._durable = durable
        self._db.execute("BEGIN IMMEDIATE")
        try:
            _insert(self._db, rows, signed)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def leaves(self) -> Iterator[tuple[int, bytes]]:
        """Sequence numbers and hashes of all entries, in order."""
        for seq, leaf in self._db.execute("SELECT seq, leaf FROM entry ORDER BY seq"):
            yield int(seq), _blob(leaf)

    def signed(self) -> list[Signed]:
        """The stored checkpoints, oldest first; there is one from the first entry on."""
        return read_signed(self._db)

    def size_bytes(self) -> int:
        """How large the file is once the write-ahead log is merged."""
        pages, page_bytes = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return int(pages) * int(page_bytes)

    def close(self) -> None:
        """Leave one plain file behind; when a reader is in the way, the write-ahead log stays beside it."""
        try:
            with suppress(sqlite3.Error):
                self._db.execute("PRAGMA busy_timeout=200")
                self._db.execute("PRAGMA journal_mode=DELETE")
        finally:
            self._db.close()


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot change the segment, and sees it at one moment. Raises `sqlite3.Error`."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
        db.execute("BEGIN")
        yield db


def read_meta(db: sqlite3.Connection) -> Meta:
    """How the segment begins. Raises `sqlite3.Error` when it is not a segment of a format that we know."""
    application, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if application != _APPLICATION_ID or version != FORMAT:
        raise sqlite3.DatabaseError(
            f"not an audit segment of format {FORMAT} (format {version}); use a newer interlock"
        )
    row = db.execute("SELECT number, first, edge, base FROM meta").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("the segment does not say how it begins")
    return Meta(_number(row[0]), _number(row[1]), _unpack(_blob(row[2])), str(row[3]))


def read_rows(db: sqlite3.Connection, first: int = 0) -> Iterator[Row]:
    """The entries from sequence number `first` on, in order."""
    for seq, leaf, body in db.execute("SELECT seq, leaf, body FROM entry WHERE seq >= ? ORDER BY seq", (first,)):
        yield Row(int(seq), _blob(leaf), _blob(body))


def read_rows_backwards(db: sqlite3.Connection) -> Iterator[Row]:
    """The entries, newest first."""
    for seq, leaf, body in db.execute("SELECT seq, leaf, body FROM entry ORDER BY seq DESC"):
        yield Row(int(seq), _blob(leaf), _blob(body))


def read_signed(db: sqlite3.Connection) -> list[Signed]:
    """The stored checkpoints, oldest first."""
    rows = db.execute("SELECT size, time_ns, note FROM checkpoint ORDER BY size")
    return [Signed(int(size), _number(time_ns), str(note)) for size, time_ns, note in rows]


def _blob(value: object) -> bytes:
    """A stored value as bytes: somebody, or a bad disk, may have left something of another type."""
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes) else b""


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise sqlite3.DatabaseError("the segment holds something else where a number has to be")
    return value


def _insert(db: sqlite3.Connection, rows: Sequence[Row], signed: Signed | None) -> None:
    # One statement for many rows: the driver gives up the interpreter's lock at each statement, and beside a busy
    # event loop gets it back only milliseconds later. Row by row the log would fall behind the calls.
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        places = ",".join(["(?,?,?)"] * len(part))
        db.execute(f"INSERT INTO entry VALUES {places}", [value for row in part for value in row])  # noqa: S608
    if signed is not None:
        db.execute("INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?)", (signed.size, signed.time_ns, signed.note))


def _pack(edge: Sequence[Sequence[bytes]]) -> bytes:
    return b"".join(bytes([len(tile)]) + b"".join(tile) for tile in edge)


def _unpack(blob: bytes) -> tuple[tuple[bytes, ...], ...]:
    tiles, start = [], 0
    while start < len(blob):
        hashes = blob[start + 1 : start + 1 + blob[start] * HASH_BYTES]
        if len(hashes) != blob[start] * HASH_BYTES:
            raise sqlite3.DatabaseError("the unfinished tiles of the segment are cut short")
        tiles.append(tuple(hashes[i : i + HASH_BYTES] for i in range(0, len(hashes), HASH_BYTES)))
        start += 1 + len(hashes)
    return tuple(tiles)
