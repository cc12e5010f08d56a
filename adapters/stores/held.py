"""Held calls that clients ask after, in a table (`gateway.tickets.HeldCallStore`).

A call changes hands only from the version that somebody read, so that of several replicas one carries it out.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from sqlalchemy import delete, select, update

from adapters.stores.database import Database
from adapters.stores.schema import held_calls
from gateway.tickets import HeldCall, HeldCallStore

_HELD: Final = held_calls.c
_FIXED: Final = frozenset({"ticket_id", "owner", "sealed_call", "created_ms", "version"})


class SqlHeldCallStore:
    """Raises `StateUnavailable` when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = database.insert(held_calls).on_conflict_do_nothing()

    async def keep_held(self, held: HeldCall) -> HeldCall:
        """A new one, or the one that its ticket has."""
        query = select(held_calls).where(_HELD.ticket_id == held.ticket_id)
        async with self._database.writing() as connection:
            await connection.execute(self._insert, asdict(held))
            return HeldCall(**(await connection.execute(query)).mappings().one())

    async def held(self, ticket_id: str) -> HeldCall | None:
        """Whatever became of it."""
        query = select(held_calls).where(_HELD.ticket_id == ticket_id)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return HeldCall(**row) if row is not None else None

    async def change_held(self, held: HeldCall) -> bool:
        """Compare and set, by version."""
        values = {name: value for name, value in asdict(held).items() if name not in _FIXED}
        same = (_HELD.ticket_id == held.ticket_id, _HELD.version == held.version)
        query = update(held_calls).where(*same).values(version=held.version + 1, **values)
        async with self._database.writing() as connection:
            return bool((await connection.execute(query)).rowcount)

    async def prune_held(self, before_ms: int) -> int:
        """Forget what expired."""
        async with self._database.writing() as connection:
            return (await connection.execute(delete(held_calls).where(_HELD.expires_ms < before_ms))).rowcount


_: type[HeldCallStore] = SqlHeldCallStore
