"""Our spans and metrics as the values that the OpenTelemetry SDK's exporters take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gateway.telemetry import Distribution, Family, SpanData, names

_SCOPE: Final = InstrumentationScope(names.SCOPE, names.CONVENTIONS)
_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
_UNSET: Final = cast("float", None)
"""For `min` and `max`, which are optional on the wire and mean little over the life of a process."""


def readable_span(span: SpanData, resource: Resource) -> ReadableSpan:
    """A finished span of the SDK, with the ids and the times that it had."""
    state = TraceState.from_header([span.trace_state]) if span.trace_state else None
    parent = _context(span.trace_id, span.parent_span_id, state) if span.parent_span_id else None
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace_id, span.span_id, state),
        parent=parent,
        resource=resource,
        attributes=span.attributes,
        links=[Link(_context(trace_id, span_id, None)) for trace_id, span_id in span.links],
        kind=_KINDS[span.kind],
        status=Status(StatusCode.ERROR if span.error else StatusCode.UNSET),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=_SCOPE,
    )


def _context(trace_id: str, span_id: str, state: TraceState | None) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), False, TraceFlags(TraceFlags.SAMPLED), state)


def metrics_data(families: Sequence[Family], resource: Resource, started_ns: int, now_ns: int) -> MetricsData:
    """All families as one export, cumulative since `started_ns`."""
    metrics = [
        Metric(family.name, family.about, family.unit or "1", _data(family, started_ns, now_ns))
        for family in families
        if family.points
    ]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(_SCOPE, metrics, "")], "")])


def _data(family: Family, started_ns: int, now_ns: int) -> Sum | Gauge | Histogram:
    if family.kind == "histogram":
        return Histogram(
            [
                _histogram_point(dict(labels), value, started_ns, now_ns)
                for labels, value in family.points
                if isinstance(value, Distribution)
            ],
            _CUMULATIVE,
        )
    points = [
        NumberDataPoint(dict(labels), started_ns, now_ns, value)
        for labels, value in family.points
        if not isinstance(value, Distribution)
    ]
    return Gauge(points) if family.kind == "gauge" else Sum(points, _CUMULATIVE, is_monotonic=True)


def _histogram_point(
    attributes: dict[str, str], value: Distribution, started_ns: int, now_ns: int
) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=started_ns,
        time_unix_nano=now_ns,
        count=value.count,
        sum=value.total,
        bucket_counts=value.counts,
        explicit_bounds=value.bounds,
        min=_UNSET,
        max=_UNSET,
    )
