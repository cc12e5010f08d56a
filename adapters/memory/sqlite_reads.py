"""Questions to the file: each is limited to the classes of a view before anything is looked at or ranked."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from adapters.memory.sqlite_file import ENDLESS
from adapters.memory.sqlite_rows import SELECT, class_of, json, split_id, tenant_number, version_of
from gateway.memory.records import Hold, Page, Reach, RecordClass, Scope, Status, Version, View
from gateway.types import Entity

_CLASSES: Final = (
    "SELECT c.id, c.scope, c.owner, c.kind, c.labels, c.residency, s.namespace FROM classes c"
    " JOIN shards s ON s.id = c.shard_id WHERE c.tenant_id = ?"
)
_REACHED: Final = " AND (c.scope, c.owner) IN (VALUES {})"
"""Not as JSON: SQLite ends a string of it at U+0000, and would take one owner for another."""
_USED: Final = (
    " AND EXISTS (SELECT 1 FROM versions v WHERE v.class_id = c.id AND v.status IN (SELECT value FROM json_each(?)))"
)
_IN_CLASSES: Final = " v.class_id IN (SELECT value FROM json_each(?)) AND v.status IN (SELECT value FROM json_each(?))"
HOLDS: Final = " AND v.recorded_at <= ? AND v.superseded_at > ? AND v.valid_from <= ? AND v.valid_to > ?"
_SCOPES: Final = tuple(Scope)


class Limits:
    """A view as values of a condition: the classes by their numbers, and the two times."""

    def __init__(self, connection: sqlite3.Connection, view: View, now_ms: int) -> None:
        self.classes = classes_in(connection, view)
        self.shown = [json(list(self.classes)), json(list(view.statuses))]
        valid = latest(connection, now_ms) if view.as_of_valid_ms is None else view.as_of_valid_ms
        recorded = ENDLESS - 1 if view.as_of_recorded_ms is None else view.as_of_recorded_ms
        self.times = [recorded, recorded, valid, valid]

    @property
    def all(self) -> list[object]:
        """For `IN_VIEW`."""
        return [*self.shown, *self.times]


def latest(connection: sqlite3.Connection, now_ms: int) -> int:
    """Never before what is recorded: what was just written is seen, whatever the clock does."""
    return max(now_ms, int(connection.execute("SELECT value FROM meta WHERE name = 'last_ms'").fetchone()[0]))


SHOWN: Final = _IN_CLASSES
"""Condition that a version is one that the view admits; its values are `Limits.shown`."""
IN_VIEW: Final = _IN_CLASSES + HOLDS
"""Condition that it holds at the view's times, too; its values are `Limits.all`."""


def classes_in(connection: sqlite3.Connection, view: View) -> Mapping[int, str]:
    """The numbers of the classes that a view shows, with their namespaces."""
    rows = _classes(connection, view.tenant, view.reach, "", [])
    return {row["id"]: row["namespace"] for row in rows if class_of(row) in view.classes}


def classes(
    connection: sqlite3.Connection, tenant: str, reach: Reach, statuses: frozenset[Status] | None
) -> Sequence[RecordClass]:
    """`MemoryReader.classes`."""
    wanted = frozenset(Status) - {Status.ERASED} if statuses is None else statuses
    rows = _classes(connection, tenant, reach, _USED, [json(list(wanted))])
    return sorted({class_of(row) for row in rows})


def _classes(
    connection: sqlite3.Connection, tenant: str, reach: Reach, condition: str, values: list[str]
) -> Sequence[sqlite3.Row]:
    number = tenant_number(connection, tenant)
    if number is None:
        return []
    if reach.whole:
        return connection.execute(_CLASSES + condition, [number, *values]).fetchall()
    if not reach.owners:
        return []
    reached = _REACHED.format(", ".join(["(?, ?)"] * len(reach.owners)))
    owners = [part for pair in reach.owners for part in pair]
    return connection.execute(_CLASSES + reached + condition, [number, *owners, *values]).fetchall()


def get(connection: sqlite3.Connection, view: View, name: str, now_ms: int) -> Version | None:
    """`MemoryReader.get`."""
    record, number = split_id(name)
    limits = Limits(connection, view, now_ms)
    tenant = tenant_number(connection, view.tenant)
    if number is None:
        where, values = f" WHERE v.tenant_id = ? AND v.record = ? AND{IN_VIEW}", [tenant, record, *limits.all]
    else:
        where = f" WHERE v.tenant_id = ? AND v.record = ? AND v.number = ? AND{SHOWN}"
        values = [tenant, record, number, *limits.shown]
    row = connection.execute(f"{SELECT}{where} ORDER BY v.id DESC LIMIT 1", values).fetchone()
    return None if row is None else version_of(row)


def by_key(connection: sqlite3.Connection, view: View, namespace: str, key: str, now_ms: int) -> Sequence[Version]:
    """`MemoryReader.by_key`."""
    values = [tenant_number(connection, view.tenant), namespace, key, *Limits(connection, view, now_ms).all]
    where = f" WHERE v.tenant_id = ? AND s.namespace = ? AND v.key = ? AND{IN_VIEW}"
    found = map(version_of, connection.execute(SELECT + where, values))
    return sorted(found, key=lambda version: _SCOPES.index(version.scope))


def history(connection: sqlite3.Connection, view: View, name: str) -> Sequence[Version]:
    """`MemoryReader.history`."""
    values = [tenant_number(connection, view.tenant), split_id(name)[0], *Limits(connection, view, 0).shown]
    where = f" WHERE v.tenant_id = ? AND v.record = ? AND{SHOWN} ORDER BY v.number"
    return [version_of(row) for row in connection.execute(SELECT + where, values)]


def children(connection: sqlite3.Connection, view: View, name: str) -> Sequence[Version]:
    """`MemoryReader.children`."""
    record, number = split_id(name)
    tenant = tenant_number(connection, view.tenant)
    which = "" if number is None else " AND number IN (0, ?)"
    where = (
        " WHERE v.tenant_id = ? AND v.id IN"  # noqa: S608  # conditions of ours
        f" (SELECT version_id FROM edges WHERE tenant_id = ? AND parent = ?{which}) AND{SHOWN} ORDER BY v.id"
    )
    numbers = [] if number is None else [number]
    values = [tenant, tenant, record, *numbers, *Limits(connection, view, 0).shown]
    return [version_of(row) for row in connection.execute(SELECT + where, values)]


def page(connection: sqlite3.Connection, view: View, namespace: str, after: str, limit: int, now_ms: int) -> Page:
    """`MemoryReader.page`."""
    limits = Limits(connection, view, now_ms)
    if namespace:
        limits.shown[0] = json([number for number, name in limits.classes.items() if name == namespace])
    before = int(after) if after.isdecimal() and len(after) < 19 else ENDLESS
    where = f" WHERE v.id < ? AND{IN_VIEW} ORDER BY v.id DESC LIMIT ?"
    rows = connection.execute(SELECT + where, [before, *limits.all, limit + 1]).fetchall()
    last = str(rows[limit - 1]["id"]) if len(rows) > limit else ""
    return Page(tuple(map(version_of, rows[:limit])), last)


def state(connection: sqlite3.Connection) -> tuple[int, int]:
    """What there is now, for `some`: the last row, and the position of the last change."""
    (row,) = connection.execute("SELECT coalesce(max(id), 0) FROM versions").fetchone()
    (position,) = connection.execute("SELECT value FROM meta WHERE name = 'position'").fetchone()
    return row, position


def some(
    connection: sqlite3.Connection, view: View, after: int, limit: int, at: tuple[int, int]
) -> list[tuple[int, Version]]:
    """A part of `MemoryReader.everything`, with the rows: as it was at that state, but for what is erased since."""
    where = f" WHERE v.id > ? AND v.id <= ? AND{SHOWN} ORDER BY v.id LIMIT ?"
    values = [after, at[0], *Limits(connection, view, 0).shown, limit]
    return [(row["id"], _then(row, at[1])) for row in connection.execute(SELECT + where, values)]


def _then(row: sqlite3.Row, position: int) -> Version:
    """A version as it was at a position: all that changes one later is its end."""
    version = version_of(row)
    ended_since = row["position"] > position and version.status is not Status.ERASED
    return replace(version, superseded_at_ms=None) if ended_since else version


def fetch(connection: sqlite3.Connection, view: View, rows: Sequence[int], now_ms: int) -> Mapping[int, Version]:
    """`MemoryReader.fetch`."""
    where = f" WHERE v.id IN (SELECT value FROM json_each(?)) AND{IN_VIEW}"  # noqa: S608  # ours
    values = [json(list(rows)), *Limits(connection, view, now_ms).all]
    found = {row["id"]: version_of(row) for row in connection.execute(SELECT + where, values)}
    return {row: found[row] for row in rows if row in found}


def holds(connection: sqlite3.Connection, tenant: str) -> Sequence[Hold]:
    """`MemoryReader.holds`."""
    values = (tenant_number(connection, tenant),)
    rows = connection.execute("SELECT * FROM holds WHERE tenant_id = ? ORDER BY target", values)
    return [Hold(row["target"], Entity(row["by_type"], row["by_id"]), row["reason"], row["since"]) for row in rows]


def tenants(connection: sqlite3.Connection) -> list[str]:
    """Everybody who has records here."""
    return [row[0] for row in connection.execute("SELECT name FROM tenants ORDER BY id")]
