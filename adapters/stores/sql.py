"""State on SQLite or PostgreSQL, through one set of statements (`gateway.ports.StateStore`).

Nothing on the path of a call waits for it: whoever needs keys or pins there keeps a snapshot and watches
`revision`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import anyio
from sqlalchemy import RowMapping, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from adapters.stores.approvals import SqlApprovalStore
from adapters.stores.budgets import SqlBudgetStore
from adapters.stores.database import Database, StateUnavailable
from adapters.stores.held import SqlHeldCallStore
from adapters.stores.migrate import migrate
from adapters.stores.place import locate, make_engine, prepare_file
from adapters.stores.schema import REVISION, api_keys, meta, pins, secrets
from adapters.stores.tasks import SqlTaskStore
from gateway.errors import ConfigError
from gateway.ports import ApiKey, Pin, StateStore

_SECRET_BYTES: Final = 32
_OPEN_S: Final = 60.0
"""Longest time for opening, waiting for another process's migration included."""


async def open_store(url: str, *, data_dir: Path | None, clock_s: Callable[[], float]) -> SqlStore:
    """A store on an up-to-date schema; close it with `aclose`.

    An empty `url` means `state.db` in `data_dir`. An older SQLite file is copied to `state.db.bak-<revision>`
    before it is migrated. Raises `ConfigError` when the place cannot be used, or holds a newer schema.
    """
    place = locate(url, data_dir)
    prepare_file(place, data_dir)
    engine = make_engine(place)
    try:
        with anyio.fail_after(_OPEN_S):
            await migrate(engine, place)
    except (SQLAlchemyError, OSError, TimeoutError) as exc:  # OSError: asyncpg lets refused connections through
        await engine.dispose()
        raise ConfigError([("state", f"{place} cannot be opened: {_cause(exc)}")]) from exc
    except BaseException:
        await engine.dispose()
        raise
    return SqlStore(engine, clock_s=clock_s)


def _cause(exc: BaseException) -> str:
    original = getattr(exc, "orig", None) or exc
    return str(original).partition("\n")[0] or type(original).__name__


class SqlStore:
    """Keys, pins and secrets in tables. Made by `open_store`. Raises `StateUnavailable` when the database fails."""

    def __init__(self, engine: AsyncEngine, *, clock_s: Callable[[], float]) -> None:
        self._database = Database(engine)
        self._clock_s = clock_s
        self.tasks = SqlTaskStore(self._database)
        """The tables of A2A, in the same database."""
        self.approvals = SqlApprovalStore(self._database)
        """Those of calls that wait for people, and of kill switches."""
        self.held = SqlHeldCallStore(self._database)
        """Those of held calls that clients ask after."""
        self.budgets = SqlBudgetStore(self._database)
        """Those of what was spent."""

    async def aclose(self) -> None:
        """Give the connections back."""
        await self._database.aclose()

    async def keys(self) -> Sequence[ApiKey]:
        """Every key ever made, revoked and expired ones included, oldest first."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(select(api_keys))).mappings().all()
        return tuple(sorted(map(_api_key, rows), key=lambda key: (key.created_s, key.id)))

    async def put_key(self, key: ApiKey) -> None:
        """Add a key, or replace the one with its id."""
        async with self._database.writing() as connection:
            await connection.execute(self._database.upsert(api_keys), [asdict(key)])
            await _count(connection)

    async def revoke_key(self, key_id: str, now_s: int) -> bool:
        """Revoke a key for good; `False` when there is no such key, or it was revoked before."""
        live = (api_keys.c.id == key_id) & (api_keys.c.revoked_s == 0)
        async with self._database.writing() as connection:
            changed = await connection.execute(update(api_keys).where(live).values(revoked_s=now_s))
            if not changed.rowcount:
                return False
            await _count(connection)
            return True

    async def pins(self, upstream: str) -> Sequence[Pin]:
        """The pins of one upstream, by kind and name."""
        query = select(pins).where(pins.c.upstream == upstream)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
        # Sorted here, because databases differ in how they order text.
        return tuple(sorted((Pin(**row) for row in rows), key=lambda pin: (pin.kind, pin.name)))

    async def put_pins(self, new: Sequence[Pin]) -> None:
        """Add pins, or replace those of the same upstream, kind and name: all of them or none."""
        if not new:
            return
        async with self._database.writing() as connection:
            await connection.execute(self._database.upsert(pins), [asdict(pin) for pin in new])
            await _count(connection)

    async def secret(self, name: str) -> bytes:
        """The 32 bytes of that name. Replicas that ask at the same time are given the same ones."""
        query = select(secrets.c.value).where(secrets.c.name == name)
        async with self._database.reading() as connection:
            found: bytes | None = await connection.scalar(query)
        if found is not None:
            return found
        row = {"name": name, "value": os.urandom(_SECRET_BYTES), "created_s": int(self._clock_s())}
        async with self._database.writing() as connection:
            await connection.execute(self._database.insert(secrets).on_conflict_do_nothing(), [row])
            value: bytes = (await connection.execute(query)).scalar_one()
            return value

    async def revision(self) -> int:
        """Grows with every change of keys or pins; at least 1."""
        async with self._database.reading() as connection:
            value: int = (await connection.execute(select(meta.c.value).where(meta.c.name == REVISION))).scalar_one()
            return value


def _api_key(row: RowMapping) -> ApiKey:
    return ApiKey(**{**row, "roles": tuple(row["roles"]), "scopes": tuple(row["scopes"])})


async def _count(connection: AsyncConnection) -> None:
    """One more change, in the transaction that makes it."""
    query = update(meta).where(meta.c.name == REVISION).values(value=meta.c.value + 1)
    await connection.execute(query)


_: type[StateStore] = SqlStore
__all__ = ["SqlStore", "StateUnavailable", "open_store"]
