"""The connections of a state store: reading, writing, and one name for whatever fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, ClassVar, Final

import anyio
from sqlalchemy import Insert, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from adapters.stores.place import WRITES
from gateway.errors import InterlockError

_INSERTS: Final[dict[str, Callable[[Table], Any]]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""The two `INSERT`s know `ON CONFLICT` in the same words; the type they have in common does not."""


class StateUnavailable(InterlockError):
    """The database cannot answer now."""

    http_status: ClassVar[int] = 503
    code: ClassVar[str] = "state_unavailable"


class Database:
    """Gives connections of one engine. Raises `StateUnavailable` when the database fails."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(**{WRITES: True})
        self.insert: Callable[[Table], Any] = _INSERTS[engine.dialect.name]
        # SQLite has one write lock and waits for it by sleeping, in no order: so writers of this process take turns.
        self._turn = anyio.Lock() if engine.dialect.name == "sqlite" else nullcontext()
        # Cancelled in a query, SQLite's driver leaves a task behind that waits for ever and keeps the process from
        # ending. Nothing takes long there; a server may be out of reach, so what is asked of one can be cancelled.
        self._to_the_end = engine.dialect.name == "sqlite"

    async def aclose(self) -> None:
        """Give the connections back."""
        await self._engine.dispose()

    def upsert(self, table: Table) -> Insert:
        """An `INSERT` that replaces the row with the same primary key."""
        insert = self.insert(table)
        keys = [column.name for column in table.primary_key]
        rest = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
        upsert: Insert = insert.on_conflict_do_update(index_elements=keys, set_=rest)
        return upsert

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for questions."""
        with _named(), anyio.CancelScope(shield=self._to_the_end):
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed at the end of the block."""
        with _named():
            async with self._turn:
                with anyio.CancelScope(shield=self._to_the_end):
                    async with self._writer.begin() as connection:
                        yield connection


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as exc:
        raise StateUnavailable("the state database cannot answer now: see the gateway's log") from exc
