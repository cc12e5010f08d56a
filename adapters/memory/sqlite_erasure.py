"""Erasure: of versions nothing is left but that they were, and every place that held a word of them is overwritten."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Final

import orjson

from adapters.memory.sqlite_file import soil, words_table
from adapters.memory.sqlite_rows import json, tenant_number, tick
from adapters.memory.sqlite_writes import Kept, derived, kept_versions
from gateway.memory.records import Erased, Source, SourceType, Status

_NOBODY: Final = Source(SourceType.SYSTEM)
_SUBJECTS: Final = (
    "SELECT DISTINCT v.record FROM subjects s JOIN versions v ON v.id = s.version_id"
    " WHERE s.tenant_id = ?1 AND s.subject = ?2"
    " UNION SELECT v.record FROM classes c JOIN versions v ON v.class_id = c.id WHERE c.tenant_id = ?1 AND c.owner = ?2"
)
_OVER: Final = (
    "SELECT v.record, v.id FROM versions v JOIN shards s ON s.id = v.shard_id WHERE v.tenant_id = ? AND v.status <> ?"
    " AND (v.retain_until <= ? OR v.recorded_at <= ? - (SELECT value FROM json_each(?) WHERE key = s.namespace))"
)
_WIPE: Final = (
    "UPDATE versions SET key = '', status = 'erased', content_hash = '', signature = '', note = '',"
    " derived_from = '[]', subjects = '[]', changed_by = :changed_by, type = 'system', ref = '', call_id = '',"
    " trace_id = '', span_id = '', args_hash = '', author_agent = '', on_behalf_of = '', model = '', session = '',"
    " class_id = :class_id, text_id = :text_id, position = :position WHERE id = :id"
)
_HELD: Final = (
    "SELECT target FROM holds WHERE tenant_id = ?1 UNION SELECT v.record FROM holds h"
    " JOIN shards s ON s.tenant_id = h.tenant_id AND s.namespace || '/' = h.target JOIN versions v ON v.shard_id = s.id"
    " WHERE h.tenant_id = ?1"
)
_UNUSED: Final = (
    "DELETE FROM classes WHERE tenant_id = ? AND NOT EXISTS (SELECT 1 FROM versions v WHERE v.class_id = classes.id)"
)


def erase_subject(connection: sqlite3.Connection, tenant: str, subject: str, by: Source) -> Erased:
    """`MemoryUpkeep.erase_subject`."""
    tenant_id = tenant_number(connection, tenant)
    about = [row[0] for row in connection.execute(_SUBJECTS, (tenant_id, subject))] if subject else []
    erased = _erase_all(connection, tenant_id, derived(connection, tenant_id, about), by)
    if tenant_id is not None and subject:
        _forget_name(connection, tenant_id, subject)
    return erased


def erase_records(connection: sqlite3.Connection, tenant: str, records: Sequence[str], by: Source) -> Erased:
    """`MemoryUpkeep.erase_records`."""
    tenant_id = tenant_number(connection, tenant)
    return _erase_all(connection, tenant_id, derived(connection, tenant_id, records), by)


def sweep(connection: sqlite3.Connection, tenant: str, limits_ms: Mapping[str, int], now_ms: int) -> Erased:
    """`MemoryUpkeep.sweep`."""
    tenant_id = tenant_number(connection, tenant)
    limits = json({name: limit for name, limit in limits_ms.items() if limit > 0})
    over: dict[str, set[int]] = {}
    for record, row in connection.execute(_OVER, (tenant_id, Status.ERASED, now_ms, now_ms, limits)):
        over.setdefault(record, set()).add(row)
    return _erase(connection, tenant_id, over, _NOBODY)


def _erase_all(connection: sqlite3.Connection, tenant_id: int | None, records: Iterable[str], by: Source) -> Erased:
    return _erase(connection, tenant_id, dict.fromkeys(records), by)


def _erase(
    connection: sqlite3.Connection, tenant_id: int | None, rows: Mapping[str, set[int] | None], by: Source
) -> Erased:
    """Erase these rows of each record (`None` is all) that no legal hold keeps."""
    erased, held, namespaces = list[str](), list[str](), set[str]()
    if tenant_id is None:
        return Erased()
    holds = {row[0] for row in connection.execute("SELECT target FROM holds WHERE tenant_id = ?", (tenant_id,))}
    for record, chosen in rows.items():
        kept = [one for one in kept_versions(connection, tenant_id, record) if one.version.status is not Status.ERASED]
        spaces = {one.version.namespace for one in kept}
        if record in holds or any(f"{space}/" in holds for space in spaces):
            held.append(record)
        elif kept:
            _wipe(connection, tenant_id, [one for one in kept if chosen is None or one.row in chosen], by)
            erased.append(record)
            namespaces |= spaces
    if erased:
        connection.execute(_UNUSED, (tenant_id,))
        soil(connection, tenant_id)
    return Erased(tuple(erased), tuple(held), tuple(sorted(namespaces)))


def _wipe(connection: sqlite3.Connection, tenant_id: int, kept: Sequence[Kept], by: Source) -> None:
    gone = {one.row for one in kept}
    texts = {one.text_id for one in kept if one.text_id is not None and not _used(connection, one.text_id, gone)}
    for text_id in texts:
        _drop_text(connection, tenant_id, text_id)
    for one in kept:
        values = {
            "id": one.row,
            "changed_by": json(asdict(by)),
            "class_id": _blank_class(connection, tenant_id, one),
            "text_id": one.text_id if one.text_id in texts else None,  # an index drops its vector by this number
            "position": tick(connection),
        }
        connection.execute(_WIPE, values)
        connection.execute("DELETE FROM subjects WHERE tenant_id = ? AND version_id = ?", (tenant_id, one.row))
        connection.execute("DELETE FROM edges WHERE tenant_id = ? AND version_id = ?", (tenant_id, one.row))


def _used(connection: sqlite3.Connection, text_id: int, gone: set[int]) -> bool:
    rows = connection.execute("SELECT id FROM versions WHERE text_id = ?", (text_id,))
    return any(row[0] not in gone for row in rows)


def _drop_text(connection: sqlite3.Connection, tenant_id: int, text_id: int) -> None:
    (text,) = connection.execute("SELECT text FROM texts WHERE id = ?", (text_id,)).fetchone()
    table = words_table(tenant_id)
    forget = f"INSERT INTO {table}({table}, rowid, text) VALUES ('delete', ?, ?)"  # noqa: S608  # a number
    connection.execute(forget, (text_id, text))
    connection.execute("DELETE FROM vectors WHERE text_id = ?", (text_id,))
    connection.execute("DELETE FROM texts WHERE id = ?", (text_id,))


def _blank_class(connection: sqlite3.Connection, tenant_id: int, one: Kept) -> int:
    """A class that says no more than scope and kind: owners and labels name people."""
    (shard_id,) = connection.execute("SELECT shard_id FROM versions WHERE id = ?", (one.row,)).fetchone()
    values = (tenant_id, shard_id, one.version.scope, one.version.kind, one.version.residency)
    insert = (
        "INSERT OR IGNORE INTO classes(tenant_id, shard_id, scope, owner, kind, labels, residency)"
        " VALUES (?, ?, ?, '', ?, '[]', ?)"
    )
    connection.execute(insert, values)
    select = (
        "SELECT id FROM classes WHERE tenant_id = ? AND shard_id = ? AND scope = ? AND owner = '' AND kind = ?"
        " AND labels = '[]' AND residency = ?"
    )
    return int(connection.execute(select, values).fetchone()[0])


def _forget_name(connection: sqlite3.Connection, tenant_id: int, subject: str) -> None:
    """Whoever was acted for is nobody, in what others remember and no legal hold keeps as it is."""
    for column in ("on_behalf_of", "author_agent"):
        update = (
            f"UPDATE versions SET {column} = 'erased' WHERE tenant_id = ?1 AND {column} = ?2"  # noqa: S608  # ours
            f" AND record NOT IN ({_HELD})"
        )
        connection.execute(update, (tenant_id, subject))
    select = (
        "SELECT id, changed_by FROM versions WHERE tenant_id = ?1 AND instr(changed_by, ?2)"  # noqa: S608  # ours
        f" AND record NOT IN ({_HELD})"
    )
    for row, changed_by in connection.execute(select, (tenant_id, json(subject))).fetchall():
        values = {name: "erased" if value == subject else value for name, value in orjson.loads(changed_by).items()}
        connection.execute("UPDATE versions SET changed_by = ? WHERE id = ?", (json(values), row))
    soil(connection, tenant_id)
