"""Records as JSON for callers, and moments as ISO 8601."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.errors import InvalidCall
from gateway.memory.records import Source, Status, Version

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
FIRST_MS: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MS
LAST_MS: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MS
"""What is before or after cannot be written as a date, so it would be in the way of every answer with the record."""


def moment_ms(text: str, name: str) -> int | None:
    """A moment as milliseconds since the epoch; `None` for no text. Raises `InvalidCall`."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidCall(f"{name}: is no moment: write it like 2026-11-22T10:00:00Z") from exc
    if moment.tzinfo is None:
        raise InvalidCall(f"{name}: says no time zone: end it with Z or +01:00")
    ms = (moment - _EPOCH) // _MS
    if not FIRST_MS <= ms <= LAST_MS:
        raise InvalidCall(f"{name}: is before the year 1 or after the year 9999 in UTC")
    return ms


def moment_text(ms: int | None) -> str | None:
    """The same as text."""
    return None if ms is None else (_EPOCH + ms * _MS).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shown(version: Version) -> dict[str, object]:
    """A version for whoever may read it."""
    return {
        "id": version.id,
        "record": version.record,
        "namespace": version.namespace,
        "key": version.key,
        "text": version.text,
        "scope": str(version.scope),
        "kind": str(version.kind),
        "status": str(version.status),
        "labels": list(version.labels),
        "trust": round(version.trust, 3),
        "source": source_shown(version.source),
        "valid_from": moment_text(version.valid_from_ms),
        "valid_to": moment_text(version.valid_to_ms),
        "recorded_at": moment_text(version.recorded_at_ms),
    }


def source_shown(source: Source) -> dict[str, object]:
    """Who said it, as far as a reader has to know."""
    return {
        "type": str(source.type),
        "ref": source.ref,
        "agent": source.author_agent,
        "subject": source.on_behalf_of,
        "model": source.model,
    }


def in_full(version: Version) -> dict[str, object]:
    """A version with all of its provenance."""
    source = version.source
    return {
        **shown(version),
        "owner": version.owner,
        "residency": version.residency,
        "subjects": list(version.subjects),
        "derived_from": list(version.derived_from),
        "supersedes": version.supersedes,
        "superseded_at": moment_text(version.superseded_at_ms),
        "note": version.note,
        "content_hash": version.content_hash,
        "call": source.call_id,
        "trace": source.trace_id,
        "arguments": source.args_hash,
        "changed_by": {**source_shown(version.changed_by), "call": version.changed_by.call_id},
        "gone": version.status is Status.ERASED,
    }
