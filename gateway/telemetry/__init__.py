"""What operators see of the calls: names, trace context, metrics, spans. No vendor SDK is imported here."""

from gateway.telemetry.context import TraceContext, begin, parse, start
from gateway.telemetry.families import Distribution, Family
from gateway.telemetry.metrics import CONTENT_TYPE, Metrics
from gateway.telemetry.process import resident_bytes
from gateway.telemetry.spans import Leg, SpanData, spans_of

__all__ = [
    "CONTENT_TYPE",
    "Distribution",
    "Family",
    "Leg",
    "Metrics",
    "SpanData",
    "TraceContext",
    "begin",
    "parse",
    "resident_bytes",
    "spans_of",
    "start",
]
