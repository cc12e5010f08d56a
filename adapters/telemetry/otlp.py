"""Spans and metrics to an OpenTelemetry collector, over OTLP/HTTP.

Nothing here is on the path of a call or can hold one up: records arrive in the flusher's thread, wait in a bounded
queue and leave in another thread. What a slow or broken collector does not take is dropped, and counted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio import to_thread
from anyio.abc import TaskStatus
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult

from adapters.telemetry.otlp_encoding import metrics_data, readable_span
from adapters.telemetry.pump import pump
from gateway.ports import CallRecord
from gateway.telemetry import Leg, Metrics, SpanData, names, spans_of

BATCH_SPANS: Final = 512


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """Where to send to and as whom. `endpoint` is the collector's base URL (`http://127.0.0.1:4318`)."""

    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    service_name: str = "interlock"
    service_version: str = ""
    instance_id: str = ""
    environment: str = ""
    timeout_s: float = 5.0
    """For one export, retries included."""
    spans_every_s: float = 1.0
    metrics_every_s: float = 15.0
    drain_s: float = 5.0
    """At shutdown: how long to try to send what is left."""
    queue_spans: int = 8_192

    def resource(self) -> Resource:
        """Who emits."""
        known = {
            names.SERVICE_NAME: self.service_name,
            names.SERVICE_VERSION: self.service_version,
            names.SERVICE_INSTANCE_ID: self.instance_id,
            names.DEPLOYMENT_ENVIRONMENT_NAME: self.environment,
        }
        return Resource.create({key: value for key, value in known.items() if value})


class OtlpSpans:
    """A `RecordSink`; `run` must be started in the app's task group.

    Spans of calls whose caller asked not to record its trace are sent only if something went wrong.
    """

    def __init__(self, settings: OtlpSettings, *, leg_of: Callable[[str], Leg]) -> None:
        self._settings = settings
        self._leg_of = leg_of
        self._resource = settings.resource()
        self._exporter = OTLPSpanExporter(
            _url(settings, "traces"), headers=dict(settings.headers), timeout=settings.timeout_s
        )
        self._queue: deque[SpanData] = deque()
        self._refused = 0  # counted in the flusher's thread
        self._lost = 0  # counted on the event loop
        self.failed = 0

    @property
    def dropped(self) -> int:
        """Spans that the collector never got."""
        return self._refused + self._lost

    def take(self, records: Sequence[CallRecord]) -> None:
        """Queue the spans of these records; those beyond the bound are dropped."""
        for record in records:
            spans = spans_of(record, self._leg_of)
            if not spans or not (spans[0].sampled or spans[0].error):
                continue
            if len(self._queue) + len(spans) > self._settings.queue_spans:
                self._refused += len(spans)
            else:
                self._queue.extend(spans)

    def register(self, metrics: Metrics) -> None:
        """Show in `/metrics` what was lost."""
        metrics.add_counter(names.SPANS_DROPPED, "Spans that the collector never got.", lambda: self.dropped)
        metrics.add_counter(names.EXPORTS_FAILED, "Batches of spans that the collector refused.", lambda: self.failed)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Send until cancelled; then send what is left, for a bounded time."""
        known = self._settings
        try:
            await pump(self._send_all, every_s=known.spans_every_s, drain_s=known.drain_s, task_status=task_status)
        finally:
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # not annotated by the SDK

    async def _send_all(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH_SPANS, len(self._queue)))]
            lost = True
            try:
                lost = not await to_thread.run_sync(self._send, batch, abandon_on_cancel=True)
            finally:
                if lost:
                    self.failed += 1
                    self._lost += len(batch)
            if lost:
                return  # the collector may need a pause; the queue is bounded

    def _send(self, batch: Sequence[SpanData]) -> bool:
        """In a worker thread."""
        spans = [readable_span(span, self._resource) for span in batch]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS


class OtlpMetrics:
    """Sends all metrics every so often; `run` must be started in the app's task group."""

    def __init__(self, settings: OtlpSettings, metrics: Metrics, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock_ns = clock_ns
        self._started_ns = clock_ns()
        self._resource = settings.resource()
        self._exporter = OTLPMetricExporter(
            _url(settings, "metrics"), headers=dict(settings.headers), timeout=settings.timeout_s
        )
        self.failed = 0

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Send until cancelled; then once more, for a bounded time."""
        known = self._settings
        try:
            await pump(self._send, every_s=known.metrics_every_s, drain_s=known.drain_s, task_status=task_status)
        finally:
            self._exporter.shutdown()

    async def _send(self) -> None:
        families = self._metrics.collect()  # here, because gauges are read on the event loop
        data = metrics_data(families, self._resource, self._started_ns, self._clock_ns())
        result = MetricExportResult.FAILURE
        try:
            result = await to_thread.run_sync(self._exporter.export, data, abandon_on_cancel=True)
        finally:
            if result is not MetricExportResult.SUCCESS:
                self.failed += 1


def _url(settings: OtlpSettings, signal: str) -> str:
    return f"{settings.endpoint.rstrip('/')}/v1/{signal}"
