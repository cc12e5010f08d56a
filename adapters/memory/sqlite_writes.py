"""Changes to the file: every one adds versions, and ends others in recorded time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from adapters.memory.sqlite_file import ENDLESS
from adapters.memory.sqlite_rows import (
    SELECT,
    content_hash,
    json,
    put_text,
    put_vector,
    put_version,
    shard_for,
    split_id,
    tenant_for,
    tenant_number,
    tick,
    version_of,
)
from gateway.errors import InvalidCall, UnknownResource
from gateway.memory.ports import MemoryConflict
from gateway.memory.records import (
    Draft,
    Embedded,
    RolledBack,
    Source,
    SourceMatch,
    Status,
    Version,
)
from gateway.types import Entity

_LIVE: Final = (Status.ACTIVE, Status.QUARANTINED)
_TAKEN: Final = (
    "SELECT 1 FROM versions v JOIN classes c ON c.id = v.class_id JOIN shards s ON s.id = v.shard_id"
    " WHERE v.tenant_id = ? AND s.namespace = ? AND v.key = ? AND c.scope = ? AND c.owner = ? AND v.record <> ?"
    " AND v.superseded_at = ? AND v.status IN (?, ?)"
)
_DERIVED: Final = (
    "WITH RECURSIVE d(record) AS (SELECT value FROM json_each(?) UNION SELECT v.record FROM d"
    " JOIN edges e ON e.tenant_id = ? AND e.parent = d.record JOIN versions v ON v.id = e.version_id)"
    " SELECT record FROM d"
)
_TEXTLESS: Final = (
    "SELECT t.id, t.text FROM texts t LEFT JOIN vectors x ON x.text_id = t.id AND x.model = ?"
    " WHERE t.tenant_id = ? AND x.text_id IS NULL AND t.id > ? ORDER BY t.id LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A version with the numbers that the file has for it."""

    row: int
    text_id: int | None
    version: Version


def moment(connection: sqlite3.Connection, now_ms: int) -> int:
    """When it is, as recorded time: it never goes back, whatever the clock does."""
    update = "UPDATE meta SET value = max(value, ?) WHERE name = 'last_ms' RETURNING value"
    return int(connection.execute(update, (now_ms,)).fetchone()[0])


def _next_moment(connection: sqlite3.Connection, kept: Sequence[Kept], now_ms: int) -> int:
    """The same for a change of a record: later than its last one, so that every state of it can be asked for."""
    return moment(connection, max(now_ms, 1 + max(one.version.recorded_at_ms for one in kept)))


def _start(kept: Kept) -> int:
    return kept.version.valid_from_ms


def _is_current(kept: Kept) -> bool:
    return kept.version.superseded_at_ms is None


def _is_said(kept: Kept) -> bool:
    """Whether a record says it now: a gravestone (a part may be swept before the others) says nothing."""
    return _is_current(kept) and kept.version.status is not Status.ERASED


def add(
    connection: sqlite3.Connection, tenant: str, record: str, draft: Draft, embedded: Embedded | None, now_ms: int
) -> Version:
    """`MemoryWriter.add`."""
    tenant_id = tenant_for(connection, tenant)
    _check_key(connection, tenant_id, record, draft)
    version = _drafted(tenant, record, 1, draft, moment(connection, now_ms))
    put_version(connection, version, _put_content(connection, tenant_id, draft, embedded))
    return version


def supersede(  # what is said, of what, by when
    connection: sqlite3.Connection,
    tenant: str,
    record: str,
    draft: Draft,
    embedded: Embedded | None,
    expect: str,
    now_ms: int,
) -> Version:
    """`MemoryWriter.supersede`."""
    kept = _existing(connection, tenant, record, expect)
    last, tenant_id = kept[-1].version, tenant_for(connection, tenant)
    draft = replace(draft, key=draft.key or next(one.version.key for one in reversed(kept) if _is_said(one)))
    _check_key(connection, tenant_id, record, draft)
    now, number = _next_moment(connection, kept, now_ms), last.number + 1
    version = _drafted(tenant, record, number, draft, now)
    replaced = [old.version.id for old in kept if _is_current(old) and _overlap(old.version, version)]
    version = replace(version, supersedes=replaced[-1] if replaced else last.id)
    text_id = _put_content(connection, tenant_id, draft, embedded)
    for old in kept:
        if old.version.superseded_at_ms is None and _overlap(old.version, version):
            _end(connection, old.row, now)
            for rest in _rests(old.version, version, now, draft.source):
                number += 1
                put_version(connection, replace(rest, number=number, id=f"{record}@{number}"), old.text_id)
    put_version(connection, version, text_id)
    return version


def _drafted(tenant: str, record: str, number: int, draft: Draft, now: int) -> Version:
    start = now if draft.valid_from_ms is None else draft.valid_from_ms
    if draft.valid_to_ms is not None and draft.valid_to_ms <= start:
        raise InvalidCall("valid_to: must be after valid_from")
    if draft.status not in _LIVE:
        raise InvalidCall(f"status: a text is written as active or quarantined, not as {draft.status}")
    return Version(
        id=f"{record}@{number}",
        record=record,
        number=number,
        tenant=tenant,
        namespace=draft.namespace,
        key=draft.key or record,
        text=draft.text,
        content_hash=content_hash(draft.text),
        scope=draft.scope,
        owner=draft.owner,
        kind=draft.kind,
        labels=tuple(sorted(set(draft.labels))),
        residency=draft.residency,
        source=draft.source,
        changed_by=draft.source,
        status=draft.status,
        trust=draft.trust,
        valid_from_ms=start,
        valid_to_ms=draft.valid_to_ms,
        recorded_at_ms=now,
        superseded_at_ms=None,
        derived_from=draft.derived_from,
        subjects=tuple(sorted(set(draft.subjects))),
        retain_until_ms=draft.retain_until_ms,
        signature=draft.signature,
        note=draft.note,
    )


def _check_key(connection: sqlite3.Connection, tenant_id: int, record: str, one: Draft | Version) -> None:
    values = (tenant_id, one.namespace, one.key, one.scope, one.owner, record, ENDLESS, *_LIVE)
    if one.key and connection.execute(_TAKEN, values).fetchone() is not None:
        raise MemoryConflict("there is a record of that key: revise it, or take another key")


def _put_content(connection: sqlite3.Connection, tenant_id: int, draft: Draft, embedded: Embedded | None) -> int:
    shard_id = shard_for(connection, tenant_id, draft.namespace)
    text_id = put_text(connection, tenant_id, shard_id, draft.text)
    if embedded is not None:
        put_vector(connection, text_id, shard_id, embedded)
    return text_id


def kept_versions(connection: sqlite3.Connection, tenant_id: int | None, record: str) -> list[Kept]:
    """All versions of a record, in the order of recording."""
    where = " WHERE v.tenant_id = ? AND v.record = ? ORDER BY v.number"
    rows = connection.execute(SELECT + where, (tenant_id, record))
    return [Kept(row["id"], row["text_id"], version_of(row)) for row in rows]


def _existing(connection: sqlite3.Connection, tenant: str, record: str, expect: str) -> list[Kept]:
    kept = kept_versions(connection, tenant_number(connection, tenant), record)
    current = [one.version for one in kept if _is_said(one)]
    if not current:
        raise UnknownResource("there is no such record")
    if expect and expect not in {version.id for version in current}:
        raise MemoryConflict("the record has changed since: read it again")
    return kept


def _overlap(old: Version, new: Version) -> bool:
    starts = new.valid_to_ms is None or old.valid_from_ms < new.valid_to_ms
    return starts and (old.valid_to_ms is None or new.valid_from_ms < old.valid_to_ms)


def _rests(old: Version, new: Version, now: int, by: Source) -> Iterable[Version]:
    """What an old version still says, before and after the valid time of the new one."""
    carried = replace(old, recorded_at_ms=now, superseded_at_ms=None, changed_by=by, supersedes=old.id)
    if old.valid_from_ms < new.valid_from_ms:
        yield replace(carried, valid_to_ms=new.valid_from_ms)
    if new.valid_to_ms is not None and (old.valid_to_ms is None or new.valid_to_ms < old.valid_to_ms):
        yield replace(carried, valid_from_ms=new.valid_to_ms)


def _end(connection: sqlite3.Connection, row: int, now: int) -> None:
    update = "UPDATE versions SET superseded_at = ?, position = ? WHERE id = ?"
    connection.execute(update, (now, tick(connection), row))


def set_status(  # which, to what, by whom and why
    connection: sqlite3.Connection,
    tenant: str,
    record: str,
    status: Status,
    by: Source,
    note: str,
    expect: str,
    now_ms: int,
) -> Version:
    """`MemoryWriter.set_status`."""
    if status is Status.ERASED:
        raise InvalidCall("status: erasing is an operation of its own")
    kept = _existing(connection, tenant, record, expect)
    if status in _LIVE:  # what was retracted gave its key away
        for one in [one.version for one in kept if _is_said(one) and one.version.status not in _LIVE]:
            _check_key(connection, tenant_for(connection, tenant), record, one)
    return _all_to(connection, kept, status, by, note, now_ms)[-1]


def _all_to(
    connection: sqlite3.Connection, kept: Sequence[Kept], status: Status, by: Source, note: str, now_ms: int
) -> list[Version]:
    """Everything that a record says now gets a status."""
    said = sorted(filter(_is_said, kept), key=_start)
    restated = [(one.text_id, replace(one.version, status=status, note=note)) for one in said]
    return _restate(connection, kept, restated, by, now_ms)


def _restate(
    connection: sqlite3.Connection,
    kept: Sequence[Kept],
    said: Iterable[tuple[int | None, Version]],
    by: Source,
    now_ms: int,
) -> list[Version]:
    """From now on a record says this, and nothing else."""
    now = _next_moment(connection, kept, now_ms)
    for old in kept:
        if old.version.superseded_at_ms is None:
            _end(connection, old.row, now)
    number, stated = kept[-1].version.number, []
    for text_id, version in said:
        number += 1
        again = replace(version, number=number, id=f"{version.record}@{number}", supersedes=version.id, changed_by=by)
        stated.append(replace(again, recorded_at_ms=now, superseded_at_ms=None))
        put_version(connection, stated[-1], text_id)
    return stated


def rollback(
    connection: sqlite3.Connection, tenant: str, match: SourceMatch, since_ms: int, by: Source, now_ms: int
) -> RolledBack:
    """`MemoryWriter.rollback`."""
    tenant_id = tenant_number(connection, tenant)
    bad = _bad_records(connection, tenant_id, match, since_ms)
    outcome = dict[str, bool]()
    for record in bad:
        kept = kept_versions(connection, tenant_id, record)
        if any(_is_bad(one.version, match, since_ms) for one in kept if one.version.superseded_at_ms is None):
            outcome[record] = _undo(connection, kept, match, since_ms, by, now_ms)
    spoiled = [record for record in derived(connection, tenant_id, bad) if record not in bad]
    quarantined = [one for one in spoiled if _quarantine(connection, tenant_id, one, by, now_ms)]
    return RolledBack(
        tuple(record for record, restored in outcome.items() if restored),
        tuple(record for record, restored in outcome.items() if not restored),
        tuple(quarantined),
    )


def _bad_records(
    connection: sqlite3.Connection, tenant_id: int | None, match: SourceMatch, since_ms: int
) -> Sequence[str]:
    wanted = match.wanted
    if not wanted:
        raise InvalidCall("a rollback needs to know whose writes are meant")
    agree = "".join(f" AND {name} = ?" for name in wanted)  # names of fields of ours
    statement = f"SELECT DISTINCT record FROM versions WHERE tenant_id = ? AND recorded_at >= ?{agree}"  # noqa: S608
    return [row[0] for row in connection.execute(statement, [tenant_id, since_ms, *wanted.values()])]


def _is_bad(version: Version, match: SourceMatch, since_ms: int) -> bool:
    return version.recorded_at_ms >= since_ms and match.matches(version.source) and version.status in _LIVE


def _undo(  # of what, what is undone, by whom
    connection: sqlite3.Connection, kept: Sequence[Kept], match: SourceMatch, since_ms: int, by: Source, now_ms: int
) -> bool:
    """Have a record say what it last said without those writes; whether there was anything."""
    states = (said for said in _states(kept) if not any(_is_bad(one.version, match, since_ms) for one in said))
    good = sorted((one for one in next(states, []) if one.version.status is not Status.ERASED), key=_start)
    if good:
        note = "restored by a rollback"
        _restate(connection, kept, [(one.text_id, replace(one.version, note=note)) for one in good], by, now_ms)
        return True
    _all_to(connection, kept, Status.RETRACTED, by, "retracted by a rollback", now_ms)
    return False


def _states(kept: Sequence[Kept]) -> Iterable[list[Kept]]:
    """What a record said, latest first."""
    for change in sorted({one.version.recorded_at_ms for one in kept}, reverse=True):
        said = [one for one in kept if one.version.recorded_at_ms <= change and _after(one.version, change)]
        if said:
            yield said


def _after(version: Version, change: int) -> bool:
    return version.superseded_at_ms is None or version.superseded_at_ms > change


def _quarantine(connection: sqlite3.Connection, tenant_id: int | None, record: str, by: Source, now_ms: int) -> bool:
    kept = kept_versions(connection, tenant_id, record)
    if not any(one.version.superseded_at_ms is None and one.version.status is Status.ACTIVE for one in kept):
        return False
    _all_to(connection, kept, Status.QUARANTINED, by, "derived from what was rolled back", now_ms)
    return True


def derived(connection: sqlite3.Connection, tenant_id: int | None, records: Sequence[str]) -> Sequence[str]:
    """These records, and all that was derived from them or from those."""
    return [row[0] for row in connection.execute(_DERIVED, (json(list(records)), tenant_id))]


def load(connection: sqlite3.Connection, tenant: str, versions: Sequence[Version]) -> int:
    """`MemoryWriter.load`."""
    tenant_id, new = tenant_for(connection, tenant), 0
    for version in versions:
        _check_loaded(tenant, version)
        known = {one.version.number: one for one in kept_versions(connection, tenant_id, version.record)}
        same = known.get(version.number)
        if same is None:
            _check_free(connection, tenant_id, version)
            put_version(connection, version, _text_for(connection, tenant_id, version, known))
            moment(connection, max(version.recorded_at_ms, version.superseded_at_ms or 0))
            new += 1
        elif same.version != version:
            raise MemoryConflict(f"{version.id}: is here with other contents")
    return new


def _check_free(connection: sqlite3.Connection, tenant_id: int, version: Version) -> None:
    owned = (tenant_id, version.namespace, version.key, version.scope, version.owner, version.record)
    current = version.superseded_at_ms is None and version.status in _LIVE
    if current and connection.execute(_TAKEN, (*owned, ENDLESS, *_LIVE)).fetchone() is not None:
        raise MemoryConflict(f"{version.id}: another record has its key")


def _check_loaded(tenant: str, version: Version) -> None:
    erased = version.status is Status.ERASED
    name_fits = split_id(version.id) == (version.record, version.number)
    if version.tenant != tenant or not name_fits:
        raise InvalidCall(f"{version.id}: its id or its tenant is not that of the import")
    if version.content_hash != ("" if erased else content_hash(version.text)):
        raise InvalidCall(f"{version.id}: its text is not the one that its hash is of")


def _text_for(
    connection: sqlite3.Connection, tenant_id: int, version: Version, known: Mapping[int, Kept]
) -> int | None:
    """Its text, which an earlier version of the record may have as well."""
    if version.status is Status.ERASED:
        return None
    carried = [one for one in known.values() if one.version.id == version.supersedes]
    if carried and (carried[0].version.text, carried[0].version.namespace) == (version.text, version.namespace):
        return carried[0].text_id
    return put_text(connection, tenant_id, shard_for(connection, tenant_id, version.namespace), version.text)


def without_vector(
    connection: sqlite3.Connection, tenant: str, model: str, limit: int, after: int
) -> Sequence[tuple[int, str]]:
    """`MemoryUpkeep.without_vector`."""
    values = (model, tenant_number(connection, tenant), after, limit)
    return [(row[0], row[1]) for row in connection.execute(_TEXTLESS, values)]


def put_vectors(connection: sqlite3.Connection, tenant: str, model: str, vectors: Mapping[int, bytes]) -> None:
    """`MemoryUpkeep.put_vectors`."""
    tenant_id = tenant_number(connection, tenant)
    for text_id, vector in vectors.items():
        select = "SELECT shard_id FROM texts WHERE id = ? AND tenant_id = ?"
        row = connection.execute(select, (text_id, tenant_id)).fetchone()
        if row is not None:
            put_vector(connection, text_id, row[0], Embedded(model, vector))


def set_hold(  # on what, by whom and why
    connection: sqlite3.Connection, tenant: str, target: str, by: Entity, reason: str, now_ms: int
) -> None:
    """`MemoryWriter.set_hold`."""
    values = (tenant_for(connection, tenant), target, by.type, by.id, reason, moment(connection, now_ms))
    connection.execute("INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?, ?)", values)


def lift_hold(connection: sqlite3.Connection, tenant: str, target: str) -> bool:
    """`MemoryWriter.lift_hold`."""
    values = (tenant_number(connection, tenant), target)
    return connection.execute("DELETE FROM holds WHERE tenant_id = ? AND target = ?", values).rowcount > 0
