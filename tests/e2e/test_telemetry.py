"""What operators see of a whole gateway: health, metrics and spans."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import httpx2
import pytest
from anyio import to_thread
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from conformance.gateway import Plan
from tests.e2e.eventually import eventually
from tests.e2e.place import ALLOW_ALL, Place, in_process, new_key, prepare, rules
from tests.servers.launch import http_server
from tests.telemetry.sink import Sink, otlp_sink

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
_SAMPLE = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^{}]*\})? [0-9eE+.\-]+|[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^{}]*\})? \+Inf")
DENIES = 'deny contains {"code": "no", "message": "never", "public": true} if input.resource.id == "one/fail"'


async def get(place: Place, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
        return await http.get(f"{place.url}{path}")


async def test_health_and_readiness_are_told_without_a_credential(tmp_path: Path) -> None:
    place = prepare(tmp_path, Plan({}))
    async with in_process(place):
        alive, ready = await get(place, "/healthz"), await get(place, "/readyz")

    assert alive.status_code == 200
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "faults": {}})


async def test_metrics_parse_and_count_calls_by_outcome(tmp_path: Path) -> None:
    with http_server("modern_asker", tmp_path) as upstream:
        tables = {"policy": rules(tmp_path, all=f"{ALLOW_ALL}\n\n{DENIES}")}
        place = prepare(tmp_path, Plan({"one": {"url": upstream.url}}, tables))
        key = await new_key(place, "ana")
        async with in_process(place), place.caller(key) as ana:
            for _ in range(3):
                await ana.call("one__echo", {"text": "x"})
            await ana.call("one__fail")

            async def counted() -> str:
                text = (await get(place, "/metrics")).text
                return text if 'outcome="denied"' in text else ""

            text = await eventually(counted)

    samples = [line for line in text.splitlines() if line and not line.startswith("#")]
    calls = [line for line in samples if line.startswith("interlock_calls_total") and "mcp.tools.call" in line]
    assert [line for line in samples if not _SAMPLE.fullmatch(line)] == []
    assert sorted(line.rpartition(" ")[2] for line in calls) == ["1", "3"]
    assert any(line.startswith("interlock_upstream_up") and line.endswith(" 1") for line in samples)
    assert any(line.startswith("interlock_audit_healthy 1") for line in samples)
    assert any(line.startswith("mcp_server_operation_duration_seconds_bucket") for line in samples)


async def spans_of(sink: Sink, name: str, count: int) -> list[Span]:
    """So many spans of that name, as they arrive."""
    found: list[Span] = []
    with anyio.fail_after(20):
        while len(found) < count:
            request = await to_thread.run_sync(lambda: sink.traces.get(timeout=15))
            for resource in request.resource_spans:
                found += [span for scope in resource.scope_spans for span in scope.spans if span.name == name]
    return found


@pytest.mark.parametrize("carried_in", ["header", "_meta"])
async def test_spans_continue_the_clients_trace_and_the_upstream_continues_ours(
    tmp_path: Path, carried_in: str
) -> None:
    with otlp_sink() as sink, http_server("modern_asker", tmp_path) as upstream:
        tables = {"policy": rules(tmp_path, all=ALLOW_ALL), "telemetry": {"otlp_endpoint": sink.url}}
        place = prepare(tmp_path, Plan({"one": {"url": upstream.url}}, tables))
        key = await new_key(place, "ana")
        async with in_process(place), place.caller(key) as ana:
            if carried_in == "header":
                told = await ana.call("one__whoami", headers={"traceparent": TRACEPARENT})
            else:
                told = await ana.call("one__whoami", meta={"traceparent": TRACEPARENT})
            server, client = await spans_of(sink, "tools/call whoami", 2)

    by_kind = {span.kind: span for span in (server, client)}
    outer, inner = by_kind[Span.SPAN_KIND_SERVER], by_kind[Span.SPAN_KIND_CLIENT]
    assert not told.failed
    assert (outer.trace_id.hex(), outer.parent_span_id.hex()) == (TRACE, PARENT)
    assert (inner.trace_id.hex(), inner.parent_span_id) == (TRACE, outer.span_id)
    assert {pair.value.int_value for pair in inner.attributes if pair.key == "server.port"} == {upstream.port}
    assert f"00-{TRACE}-{inner.span_id.hex()}-01" in told.text
