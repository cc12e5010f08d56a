"""Spans and metrics as they arrive at a real collector."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue
from time import process_time
from typing import TypeVar

import anyio
import pytest
from anyio import to_thread
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from adapters.telemetry.otlp import OtlpMetrics, OtlpSettings, OtlpSpans
from gateway.telemetry import Leg, Metrics, names, parse, start
from tests.telemetry.samples import PARENT, SPAN, TRACE, record
from tests.telemetry.sink import Sink, otlp_sink

Arrived = TypeVar("Arrived")


@pytest.fixture
def sink() -> Iterator[Sink]:
    with otlp_sink() as running:
        yield running


def _settings(sink: Sink, **changes: object) -> OtlpSettings:
    known: dict[str, object] = {
        "headers": {"x-api-key": "k-1"},
        "service_version": "0.1",
        "environment": "test",
        "timeout_s": 2.0,
        "spans_every_s": 0.01,
        "metrics_every_s": 0.01,
        "drain_s": 2.0,
    }
    return OtlpSettings(sink.url + "/", **(known | changes))  # type: ignore[arg-type]  # as the tests give them


def _leg(_: str) -> Leg:
    return Leg("tcp", "db.internal", 8443)


async def _next(queue: Queue[Arrived]) -> Arrived:
    return await to_thread.run_sync(lambda: queue.get(timeout=5))


def _attributes(pairs: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for pair in pairs:  # type: ignore[attr-defined]  # a repeated field
        assert isinstance(pair, KeyValue)
        kind = pair.value.WhichOneof("value")
        assert kind is not None
        value = getattr(pair.value, kind)
        found[pair.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return found


async def _sent(sink: Sink, spans: OtlpSpans) -> ResourceSpans:
    async with anyio.create_task_group() as tasks:
        await tasks.start(spans.run)
        with anyio.fail_after(5):
            request = await _next(sink.traces)
        tasks.cancel_scope.cancel()
    found: list[ResourceSpans] = list(request.resource_spans)
    assert len(found) == 1
    return found[0]


async def test_spans_arrive_with_their_names_ids_parents_and_times(sink: Sink) -> None:
    context = start(parse(PARENT, "congo=1"), link=parse(f"00-{'a' * 32}-{'b' * 16}-01"))
    spans = OtlpSpans(_settings(sink), leg_of=_leg)

    spans.take([record({"traceparent": context.traceparent, "tracestate": context.tracestate})])
    arrived = await _sent(sink, spans)

    (scope,) = arrived.scope_spans
    call, policy, leg = scope.spans
    assert [span.name for span in scope.spans] == ["tools/call query", "interlock.policy", "tools/call query"]
    assert [span.kind for span in scope.spans] == [
        Span.SPAN_KIND_SERVER,
        Span.SPAN_KIND_INTERNAL,
        Span.SPAN_KIND_CLIENT,
    ]
    assert {span.trace_id.hex() for span in scope.spans} == {TRACE}
    assert (call.parent_span_id.hex(), leg.span_id.hex()) == (SPAN, context.span_id)
    assert policy.parent_span_id == leg.parent_span_id == call.span_id
    assert call.end_time_unix_nano - call.start_time_unix_nano == 31_000_000
    assert call.trace_state == "congo=1"
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in call.links] == [("a" * 32, "b" * 16)]


async def test_attributes_resource_scope_and_headers_arrive(sink: Sink) -> None:
    spans = OtlpSpans(_settings(sink), leg_of=_leg)

    spans.take([record(outcome="tool_error")])
    arrived = await _sent(sink, spans)

    (scope,) = arrived.scope_spans
    call, policy, leg = scope.spans
    assert (scope.scope.name, scope.scope.version) == (names.SCOPE, names.CONVENTIONS)
    resource = _attributes(arrived.resource.attributes)
    assert (resource[names.SERVICE_NAME], resource[names.SERVICE_VERSION]) == ("interlock", "0.1")
    assert resource[names.DEPLOYMENT_ENVIRONMENT_NAME] == "test"
    assert _attributes(call.attributes)[names.GEN_AI_TOOL_NAME] == "query"
    assert _attributes(call.attributes)[names.ERROR_TYPE] == "tool_error"
    assert _attributes(policy.attributes)[names.POLICY_CACHED] is False
    assert _attributes(policy.attributes)[names.POLICY_OBLIGATIONS] == ["redact"]
    assert _attributes(leg.attributes)[names.SERVER_PORT] == 8443
    assert [span.status.code for span in (call, policy)] == [Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET]
    assert b"SECRET" not in arrived.SerializeToString()
    assert sink.headers[0]["x-api-key"] == "k-1"


async def test_trace_that_the_caller_does_not_record_is_sent_only_if_something_went_wrong(sink: Sink) -> None:
    unsampled = {"traceparent": PARENT[:-1] + "0"}
    spans = OtlpSpans(_settings(sink), leg_of=_leg)

    spans.take([record({**unsampled, "id": "fine"}), record({**unsampled, "id": "bad"}, outcome="tool_error")])
    arrived = await _sent(sink, spans)

    ids = {_attributes(span.attributes).get(names.CALL_ID) for span in arrived.scope_spans[0].spans}
    assert ids == {"bad", None}


async def test_what_is_left_is_sent_at_shutdown(sink: Sink) -> None:
    spans = OtlpSpans(_settings(sink, spans_every_s=3600), leg_of=_leg)

    async with anyio.create_task_group() as tasks:
        await tasks.start(spans.run)
        spans.take([record()])
        tasks.cancel_scope.cancel()

    assert len(sink.traces.get(timeout=5).resource_spans[0].scope_spans[0].spans) == 3
    assert (spans.dropped, spans.failed) == (0, 0)


async def test_batch_that_is_under_way_at_shutdown_is_not_torn_off(sink: Sink) -> None:
    sink.go.clear()
    spans = OtlpSpans(_settings(sink), leg_of=_leg)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            await tasks.start(spans.run)
            spans.take([record()])
            await to_thread.run_sync(lambda: sink.asked.wait(5))
            spans.take([record()])
            tasks.cancel_scope.cancel()
            sink.go.set()

    assert sink.traces.qsize() == 2
    assert (spans.failed, spans.dropped) == (0, 0)


async def test_collector_that_hangs_holds_nobody_up_and_the_queue_stays_bounded(sink: Sink) -> None:
    sink.go.clear()
    metrics = Metrics()
    spans = OtlpSpans(_settings(sink, timeout_s=0.5, drain_s=0.1, queue_spans=30), leg_of=_leg)
    spans.register(metrics)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            await tasks.start(spans.run)
            spans.take([record()])
            await to_thread.run_sync(lambda: sink.asked.wait(5))
            spans.take([record()] * 100)
            refused_at_the_door = spans.dropped
            tasks.cancel_scope.cancel()

    assert refused_at_the_door == 300 - 30
    assert b"interlock_telemetry_spans_dropped_total" in metrics.render()
    assert spans.dropped >= refused_at_the_door + 3  # the batch that the collector kept waiting is lost too
    assert spans.failed >= 1


async def test_collector_that_refuses_is_counted_and_the_next_batch_is_tried(sink: Sink) -> None:
    spans = OtlpSpans(_settings(sink), leg_of=_leg)

    async with anyio.create_task_group() as tasks:
        await tasks.start(spans.run)
        with anyio.fail_after(5):
            for status in (400, 200):
                sink.status = status
                spans.take([record()])
                await _next(sink.traces)
        tasks.cancel_scope.cancel()

    assert (spans.failed, spans.dropped) == (1, 3)


async def test_collector_that_is_not_there_costs_no_more_than_the_records(sink: Sink) -> None:
    settings = OtlpSettings("http://127.0.0.1:1", timeout_s=0.2, spans_every_s=0.01, drain_s=0.1)
    spans = OtlpSpans(settings, leg_of=_leg)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            await tasks.start(spans.run)
            spans.take([record()])
            while not spans.failed:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    assert spans.dropped == 3


def _metric(arrived: list[Metric], name: str) -> Metric:
    (found,) = [metric for metric in arrived if metric.name == name]
    return found


async def test_metrics_arrive_under_the_conventions_names(sink: Sink) -> None:
    metrics = Metrics()
    metrics.add_gauge(names.UPSTREAM_UP, "Whether it answers.", lambda: {"db": 1})
    metrics.take([record(), record(outcome="denied", error="policy_denied", result_bytes=0)])
    exporter = OtlpMetrics(_settings(sink), metrics)

    async with anyio.create_task_group() as tasks:
        await tasks.start(exporter.run)
        with anyio.fail_after(5):
            request = await _next(sink.metrics)
        tasks.cancel_scope.cancel()

    arrived = list(request.resource_metrics[0].scope_metrics[0].metrics)
    duration = _metric(arrived, names.MCP_SERVER_OPERATION_DURATION)
    points = {
        str(_attributes(point.attributes).get(names.ERROR_TYPE)): point for point in duration.histogram.data_points
    }
    assert duration.unit == "s"
    assert set(points) == {"None", "policy_denied"}
    assert list(points["None"].explicit_bounds) == list(names.MCP_BUCKETS_S)
    assert (points["None"].count, sum(points["None"].bucket_counts)) == (1, 1)
    assert points["None"].sum == pytest.approx(0.031)
    assert not points["None"].HasField("min")
    assert _metric(arrived, names.CALLS).sum.is_monotonic
    assert _metric(arrived, names.UPSTREAM_UP).gauge.data_points[0].as_double == 1
    assert exporter.failed == 0


async def test_collector_that_hangs_does_not_hold_up_the_end_of_the_metrics(sink: Sink) -> None:
    sink.go.clear()
    exporter = OtlpMetrics(_settings(sink, drain_s=0.1, timeout_s=0.3), Metrics())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            await tasks.start(exporter.run)
            await to_thread.run_sync(lambda: sink.asked.wait(5))
            tasks.cancel_scope.cancel()

    assert exporter.failed >= 1


def test_spans_of_a_call_cost_the_flusher_little() -> None:
    spans = OtlpSpans(OtlpSettings("http://127.0.0.1:1", queue_spans=10_000), leg_of=_leg)
    batch = [record()] * 256
    started = process_time()

    for _ in range(10):
        spans.take(batch)

    assert (process_time() - started) / 2560 < 0.001  # seconds each; about 0.00002 on an idle machine
