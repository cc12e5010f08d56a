"""The file that memory is kept in: opened safely, with the tables it needs, and cleaned of what was deleted."""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gateway.database_files import make_private
from gateway.errors import ConfigError
from gateway.memory.ports import MemoryUnavailable

_log = logging.getLogger(__name__)

ENDLESS: Final = 2**63 - 1
"""An end that has not come, as it is stored: so that one comparison is enough."""
_VERSION: Final = 1
_BUSY_MS: Final = 10_000

_SCHEMA: Final = (
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE tenants(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE shards(id INTEGER PRIMARY KEY, tenant_id INTEGER NOT NULL, namespace TEXT NOT NULL,"
    " UNIQUE(tenant_id, namespace))",
    "CREATE TABLE classes(id INTEGER PRIMARY KEY, tenant_id INTEGER NOT NULL, shard_id INTEGER NOT NULL,"
    " scope TEXT NOT NULL, owner TEXT NOT NULL, kind TEXT NOT NULL, labels TEXT NOT NULL, residency TEXT NOT NULL,"
    " UNIQUE(tenant_id, scope, owner, shard_id, kind, labels, residency))",
    # AUTOINCREMENT: a number is never used again, so an index that missed something cannot take one text for another
    "CREATE TABLE texts(id INTEGER PRIMARY KEY AUTOINCREMENT, tenant_id INTEGER NOT NULL, shard_id INTEGER NOT NULL,"
    " text TEXT NOT NULL)",
    "CREATE INDEX texts_tenant ON texts(tenant_id)",
    "CREATE TABLE vectors(text_id INTEGER PRIMARY KEY, shard_id INTEGER NOT NULL, position INTEGER NOT NULL,"
    " model TEXT NOT NULL, vector BLOB NOT NULL)",
    "CREATE INDEX vectors_position ON vectors(shard_id, position)",
    "CREATE TABLE versions(id INTEGER PRIMARY KEY AUTOINCREMENT, tenant_id INTEGER NOT NULL, shard_id INTEGER NOT NULL,"
    " class_id INTEGER NOT NULL, record TEXT NOT NULL, number INTEGER NOT NULL, key TEXT NOT NULL, text_id INTEGER,"
    " position INTEGER NOT NULL, status TEXT NOT NULL, trust REAL NOT NULL,"
    " valid_from INTEGER NOT NULL, valid_to INTEGER NOT NULL,"
    " recorded_at INTEGER NOT NULL, superseded_at INTEGER NOT NULL, retain_until INTEGER NOT NULL,"
    " content_hash TEXT NOT NULL, supersedes TEXT NOT NULL, signature TEXT NOT NULL, note TEXT NOT NULL,"
    " derived_from TEXT NOT NULL, subjects TEXT NOT NULL, changed_by TEXT NOT NULL,"
    " type TEXT NOT NULL, ref TEXT NOT NULL, call_id TEXT NOT NULL, trace_id TEXT NOT NULL, span_id TEXT NOT NULL,"
    " args_hash TEXT NOT NULL, author_agent TEXT NOT NULL, on_behalf_of TEXT NOT NULL, model TEXT NOT NULL,"
    " session TEXT NOT NULL, UNIQUE(tenant_id, record, number))",
    "CREATE INDEX versions_position ON versions(shard_id, position)",
    "CREATE INDEX versions_class ON versions(class_id, id)",
    "CREATE INDEX versions_text ON versions(text_id)",
    "CREATE INDEX versions_key ON versions(tenant_id, shard_id, key)",
    "CREATE INDEX versions_recorded ON versions(tenant_id, recorded_at)",
    "CREATE TABLE subjects(tenant_id INTEGER NOT NULL, subject TEXT NOT NULL, version_id INTEGER NOT NULL,"
    " PRIMARY KEY(tenant_id, subject, version_id)) WITHOUT ROWID",
    "CREATE TABLE edges(tenant_id INTEGER NOT NULL, parent TEXT NOT NULL, number INTEGER NOT NULL,"
    " version_id INTEGER NOT NULL, PRIMARY KEY(tenant_id, parent, number, version_id)) WITHOUT ROWID",
    "CREATE TABLE holds(tenant_id INTEGER NOT NULL, target TEXT NOT NULL, by_type TEXT NOT NULL, by_id TEXT NOT NULL,"
    " reason TEXT NOT NULL, since INTEGER NOT NULL, PRIMARY KEY(tenant_id, target)) WITHOUT ROWID",
)


@contextmanager
def named() -> Iterator[None]:
    """One name for whatever fails in the file."""
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        _log.error("the file of the memory: %s", exc)  # its words say all
        raise MemoryUnavailable("the memory cannot answer now: see the gateway's log") from exc


def prepare(file: Path) -> None:
    """Make the file (0600) before SQLite would make it for everyone to read, with its tables.

    Raises `ConfigError` for a place that cannot be used, or a file that a newer release wrote.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_private(file)
        connection = writer(file)
        try:
            _create(connection, file)
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as exc:
        raise ConfigError([("state", f"{file}: {exc}: give the gateway a place it can write, or restore it")]) from exc


def _create(connection: sqlite3.Connection, file: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise ConfigError([("state", f"{file}: written by a newer release: use that one")])
    if version == 0:
        for statement in _SCHEMA:
            connection.execute(statement)
        first = (("position", 0), ("last_ms", 0), ("unclean", 0), ("identity", secrets.token_hex(16)))
        connection.executemany("INSERT INTO meta VALUES (?, ?)", first)
        connection.execute(f"PRAGMA user_version={_VERSION}")
    connection.execute("COMMIT")


def writer(file: Path) -> sqlite3.Connection:
    """A connection that may write, used by one thread. What it acknowledges survives a power failure."""
    connection = _connected(file)
    connection.execute("PRAGMA page_size=8192")  # five vectors to a page; SQLite's own 4096 would waste a quarter
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute("PRAGMA cache_size=-16384")
    return connection


def reader(file: Path) -> sqlite3.Connection:
    """A connection for questions."""
    connection = _connected(file)
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA cache_size=-8192")
    return connection


def _connected(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000)
    connection.row_factory = sqlite3.Row
    return connection


def words_table(tenant_id: int) -> str:
    """The full-text table of one tenant. Each has its own: how rare a word is elsewhere changes nobody's ranking."""
    return f"words_{tenant_id:d}"


def add_words_table(connection: sqlite3.Connection, tenant_id: int) -> None:
    """Make it: an index of the texts, which stay where they are."""
    table = words_table(tenant_id)
    connection.execute(
        f"CREATE VIEW {table}_texts AS SELECT id, text FROM texts WHERE tenant_id = {tenant_id:d}"  # noqa: S608  # a number
    )
    connection.execute(
        f"CREATE VIRTUAL TABLE {table} USING fts5(text, content='{table}_texts', content_rowid='id',"
        " tokenize='porter unicode61 remove_diacritics 2')"
    )


def soil(connection: sqlite3.Connection, tenant_id: int) -> None:
    """Deletions of this transaction leave no words in the full-text index; `clean` is to follow."""
    # FTS5 notes a deletion beside the words, until its segments are merged.
    table = words_table(tenant_id)
    connection.execute(f"INSERT INTO {table}({table}) VALUES ('optimize')")  # noqa: S608  # a number
    connection.execute("UPDATE meta SET value = 1 WHERE name = 'unclean'")


def unclean(connection: sqlite3.Connection) -> bool:
    """Whether something was deleted whose traces may be in the files, as after a crash in between."""
    return bool(connection.execute("SELECT value FROM meta WHERE name = 'unclean'").fetchone()[0])


def clean(connection: sqlite3.Connection) -> None:
    """Leave no trace of what was deleted: none in pages that were moved, none in the write-ahead log.

    Raises `sqlite3.OperationalError` while somebody reads for longer than is waited.
    """
    connection.execute("VACUUM")
    _truncate_log(connection)
    connection.execute("UPDATE meta SET value = 0 WHERE name = 'unclean'")
    _truncate_log(connection)


def _truncate_log(connection: sqlite3.Connection) -> None:
    (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise sqlite3.OperationalError("the write-ahead log is being read: it cannot be emptied now")
