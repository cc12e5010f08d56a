"""Metrics and spans behind the real audit journal, as the gateway runs them."""

from __future__ import annotations

from pathlib import Path

import anyio

from adapters.telemetry.otlp import OtlpSettings, OtlpSpans
from gateway.audit.journal import Journal, JournalLimits, RecordSink
from gateway.audit.log import AuditLog
from gateway.telemetry import Leg, Metrics, names
from tests.telemetry.samples import record
from tests.telemetry.sink import otlp_sink


async def test_recorded_calls_arrive_as_metrics_and_as_spans(tmp_path: Path) -> None:
    metrics = Metrics()
    with otlp_sink() as sink:
        spans = OtlpSpans(OtlpSettings(sink.url, spans_every_s=0.01), leg_of=lambda _: Leg())
        sinks: list[RecordSink] = [metrics, spans]
        journal = Journal(AuditLog.open(tmp_path), sinks=sinks, limits=JournalLimits(flush_s=0.01))
        metrics.add_gauge(names.AUDIT_QUEUED, "Records that wait.", lambda: journal.status.queued)
        metrics.add_gauge(names.AUDIT_HEALTHY, "Whether the log can be written.", lambda: journal.status.healthy)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as sending:
                await sending.start(spans.run)
                async with anyio.create_task_group() as tasks:
                    await tasks.start(journal.run)
                    journal.record(record())
                    await journal.commit(record(outcome="intent"))
                    journal.record(record(outcome="tool_error"))
                    tasks.cancel_scope.cancel()
                sending.cancel_scope.cancel()
        arrived = [sink.traces.get(timeout=5) for _ in range(sink.traces.qsize())]

    text = metrics.render().decode()
    spans_sent = [span for request in arrived for span in request.resource_spans[0].scope_spans[0].spans]
    assert len(spans_sent) == 6
    assert 'interlock_outcome="ok"} 1\n' in text
    assert 'interlock_outcome="tool_error"} 1\n' in text
    assert "interlock_audit_healthy 1\n" in text
    assert "interlock_audit_queued 0\n" in text
