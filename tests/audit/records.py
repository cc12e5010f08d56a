"""Records, clocks and logs for the audit tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from gateway.audit.log import AuditLog, LogLimits
from gateway.audit.segment import segment_paths
from gateway.ports import CallRecord
from gateway.types import Call, Entity, FrozenDict, Identity, Resource, freeze

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
START = 1_795_000_000 * SECOND
SMALL_SEGMENTS = LogLimits(segment_bytes=1)
"""A new segment at each 256 entries."""


class Clock:
    """Time that moves when a test says so."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def a_call(number: int = 1, arguments: Mapping[str, object] | None = None) -> Call:
    return Call(
        id=f"call-{number}",
        action="mcp.tools.call",
        method="tools/call",
        resource=Resource("tool", "warehouse/query", upstream="warehouse", name="query"),
        params=FrozenDict({"name": "query", "arguments": freeze(arguments or {"sql": "SELECT 1"})}),
        protocol_version="2026-07-28",
        session_id="session-secret",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


def an_identity() -> Identity:
    return Identity(
        subject=Entity("agent", "agent:report-bot"),
        tenant="acme",
        on_behalf_of=Entity("user", "user:ana"),
        delegation=("user:ana", "agent:planner", "agent:report-bot"),
        method="jwt",
        issuer="https://issuer.example",
        credential_id="kid-1",
    )


def a_record(number: int = 1, /, **changes: object) -> CallRecord:
    record = CallRecord(
        call=a_call(number),
        identity=an_identity(),
        outcome="ok",
        decision_id=f"decision-{number}",
        revision="r7",
        engine="embedded",
        reasons=("rules.data.sql_only",),
        obligations=("redact",),
        labels=("pii",),
        result_bytes=42,
        ended_ns=START + number,
        decide_ns=2_000,
        execute_ns=3_000,
        total_ns=6_000_000,
    )
    return replace(record, **changes)  # type: ignore[arg-type]  # each test names fields that exist


def records(count: int, first: int = 0) -> list[CallRecord]:
    return [a_record(number) for number in range(first, first + count)]


def write_log(
    data: Path, batches: Sequence[int], *, limits: LogLimits = SMALL_SEGMENTS, clock: Clock | None = None
) -> str:
    """A log with so many records per durable batch; returns its last checkpoint."""
    log = AuditLog.open(data, limits=limits, clock=clock or Clock())
    written = 0
    for batch in batches:
        log.append(records(batch, written), durable=True)
        written += batch
    note = log.last_checkpoint
    log.close()
    return note


@contextmanager
def tampering(data: Path, number: int = 1) -> Iterator[sqlite3.Connection]:
    """Change a segment behind the log's back."""
    path = dict(segment_paths(data / "audit"))[number]
    with closing(sqlite3.connect(path)) as db, db:
        yield db
