"""A version as the file has it: rows become versions, versions become rows."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Final, cast

import orjson

from adapters.memory.sqlite_file import ENDLESS, add_words_table, words_table
from gateway.memory.records import Embedded, Kind, RecordClass, Scope, Source, SourceType, Status, Version

_SOURCE: Final = tuple(field.name for field in fields(Source))
SELECT: Final = (
    "SELECT v.*, t.text, c.scope, c.owner, c.kind, c.labels, c.residency, s.namespace, n.name AS tenant"
    " FROM versions v JOIN classes c ON c.id = v.class_id JOIN shards s ON s.id = v.shard_id"
    " JOIN tenants n ON n.id = v.tenant_id LEFT JOIN texts t ON t.id = v.text_id"
)
"""What `version_of` reads, without a condition. No caller's text is ever part of a statement."""

_COLUMNS: Final = (
    *("tenant_id", "shard_id", "class_id", "record", "number", "key", "text_id", "position", "status", "trust"),
    *("valid_from", "valid_to", "recorded_at", "superseded_at", "retain_until", "content_hash", "supersedes"),
    *("signature", "note", "derived_from", "subjects", "changed_by", *_SOURCE),
)
_INSERT: Final = f"INSERT INTO versions({', '.join(_COLUMNS)}) VALUES ({', '.join(':' + name for name in _COLUMNS)})"  # noqa: S608  # names of ours


def version_of(found: sqlite3.Row) -> Version:
    """A row of `SELECT`."""
    row = dict(zip(found.keys(), found, strict=True))  # a row compares a name with those of all columns
    return Version(
        id=f"{row['record']}@{row['number']}",
        record=row["record"],
        number=row["number"],
        tenant=row["tenant"],
        namespace=row["namespace"],
        key=row["key"],
        text=row["text"] or "",
        content_hash=row["content_hash"],
        scope=Scope(row["scope"]),
        owner=row["owner"],
        kind=Kind(row["kind"]),
        labels=tuple(orjson.loads(row["labels"])),
        residency=row["residency"],
        source=_source({name: row[name] for name in _SOURCE}),
        changed_by=_source(orjson.loads(row["changed_by"])),
        status=Status(row["status"]),
        trust=row["trust"],
        valid_from_ms=row["valid_from"],
        valid_to_ms=end_of(row["valid_to"]),
        recorded_at_ms=row["recorded_at"],
        superseded_at_ms=end_of(row["superseded_at"]),
        supersedes=row["supersedes"],
        derived_from=tuple(orjson.loads(row["derived_from"])),
        subjects=tuple(orjson.loads(row["subjects"])),
        retain_until_ms=end_of(row["retain_until"]),
        signature=row["signature"],
        note=row["note"],
    )


def class_of(row: sqlite3.Row) -> RecordClass:
    """A row of classes with its namespace."""
    labels = tuple(orjson.loads(row["labels"]))
    return RecordClass(row["namespace"], Scope(row["scope"]), Kind(row["kind"]), labels, row["residency"])


def end_of(stored: int) -> int | None:
    """An end as versions have it."""
    return None if stored == ENDLESS else stored


def stored_end(end: int | None) -> int:
    """An end as the file has it."""
    return ENDLESS if end is None else end


def _source(values: Mapping[str, object]) -> Source:
    words = {name: cast("str", value) for name, value in values.items() if name != "type"}
    return Source(SourceType(str(values["type"])), **words)


def split_id(name: str) -> tuple[str, int | None]:
    """A record's id, and the number of a version where one is named."""
    record, at, number = name.rpartition("@")
    return (record, int(number)) if at and number.isdecimal() and len(number) < 10 else (name, None)


def content_hash(text: str) -> str:
    """What `Version.content_hash` says of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def tick(connection: sqlite3.Connection) -> int:
    """The next position of the feed."""
    update = "UPDATE meta SET value = value + 1 WHERE name = 'position' RETURNING value"
    return int(connection.execute(update).fetchone()[0])


def tenant_number(connection: sqlite3.Connection, tenant: str) -> int | None:
    """The number of a tenant that has something here."""
    row = connection.execute("SELECT id FROM tenants WHERE name = ?", (tenant,)).fetchone()
    return None if row is None else int(row[0])


def tenant_for(connection: sqlite3.Connection, tenant: str) -> int:
    """The same for one that will have something here."""
    number = tenant_number(connection, tenant)
    if number is None:
        number = connection.execute("INSERT INTO tenants(name) VALUES (?)", (tenant,)).lastrowid or 0
        add_words_table(connection, number)
    return number


def put_text(connection: sqlite3.Connection, tenant_id: int, shard_id: int, text: str) -> int:
    """Keep a text with its words."""
    insert = "INSERT INTO texts(tenant_id, shard_id, text) VALUES (?, ?, ?)"
    number = connection.execute(insert, (tenant_id, shard_id, text)).lastrowid or 0
    table = words_table(tenant_id)
    connection.execute(f"INSERT INTO {table}(rowid, text) VALUES (?, ?)", (number, text))  # noqa: S608  # a number
    return number


def put_vector(connection: sqlite3.Connection, text_id: int, shard_id: int, embedded: Embedded) -> None:
    """Keep the vector of a text, in place of one that another embedder made."""
    values = (text_id, shard_id, tick(connection), embedded.model, embedded.vector)
    connection.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?)", values)


def put_version(connection: sqlite3.Connection, version: Version, text_id: int | None) -> int:
    """Keep a version. Its text is kept already, unless it was erased."""
    tenant_id = tenant_for(connection, version.tenant)
    shard_id = shard_for(connection, tenant_id, version.namespace)
    values = {
        **asdict(version.source),
        "tenant_id": tenant_id,
        "shard_id": shard_id,
        "class_id": _class_for(connection, tenant_id, shard_id, version),
        "text_id": text_id,
        "position": tick(connection),
        "valid_from": version.valid_from_ms,
        "valid_to": stored_end(version.valid_to_ms),
        "recorded_at": version.recorded_at_ms,
        "superseded_at": stored_end(version.superseded_at_ms),
        "retain_until": stored_end(version.retain_until_ms),
        "changed_by": json(asdict(version.changed_by)),
        "derived_from": json(version.derived_from),
        "subjects": json(version.subjects),
    }
    plain = ("record", "number", "key", "status", "trust", "content_hash", "supersedes", "signature", "note")
    row = connection.execute(_INSERT, values | {name: getattr(version, name) for name in plain}).lastrowid or 0
    _put_links(connection, tenant_id, row, version)
    return row


def shard_for(connection: sqlite3.Connection, tenant_id: int, namespace: str) -> int:
    """The number of a tenant's namespace, made at first use."""
    connection.execute("INSERT OR IGNORE INTO shards(tenant_id, namespace) VALUES (?, ?)", (tenant_id, namespace))
    select = "SELECT id FROM shards WHERE tenant_id = ? AND namespace = ?"
    return int(connection.execute(select, (tenant_id, namespace)).fetchone()[0])


def _class_for(connection: sqlite3.Connection, tenant_id: int, shard_id: int, version: Version) -> int:
    values = (tenant_id, shard_id, version.scope, version.owner, version.kind, json(version.labels), version.residency)
    insert = (
        "INSERT OR IGNORE INTO classes(tenant_id, shard_id, scope, owner, kind, labels, residency)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
    )
    connection.execute(insert, values)
    select = (
        "SELECT id FROM classes WHERE tenant_id = ? AND shard_id = ? AND scope = ? AND owner = ? AND kind = ?"
        " AND labels = ? AND residency = ?"
    )
    return int(connection.execute(select, values).fetchone()[0])


def _put_links(connection: sqlite3.Connection, tenant_id: int, row: int, version: Version) -> None:
    subjects = [(tenant_id, subject, row) for subject in set(version.subjects)]
    connection.executemany("INSERT INTO subjects VALUES (?, ?, ?)", subjects)
    parents = {(record, number or 0) for record, number in map(split_id, version.derived_from)}
    edges = [(tenant_id, record, number, row) for record, number in parents]
    connection.executemany("INSERT INTO edges VALUES (?, ?, ?, ?)", edges)


def json(value: object) -> str:
    """A value as the file has it."""
    return orjson.dumps(value).decode()
