"""The bytes of one log entry: RFC 8785 canonical JSON, so that a record has exactly one hash.

Numbers are integers below 2**53 and there is no float and no null, which is the subset of JSON on which
`orjson` with sorted keys is RFC 8785. Wall-clock nanoseconds are beyond that and are written as decimal strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final

import orjson

from gateway import codec
from gateway.ports import CallRecord
from gateway.types import Entity, Identity

SCHEMA: Final = "interlock.audit/1"
MAX_ENTRY_BYTES: Final = 65_535
"""A C2SP entry bundle has 16-bit lengths (tlog-tiles, "Log entries")."""
MAX_TEXT: Final = 2_048
MAX_ITEMS: Final = 16
PART_TEXT: Final = 6_000
"""Characters of kept arguments per entry: at four bytes of UTF-8 each, or escaped, every entry fits."""
_USUAL_BYTES: Final = 8 * 1024
_SHORT_TEXT: Final = 96
_MAX_INTEGER: Final = 2**53 - 1
_TRACE_ID = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*", re.ASCII | re.DOTALL)

Content = dict[str, object]


def encode(record: CallRecord, seq: int) -> list[bytes]:
    """The entries that one record becomes, the first with sequence number `seq`.

    That is one entry; kept arguments that are too long for it precede it as `part` entries. Never raises: a
    record that cannot be written as it is leaves its call id, outcome and what was wrong with it.
    """
    try:
        return _entries(record, seq)
    except (TypeError, ValueError, AttributeError, RecursionError) as exc:
        return [_remnant(record, seq, type(exc).__name__)]


def marker(event: str, seq: int, time_ns: int, facts: Mapping[str, object]) -> bytes:
    """An entry about the log itself: a new segment, an expired one, a failure that is over."""
    return _bytes({**facts, **_head("marker", seq, time_ns), "event": event})


def _entries(record: CallRecord, seq: int) -> list[bytes]:
    content = _content(record, seq)
    text = codec.canonical(record.call.arguments).decode() if record.keep_arguments else ""
    if text and len(text) <= PART_TEXT:
        content["arguments"] = text
    if len(text) <= PART_TEXT and (data := _if_usual(content)):
        return [data]
    return _in_parts(record, content, text)


def _if_usual(content: Content) -> bytes:
    """The bytes of an entry that needs no cutting, as nearly all do; empty for any other."""
    try:
        data = _bytes(content)
    except TypeError:  # text that is not valid Unicode, or an integer beyond 64 bits
        return b""
    return data if len(data) <= _USUAL_BYTES else b""


def _in_parts(record: CallRecord, content: Content, text: str) -> list[bytes]:
    """The slow way, for what is large or odd: arguments in entries of their own, and every text within bounds."""
    content.pop("arguments", None)
    content = _cut_object(content)
    seq, parts = content["seq"], [text[start : start + PART_TEXT] for start in range(0, len(text), PART_TEXT)]
    assert isinstance(seq, int)
    if parts:
        content["arguments_parts"] = len(parts)
    content["seq"] = seq + len(parts)
    entries = [_bytes(_part(record, seq + i, i + 1, len(parts), part)) for i, part in enumerate(parts)]
    data = _bytes(content)
    return [*entries, data if len(data) <= MAX_ENTRY_BYTES else _bytes(_cut_object(content, _SHORT_TEXT))]


def _part(record: CallRecord, seq: int, number: int, count: int, text: str) -> Content:
    head = _head("part", seq, record.ended_ns)
    return {**head, "call": {"id": _cut_text(record.call.id)}, "part": number, "parts": count, "arguments": text}


def _head(kind: str, seq: int, time_ns: int) -> Content:
    return {"schema": SCHEMA, "kind": kind, "seq": seq, "time_ns": str(time_ns)}


def _content(record: CallRecord, seq: int) -> Content:
    call = record.call
    resource = call.resource
    content: Content = {
        "schema": SCHEMA,
        "kind": "intent" if record.outcome == "intent" else "call",
        "seq": seq,
        "time_ns": str(record.ended_ns),
        "call": {
            "id": call.id,
            "parent": call.parent_id,
            "action": call.action,
            "method": call.method,
            "protocol": call.protocol,
            "protocol_version": call.protocol_version,
            "session": _digest(call.session_id),
            "arguments_digest": call.arguments_digest,
        },
        "resource": {"type": resource.type, "id": resource.id, "upstream": resource.upstream},
        "decision": _decision(record),
        "outcome": record.outcome,
        "error": record.error,
        "result_bytes": record.result_bytes,
        "timings_ns": _timings(record),
        "trace_id": _trace_id(call.traceparent),
    }
    if record.identity is not None:
        content["identity"] = _identity(record.identity)
    if record.notes:
        content |= _notes(record.notes)
    return content


def _notes(notes: Mapping[str, object]) -> Content:
    """What is odd about a note costs the record its notes, and nothing else of it."""
    try:
        return {"notes": codec.canonical(notes).decode()}
    except (TypeError, ValueError, RecursionError) as exc:
        return {"fault": f"notes: {type(exc).__name__}"}


def _identity(identity: Identity) -> Content:
    content: Content = {
        "subject": _entity(identity.subject),
        "tenant": identity.tenant,
        "method": identity.method,
        "issuer": identity.issuer,
        "credential": identity.credential_id,
        "delegation": identity.delegation,
    }
    if identity.on_behalf_of is not None:
        content["on_behalf_of"] = _entity(identity.on_behalf_of)
    return content


def _entity(entity: Entity) -> Content:
    return {"type": entity.type, "id": entity.id}


def _decision(record: CallRecord) -> Content:
    return {
        "id": record.decision_id,
        "revision": record.revision,
        "engine": record.engine,
        "cached": record.cached,
        "reasons": record.reasons,
        "obligations": record.obligations,
        "labels": record.labels,
    }


def _timings(record: CallRecord) -> Content:
    return {
        "identify": record.identify_ns,
        "decide": record.decide_ns,
        "execute": record.execute_ns,
        "inspect": record.inspect_ns,
        "total": record.total_ns,
    }


def _trace_id(traceparent: str) -> str:
    match = _TRACE_ID.fullmatch(traceparent) if traceparent else None
    return match[1] if match else ""


def _digest(secret: str) -> str:
    """A session id can be a bearer of rights, so only its hash is kept."""
    return "sha256:" + sha256(secret.encode("utf-8", "backslashreplace")).hexdigest() if secret else ""


def _cut_object(content: Mapping[str, object], limit: int = MAX_TEXT) -> Content:
    """The same with every text cut at `limit` characters and every list at 16 items: it fits, whatever was sent."""
    return {key: _cut(value, limit) for key, value in content.items()}


def _cut(value: object, limit: int) -> object:
    match value:
        case str():
            return _cut_text(value, limit)
        case bool():
            return value
        case int():
            return min(max(value, -_MAX_INTEGER), _MAX_INTEGER)
        case tuple() | list():
            return _cut_list(value, limit)
        case dict():
            return _cut_object(value, limit)
        case _:
            raise TypeError(f"{type(value).__name__} in a record")


def _cut_list(values: Sequence[object], limit: int) -> list[object]:
    kept = [_cut(value, limit) for value in values[:MAX_ITEMS]]
    return [*kept, f"({len(values) - MAX_ITEMS} more)"] if len(values) > MAX_ITEMS else kept


def _cut_text(text: str, limit: int = MAX_TEXT) -> str:
    """Valid Unicode of at most `limit` characters; a longer text ends in the hash of the whole."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else f"{text[: limit - 80]}...{_digest(text)}"


def _remnant(record: CallRecord, seq: int, fault: str) -> bytes:
    call = {"id": _cut_text(str(record.call.id)), "action": _cut_text(str(record.call.action))}
    outcome = _cut_text(str(record.outcome))
    return _bytes({**_head("call", seq, 0), "call": call, "outcome": outcome, "fault": fault})


def _bytes(content: Content) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER)
