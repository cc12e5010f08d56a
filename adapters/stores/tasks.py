"""Ownership of A2A tasks in tables (`gateway.ports.TaskStore`).

What is claimed is claimed for good: an `INSERT` that yields to an earlier one, then a look at whose it is, in one
transaction. So two replicas that learn of a task at once agree on its owner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import ColumnElement, RowMapping, Table, and_, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.stores.database import Database, StateUnavailable
from adapters.stores.schema import a2a_contexts, a2a_pushes, a2a_tasks
from gateway.a2a.operations import TERMINAL
from gateway.ports import PushRecord, TaskQuery, TaskRecord, TaskStore

_TASK: Final = a2a_tasks.c
_PUSH: Final = a2a_pushes.c
_CONTEXT: Final = a2a_contexts.c
_TASK_COLUMNS: Final = tuple(column for column in a2a_tasks.columns if column is not _TASK.owner_key)


class SqlTaskStore:
    """Tasks, contexts and push configurations. Raises `StateUnavailable` when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Made once: every new task is written before its first event goes out.
        self._inserts = {table: database.insert(table).on_conflict_do_nothing() for table in (a2a_tasks, a2a_contexts)}

    async def task(self, agent: str, task_id: str) -> TaskRecord | None:
        """The record of a task, whoever owns it."""
        async with self._database.reading() as connection:
            return await _task(connection, agent, task_id)

    async def claim_task(self, record: TaskRecord) -> TaskRecord | None:
        """Keep a new task and its context; of a known task, the record that holds is returned."""
        async with self._database.writing() as connection:
            if await self._added(connection, a2a_tasks, _row(record)):
                if await self._context_is_theirs(connection, record):
                    return record
                await connection.execute(delete(a2a_tasks).where(*_named(record.agent, record.task_id)))
                return None
            held = await _task(connection, record.agent, record.task_id)
        if held is None:  # dropped between the two statements; whose it is now is not for us to guess
            raise StateUnavailable("the task was forgotten while it was claimed: try again")
        return held

    async def update_task(self, agent: str, task_id: str, *, state: str, updated_ms: int) -> None:
        """Note a state, unless the task has ended."""
        live = (*_named(agent, task_id), _TASK.state.not_in(TERMINAL))
        async with self._database.writing() as connection:
            await connection.execute(update(a2a_tasks).where(*live).values(state=state, updated_ms=updated_ms))

    async def drop_task(self, agent: str, task_id: str) -> None:
        """Forget a task and its push configurations."""
        async with self._database.writing() as connection:
            await connection.execute(delete(a2a_pushes).where(_PUSH.agent == agent, _PUSH.task_id == task_id))
            await connection.execute(delete(a2a_tasks).where(*_named(agent, task_id)))

    async def prune(self, before_ms: int) -> int:
        """Forget ended tasks, with their push configurations."""
        old = (_TASK.state.in_(TERMINAL), _TASK.updated_ms < before_ms, _TASK.created_ms < before_ms)
        theirs = exists().where(_TASK.agent == _PUSH.agent, _TASK.task_id == _PUSH.task_id, *old)
        async with self._database.writing() as connection:
            await connection.execute(delete(a2a_pushes).where(theirs))
            return (await connection.execute(delete(a2a_tasks).where(*old))).rowcount

    async def tasks(self, query: TaskQuery) -> Sequence[TaskRecord]:
        """A page of an owner's tasks, newest first."""
        page = (
            select(*_TASK_COLUMNS)
            .where(*_asked_for(query), *_after(query.before))
            .order_by(_TASK.updated_ms.desc(), _TASK.task_id.desc())
            .limit(query.limit)
        )
        async with self._database.reading() as connection:
            return tuple(map(_record, (await connection.execute(page)).mappings()))

    async def count_tasks(self, query: TaskQuery) -> int:
        """How many there are on all pages together."""
        count = select(func.count()).select_from(a2a_tasks).where(*_asked_for(query))
        async with self._database.reading() as connection:
            return int((await connection.execute(count)).scalar_one())

    async def claim_context(self, agent: str, context_id: str, owner: str, now_ms: int) -> str:
        """Keep a new context; the owner of a known one is returned."""
        row = _context_row(agent, context_id, owner, now_ms)
        async with self._database.writing() as connection:
            added = await self._added(connection, a2a_contexts, row)
            return owner if added else await _context_owner(connection, agent, context_id)

    async def context_owner(self, agent: str, context_id: str) -> str:
        """The owner of a context; empty while it is free."""
        async with self._database.reading() as connection:
            return await _context_owner(connection, agent, context_id)

    async def put_push(self, record: PushRecord) -> None:
        """Keep a configuration, in place of one with the same agent, task and id."""
        async with self._database.writing() as connection:
            await connection.execute(self._database.upsert(a2a_pushes), [asdict(record)])

    async def pushes(self, agent: str, task_id: str) -> Sequence[PushRecord]:
        """The configurations of a task, oldest first."""
        query = select(a2a_pushes).where(_PUSH.agent == agent, _PUSH.task_id == task_id)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return tuple(sorted((PushRecord(**row) for row in rows), key=lambda push: (push.created_ms, push.config_id)))

    async def push_of_relay(self, relay_id: str) -> PushRecord | None:
        """The configuration that our webhook's address belongs to."""
        async with self._database.reading() as connection:
            found = await connection.execute(select(a2a_pushes).where(_PUSH.relay_id == relay_id))
            row = found.mappings().one_or_none()
        return PushRecord(**row) if row is not None else None

    async def drop_push(self, agent: str, task_id: str, config_id: str) -> bool:
        """Forget a configuration; `False` when there is none."""
        same = (_PUSH.agent == agent, _PUSH.task_id == task_id, _PUSH.config_id == config_id)
        async with self._database.writing() as connection:
            return bool((await connection.execute(delete(a2a_pushes).where(*same))).rowcount)

    async def _context_is_theirs(self, connection: AsyncConnection, record: TaskRecord) -> bool:
        if not record.context_id:
            return True
        row = _context_row(record.agent, record.context_id, record.owner, record.created_ms)
        if await self._added(connection, a2a_contexts, row):
            return True
        return await _context_owner(connection, record.agent, record.context_id) == record.owner

    async def _added(self, connection: AsyncConnection, table: Table, row: dict[str, Any]) -> bool:
        """Whether the row is new; one with its primary key stays as it is."""
        return (await connection.execute(self._inserts[table], row)).rowcount == 1


def _named(agent: str, task_id: str) -> tuple[ColumnElement[bool], ...]:
    return (_TASK.agent == agent, _TASK.task_id == task_id)


def _asked_for(query: TaskQuery) -> list[ColumnElement[bool]]:
    asked: list[ColumnElement[bool]] = [_TASK.agent == query.agent, _TASK.owner_key == _owner_key(query.owner)]
    if query.context_id:
        asked.append(_TASK.context_id == query.context_id)
    if query.state:
        asked.append(_TASK.state == query.state)
    if query.updated_after_ms:
        asked.append(_TASK.updated_ms >= query.updated_after_ms)
    return asked


def _after(before: tuple[int, str] | None) -> list[ColumnElement[bool]]:
    if before is None:
        return []
    updated_ms, task_id = before
    same_time = and_(_TASK.updated_ms == updated_ms, _TASK.task_id < task_id)
    return [or_(_TASK.updated_ms < updated_ms, same_time)]


def _owner_key(owner: str) -> str:
    """A principal has no greatest length, but what an index holds does."""
    return hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()


def _row(record: TaskRecord) -> dict[str, Any]:
    return {**asdict(record), "chain": list(record.chain), "owner_key": _owner_key(record.owner)}


def _context_row(agent: str, context_id: str, owner: str, now_ms: int) -> dict[str, Any]:
    return {"agent": agent, "context_id": context_id, "owner": owner, "created_ms": now_ms}


def _record(row: RowMapping) -> TaskRecord:
    return TaskRecord(**{**row, "chain": tuple(row["chain"])})


async def _task(connection: AsyncConnection, agent: str, task_id: str) -> TaskRecord | None:
    found = await connection.execute(select(*_TASK_COLUMNS).where(*_named(agent, task_id)))
    row = found.mappings().one_or_none()
    return _record(row) if row is not None else None


async def _context_owner(connection: AsyncConnection, agent: str, context_id: str) -> str:
    query = select(_CONTEXT.owner).where(_CONTEXT.agent == agent, _CONTEXT.context_id == context_id)
    return str(await connection.scalar(query) or "")


_: type[TaskStore] = SqlTaskStore
