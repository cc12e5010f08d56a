"""The spans of one call, made from its record when it is over.

A call has up to three: `tools/call NAME` (SERVER) for the whole, `interlock.policy` (INTERNAL) for the decision, and
`tools/call NAME` again (CLIENT) for the upstream leg, whose id the upstream saw as its parent. Attributes hold no
arguments, no results and no tokens; a session id is the hash of one, because it can be used like a token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from gateway.ports import CallRecord
from gateway.telemetry import names
from gateway.telemetry.context import TraceContext, parse, start
from gateway.telemetry.facts import CALLBACKS, error_type, prompt_name, rpc_code, tool_name, verdict_of, was_forwarded
from gateway.types import Call

SpanKind: TypeAlias = Literal["server", "client", "internal"]
Value: TypeAlias = "str | bool | int | tuple[str, ...]"

_MAX_TEXT: Final = 256


@dataclass(frozen=True, slots=True)
class SpanData:
    """One finished span as plain values. Times are nanoseconds since the epoch."""

    name: str
    kind: SpanKind
    trace_id: str
    span_id: str
    parent_span_id: str
    """Empty: the root of its trace."""
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value]
    error: bool = False
    links: tuple[tuple[str, str], ...] = ()
    trace_state: str = ""
    sampled: bool = True


@dataclass(frozen=True, slots=True)
class Leg:
    """How an upstream is reached: `tcp` with its address, or `pipe`."""

    transport: Literal["tcp", "pipe"] = "tcp"
    address: str = ""
    port: int = 0


LegOf: TypeAlias = Callable[[str], Leg]


@dataclass(frozen=True, slots=True)
class _Part:
    """A span before it has a place in the trace."""

    name: str
    kind: SpanKind
    attributes: dict[str, Value] = field(default_factory=dict)
    error: bool = False


def spans_of(record: CallRecord, leg_of: LegOf) -> list[SpanData]:
    """The spans of a record, parents first; none for an `intent`, whose call is still running."""
    context = _context(record.call)
    if context is None or record.outcome == "intent":
        return []
    begun = record.ended_ns - record.total_ns
    decided = begun + record.identify_ns
    spans = [_place(_call_span(record), context, context.call_span_id, begun, record.total_ns)]
    if verdict_of(record):
        spans.append(_place(_policy_span(record), context, context.policy_span_id, decided, record.decide_ns))
    if was_forwarded(record) and record.call.action not in CALLBACKS:
        executed = decided + record.decide_ns
        spans.append(_place(_leg_span(record, leg_of), context, context.span_id, executed, record.execute_ns))
    return spans


def _context(call: Call) -> TraceContext | None:
    """Where the call stands. One that another call caused came without a position of its own: it is below that one."""
    context = parse(call.traceparent, call.tracestate)
    if context is None or not call.parent_id:
        return context
    return start(context._replace(span_id=context.call_span_id))


def _place(part: _Part, context: TraceContext, span_id: str, begun_ns: int, took_ns: int) -> SpanData:
    is_call = span_id == context.call_span_id
    return SpanData(
        name=part.name,
        kind=part.kind,
        trace_id=context.trace_id,
        span_id=span_id,
        parent_span_id=context.parent_span_id if is_call else context.call_span_id,
        start_ns=begun_ns,
        end_ns=begun_ns + took_ns,
        attributes={key: value for key, value in part.attributes.items() if value not in ("", ())},
        error=part.error,
        links=(context.link,) if is_call and context.link is not None else (),
        trace_state=context.others_state,
        sampled=context.sampled,
    )


def _call_span(record: CallRecord) -> _Part:
    call = record.call
    kind: SpanKind = "server"
    if call.parent_id:
        kind = "client" if call.action in CALLBACKS else "internal"
    attributes = {
        **_operation(record),
        names.NETWORK_TRANSPORT: "tcp",
        names.NETWORK_PROTOCOL_NAME: "http",
        names.CALL_ID: call.id,
        names.CALL_PARENT_ID: call.parent_id,
        names.ACTION: call.action,
        names.OUTCOME: record.outcome,
        names.POLICY_DECISION_ID: record.decision_id,
        names.RESULT_LABELS: record.labels,
        **_who(record),
        **_box(record),
        **_budget(record),
        **_route(record),
    }
    return _Part(_name(call), kind, attributes, bool(error_type(record)))


def _policy_span(record: CallRecord) -> _Part:
    attributes: dict[str, Value] = {
        names.POLICY_VERDICT: verdict_of(record),
        names.POLICY_DECISION_ID: record.decision_id,
        names.POLICY_REVISION: record.revision,
        names.POLICY_ENGINE: record.engine,
        names.POLICY_CACHED: record.cached,
        names.POLICY_REASONS: record.reasons,
        names.POLICY_OBLIGATIONS: record.obligations,
    }
    unanswered = record.error == "pdp_unavailable"
    if unanswered:
        attributes[names.ERROR_TYPE] = record.error
    return _Part(names.POLICY_SPAN, "internal", attributes, unanswered)


def _leg_span(record: CallRecord, leg_of: LegOf) -> _Part:
    leg = leg_of(record.call.resource.upstream)
    attributes = {**_operation(record), names.NETWORK_TRANSPORT: leg.transport, names.SERVER_ADDRESS: leg.address}
    if leg.transport == "tcp":
        attributes[names.NETWORK_PROTOCOL_NAME] = "http"
    if leg.port:
        attributes[names.SERVER_PORT] = leg.port
    if record.outcome == "denied":  # the upstream did its part; policy refused what came back
        attributes.pop(names.ERROR_TYPE, None)
        attributes.pop(names.RPC_RESPONSE_STATUS_CODE, None)
    return _Part(_name(record.call), "client", attributes, names.ERROR_TYPE in attributes)


def _name(call: Call) -> str:
    target = tool_name(call) or prompt_name(call)
    return f"{call.method} {target}" if target else call.method


def _operation(record: CallRecord) -> dict[str, Value]:
    call = record.call
    attributes: dict[str, Value] = {
        names.MCP_METHOD_NAME: call.method,
        names.MCP_PROTOCOL_VERSION: call.protocol_version,
        names.MCP_SESSION_ID: _hash(call.session_id),
        names.MCP_RESOURCE_URI: _plain_uri(call.resource.name) if call.resource.type == "mcp_resource" else "",
        names.GEN_AI_TOOL_NAME: tool_name(call),
        names.GEN_AI_PROMPT_NAME: prompt_name(call),
        names.GEN_AI_OPERATION_NAME: "execute_tool" if call.method == "tools/call" else "",
        names.UPSTREAM: call.resource.upstream if call.resource.known else "",
        names.RPC_RESPONSE_STATUS_CODE: rpc_code(record),
    }
    error = error_type(record)
    if error:
        attributes[names.ERROR_TYPE] = error
    return {key: value for key, value in attributes.items() if value != ""}


def _who(record: CallRecord) -> dict[str, Value]:
    identity = record.identity
    if identity is None:
        return {}
    agent = identity.subject.id if identity.subject.type == "agent" else ""
    return {names.TENANT: identity.tenant[:_MAX_TEXT], names.GEN_AI_AGENT_ID: agent[:_MAX_TEXT]}


def _box(record: CallRecord) -> dict[str, Value]:
    """The sandbox that the call ran in, as its record notes it."""
    box = record.notes.get("sandbox") if record.notes else None
    if not isinstance(box, Mapping):
        return {}
    facts = {names.SANDBOX_DRIVER: box.get("driver"), names.SANDBOX_LEVEL: box.get("level")}
    return {key: value[:_MAX_TEXT] for key, value in facts.items() if isinstance(value, str)}


def _budget(record: CallRecord) -> dict[str, Value]:
    """The budgets of the call that are near their limits, as its record notes them."""
    told = record.notes.get("budget") if record.notes else None
    warnings = told.get("warnings", ()) if isinstance(told, Mapping) else ()
    near = [each for each in warnings if isinstance(each, Mapping)]
    words = [f"{each.get('scope')}:{each.get('name')}:{round(100 * each.get('used', 0))}" for each in near]
    return {names.BUDGET_WARNINGS: tuple(words)} if words else {}


def _route(record: CallRecord) -> dict[str, Value]:
    """Which model a route led to and why, as its record notes it; whether the answer was one that there was."""
    notes = record.notes or {}
    route, cache = notes.get("route"), notes.get("cache")
    found: dict[str, Value] = {}
    if isinstance(route, Mapping):
        facts = {names.ROUTE_NAME: "route", names.ROUTE_MODEL: "model", names.ROUTE_TIER: "served"}
        found |= {key: str(route.get(name, ""))[:_MAX_TEXT] for key, name in facts.items()}
        found[names.ROUTE_WHY] = str(route.get("why", ""))[:_MAX_TEXT]
        tries = route.get("tries")
        found[names.ROUTE_TRIES] = len(tries) if isinstance(tries, list) else 0
    if isinstance(cache, Mapping):
        found[names.CACHE_HIT] = cache.get("hit") is True
    return found


def _hash(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()[:32] if session_id else ""


def _plain_uri(uri: str) -> str:
    """Without user, query and fragment, where secrets are put."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))[:_MAX_TEXT]
