"""The trace context of a call: a child of the one that came in, or the first of its own."""

from __future__ import annotations

from gateway.listeners.mcp.calls import Tracing
from gateway.listeners.mcp.envelope import Message
from gateway.telemetry.context import begin
from gateway.types import EMPTY


def traced(traceparent: str, tracestate: str, message: Message) -> Tracing:
    """Of an MCP message, whose `_meta` may carry one."""
    meta = message.params.get("_meta")
    context = begin(traceparent, tracestate, meta if isinstance(meta, dict) else EMPTY)
    return Tracing(context.traceparent, context.tracestate)


def trace_of(traceparent: str, tracestate: str) -> Tracing:
    """Of a request whose body carries none."""
    context = begin(traceparent, tracestate, EMPTY)
    return Tracing(context.traceparent, context.tracestate)
