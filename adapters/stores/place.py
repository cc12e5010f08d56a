"""Where the state lives: a URL becomes an engine on a file or a server that is ready to be used safely."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from adapters.stores.schema import SCHEMA
from gateway.database_files import make_private
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

FILE_NAME: Final = "state.db"
WRITES: Final = "interlock_writes"
"""Execution option of a connection whose transaction takes SQLite's write lock at once."""

_DRIVERS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
_SERVER_OPTIONS: Final = frozenset({"host", "port", "ssl", "passfile", "prepared_statement_cache_size"})
_PRAGMAS: Final = (
    "PRAGMA busy_timeout=5000",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    "PRAGMA foreign_keys=ON",
)


@dataclass(frozen=True, slots=True)
class Place:
    """A parsed location. `file` is `None` for a server."""

    url: URL
    file: Path | None

    def __str__(self) -> str:
        return str(self.file) if self.file is not None else self.url.render_as_string(hide_password=True)


def locate(url: str, data_dir: Path | None) -> Place:
    """Read a state URL; an empty one means `state.db` in the data directory.

    Raises `ConfigError` for anything that is neither an SQLite file nor a PostgreSQL server.
    """
    if not url:
        if data_dir is None:
            raise ConfigError([("state.url", "is empty and there is no data directory: set one of the two")])
        return _file(data_dir / FILE_NAME)
    parsed = _parsed(url)
    if not parsed.drivername.startswith("sqlite"):
        return Place(_server_options(parsed), None)
    if parsed.database in {None, "", ":memory:"} or str(parsed.database).startswith("file:"):
        raise ConfigError([("state.url", "state must outlive the process: name a file, as in sqlite:///state.db")])
    return _file(Path(str(parsed.database)))


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The cause quotes the URL, password included, so it is not chained.
        raise ConfigError([("state.url", "is not a URL: use sqlite:///FILE or postgresql://HOST/NAME")]) from None
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise ConfigError([("state.url", f"{parsed.drivername!r} is not supported: use sqlite or postgresql")])
    return parsed.set(drivername=driver)


def _server_options(url: URL) -> URL:
    """asyncpg takes libpq's `sslmode` values under another name, and fails on options that it does not know."""
    options = dict(url.query)
    if "sslmode" in options:
        options["ssl"] = options.pop("sslmode")
    unknown = sorted(options.keys() - _SERVER_OPTIONS)
    if unknown:
        known = ", ".join(sorted({*_SERVER_OPTIONS, "sslmode"}))
        raise ConfigError([("state.url", f"option {unknown[0]!r} is not supported: use some of {known}")])
    return url.set(query=options)


def _file(path: Path) -> Place:
    return Place(URL.create("sqlite+aiosqlite", database=str(path)), path)


def prepare_file(place: Place, data_dir: Path | None) -> None:
    """Make the directory (0700) and the file (0600) before SQLite would make them for everyone to read.

    A directory that is not the data directory is made when missing and otherwise left as its owner wants it.
    """
    if place.file is None:
        return
    try:
        place.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if data_dir is not None and data_dir.is_dir():
            data_dir.chmod(0o700)
        make_private(place.file)
    except OSError as exc:
        raise ConfigError(
            [("state", f"{place}: {exc.strerror or exc}: give the gateway a directory it can write")]
        ) from exc


def make_engine(place: Place) -> AsyncEngine:
    """An engine with everything that keeps concurrent use of the state correct."""
    if place.file is None:
        return _server_engine(place.url)
    engine = create_async_engine(place.url)
    event.listen(engine.sync_engine, "connect", _on_connect)
    event.listen(engine.sync_engine, "begin", _on_begin)
    event.listen(engine.sync_engine, "invalidate", _on_invalidate)
    return engine


def _server_engine(url: URL) -> AsyncEngine:
    try:
        engine = create_async_engine(
            url,
            pool_pre_ping=True,
            pool_size=4,
            connect_args={"timeout": 10, "command_timeout": 30},
        )
    except ModuleNotFoundError as exc:
        raise ConfigError([("state.url", "PostgreSQL needs a driver: install interlock-gateway[postgres]")]) from exc
    return engine.execution_options(schema_translate_map={None: SCHEMA})


def _on_connect(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # Python's driver begins transactions by guesswork (never before DDL); SQLAlchemy's "begin" event does it here.
    native: Any = connection
    native.isolation_level = None
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _on_begin(connection: Connection) -> None:
    # A writer that starts as a reader cannot wait for another one (SQLITE_BUSY at once), so it says so beforehand.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _on_invalidate(connection: DBAPIConnection, _: ConnectionPoolEntry, _error: BaseException | None) -> None:
    # To close a connection does not end its transaction while somebody knows a cursor of it, as the traceback of a
    # cancelled task does: it would keep its locks until the collector comes by.
    with suppress(Exception):  # whatever is wrong with it, it is closed next
        connection.rollback()
