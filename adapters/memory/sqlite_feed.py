"""What an index of vectors takes from the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from adapters.memory.sqlite_reads import IN_VIEW, Limits, classes_in
from adapters.memory.sqlite_rows import json
from gateway.memory.ports import Changes, State
from gateway.memory.records import Status, View

_SHARD: Final = "SELECT s.id FROM shards s JOIN tenants n ON n.id = s.tenant_id WHERE n.name = ? AND s.namespace = ?"
_STATES: Final = (  # 0 is no text: an erased version need not be the only one that had it
    "SELECT v.position, v.id, coalesce(v.text_id, 0), v.class_id, v.valid_from, v.valid_to, v.recorded_at,"
    " v.superseded_at, v.status, t.id IS NULL FROM versions v LEFT JOIN texts t ON t.id = v.text_id"
    " WHERE v.shard_id = ? AND v.position > ? ORDER BY v.position LIMIT ?"
)
_VECTORS: Final = (
    "SELECT position, text_id, vector FROM vectors WHERE shard_id = ? AND position > ? AND model = ?"
    " ORDER BY position LIMIT ?"
)
_ELIGIBLE: Final = (
    "SELECT v.text_id, v.id FROM versions v"  # noqa: S608  # a condition of ours
    f" WHERE v.text_id IN (SELECT value FROM json_each(?)) AND{IN_VIEW}"
)


def shards(connection: sqlite3.Connection) -> Sequence[tuple[str, str]]:
    """`VectorFeed.shards`."""
    statement = "SELECT n.name, s.namespace FROM shards s JOIN tenants n ON n.id = s.tenant_id ORDER BY s.id"
    return [(row[0], row[1]) for row in connection.execute(statement)]


def changes(connection: sqlite3.Connection, tenant: str, namespace: str, model: str, since: int, limit: int) -> Changes:
    """`VectorFeed.changes`."""
    (position,) = connection.execute("SELECT value FROM meta WHERE name = 'position'").fetchone()
    shard = connection.execute(_SHARD, (tenant, namespace)).fetchone()
    if shard is None or position == since:
        return Changes(position, (), ())
    states = connection.execute(_STATES, (shard[0], since, limit)).fetchall()
    vectors = connection.execute(_VECTORS, (shard[0], since, model, limit)).fetchall()
    cuts = [rows[-1][0] for rows in (states, vectors) if len(rows) == limit]
    upto = min([position, *cuts])
    return Changes(
        upto,
        tuple((row[1], row[2]) for row in vectors if row[0] <= upto),
        tuple(_state(row) for row in states if row[0] <= upto),
        more=bool(cuts),
    )


def _state(row: sqlite3.Row) -> State:
    _, number, text, class_id, valid_from, valid_to, recorded, superseded, status, gone = row
    return State(number, text, class_id, valid_from, valid_to, recorded, superseded, Status(status), bool(gone))


def admitted(connection: sqlite3.Connection, view: View) -> Mapping[str, frozenset[int]]:
    """`VectorFeed.admitted`."""
    found: dict[str, set[int]] = {}
    for number, namespace in classes_in(connection, view).items():
        found.setdefault(namespace, set()).add(number)
    return {namespace: frozenset(numbers) for namespace, numbers in found.items()}


def eligible(
    connection: sqlite3.Connection, view: View, namespace: str, texts: Sequence[int], now_ms: int
) -> Mapping[int, int]:
    """`VectorFeed.eligible`."""
    limits = Limits(connection, view, now_ms)
    inside = [number for number, name in limits.classes.items() if name == namespace]
    values = [json(list(texts)), json(inside), *limits.all[1:]]
    return {row[0]: row[1] for row in connection.execute(_ELIGIBLE, values)}


def identity(connection: sqlite3.Connection) -> str:
    """`VectorFeed.identity`."""
    return str(connection.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()[0])
