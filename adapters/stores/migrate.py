"""Brings the tables to what this version needs, once, whoever comes first.

Everything happens in one transaction that holds the write lock (SQLite) or an advisory lock (PostgreSQL): read
the revision, keep a backup, migrate. A second process waits and then finds nothing to do; a failure leaves the
old state as it was.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import anyio
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from adapters.stores.place import WRITES, Place
from adapters.stores.schema import SCHEMA
from gateway.errors import ConfigError

_SCRIPTS: Final = Path(__file__).parent / "migrations"
_LOCK_ID: Final = 0x1A7E_010C
"""Key of the advisory lock; any number that no other program on the database uses."""

_one_at_a_time = anyio.Lock()
"""Alembic keeps the running migration in module globals, so two must not interleave in one process."""


async def migrate(engine: AsyncEngine, place: Place) -> str:
    """Upgrade to the newest revision and return the one found before (empty for a new database).

    Raises `ConfigError` when a newer version of Interlock has already been here.
    """
    async with (
        _one_at_a_time,
        engine.execution_options(**{WRITES: True}).connect() as connection,
        connection.begin(),
    ):
        await connection.run_sync(_lock)
        found = await connection.run_sync(_revision)
        await _upgrade(connection, place, found)
        return found


async def _upgrade(connection: AsyncConnection, place: Place, found: str) -> None:
    config = _config()
    script = ScriptDirectory.from_config(config)
    newest = str(script.get_current_head())
    if found == newest:
        return
    known = {revision.revision for revision in script.walk_revisions()}
    if found and found not in known:
        raise ConfigError([("state", _newer(place, found, newest))])
    if not found:
        await connection.run_sync(_check_empty, place)
    elif place.file is not None:
        await anyio.to_thread.run_sync(_back_up, place.file, found)
    await connection.run_sync(_run, config)


def _check_empty(connection: Connection, place: Place) -> None:
    """Tables without a revision are somebody else's, and not to be mixed with ours."""
    schema = SCHEMA if connection.dialect.name == "postgresql" else None
    tables = inspect(connection).get_table_names(schema)
    if tables:
        raise ConfigError(
            [("state", f"{place} holds tables of another program ({tables[0]}, ...): use a place of its own")]
        )


def _newer(place: Place, found: str, newest: str) -> str:
    return (
        f"{place} is at schema revision {found!r}, written by a newer version of Interlock (this one knows up to "
        f"{newest!r}): start that version, or use a backup made before the upgrade"
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _run(connection: Connection, config: Config) -> None:
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _lock(connection: Connection) -> None:
    if connection.dialect.name != "postgresql":
        return  # BEGIN IMMEDIATE already holds SQLite's one write lock
    connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
    # Asked first, because CREATE SCHEMA IF NOT EXISTS needs the right to create one even where one exists.
    if not inspect(connection).has_schema(SCHEMA):
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))


def _revision(connection: Connection) -> str:
    schema = SCHEMA if connection.dialect.name == "postgresql" else None
    context = MigrationContext.configure(connection, opts={"version_table_schema": schema})
    heads = context.get_current_heads()
    if len(heads) > 1:
        raise ConfigError([("state", f"the schema has several revisions ({', '.join(heads)}): use a backup")])
    return heads[0] if heads else ""


def _back_up(file: Path, revision: str) -> None:
    """Copy the database, its write-ahead log included, to `state.db.bak-<revision>`.

    The copy gets its name when it is complete, so that a crash leaves no half of one. Without it there is no
    upgrade: raises `ConfigError`.
    """
    backup = file.with_name(f"{file.name}.bak-{revision}")
    unfinished = backup.with_name(f"{backup.name}.tmp")
    try:
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(unfinished)) as target:
            source.backup(target)
        unfinished.replace(backup)
    except (sqlite3.Error, OSError) as exc:
        raise ConfigError([("state", f"not upgraded, because no backup can be made at {backup}: {exc}")]) from exc
