"""Records that tests of telemetry start from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway.ports import CallRecord
from gateway.types import Call, Entity, FrozenDict, Identity, Resource

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
ENDED = 1_800_000_000_000_000_000

CALL = Call(
    id="call-1",
    action="mcp.tools.call",
    method="tools/call",
    resource=Resource("tool", "db/query", "db", "query"),
    params=FrozenDict({"name": "query", "arguments": FrozenDict({"sql": "SECRET-ARGUMENT"})}),
    protocol_version="2026-07-28",
    session_id="SECRET-SESSION",
    traceparent=PARENT,
)
RECORD = CallRecord(
    call=CALL,
    identity=Identity(Entity("agent", "agent:report-bot"), tenant="acme", credential_id="SECRET-KEY"),
    outcome="ok",
    decision_id="d-1",
    revision="rev-7",
    engine="embedded",
    obligations=("redact",),
    labels=("pii",),
    result_bytes=123,
    ended_ns=ENDED,
    identify_ns=10_000,
    decide_ns=200_000,
    execute_ns=30_000_000,
    inspect_ns=5_000,
    total_ns=31_000_000,
)


def record(call: dict[str, Any] | None = None, **changes: Any) -> CallRecord:
    """The sample record with changes, also to its call."""
    return replace(RECORD, call=replace(CALL, **(call or {})), **changes)
