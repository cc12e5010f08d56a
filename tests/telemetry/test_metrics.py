"""Metrics that are counted from records."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from threading import Thread

import pytest

from gateway.telemetry import CONTENT_TYPE, Distribution, Family, Metrics, names, resident_bytes
from gateway.telemetry.metrics import OTHER
from gateway.telemetry.prometheus import text
from gateway.types import Resource
from tests.telemetry.samples import record

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]

_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_A-Z0-9]+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)')
_LABEL = re.compile(r'([a-zA-Z_0-9]+)="((?:[^"\\]|\\.)*)"')


def parsed(body: bytes) -> Series:
    """Prometheus text read back; a line that is not of the format fails."""
    series: Series = {}
    for line in body.decode().splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            continue
        found = _SAMPLE.fullmatch(line)
        assert found is not None, line
        labels = frozenset((key, _unescaped(value)) for key, value in _LABEL.findall(found[2] or ""))
        assert (found[1], labels) not in series
        series[found[1], labels] = float(found[3])
    return series


def _unescaped(value: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), value)


def _value(series: Series, name: str, **labels: str) -> float:
    """The sum over the series of that name that have these labels."""
    wanted = set(labels.items())
    found = [value for (series_name, has), value in series.items() if series_name == name and wanted <= has]
    assert found, f"{name} {labels} is not among {sorted({key[0] for key in series})}"
    return sum(found)


def test_call_is_counted_in_every_metric_it_belongs_to() -> None:
    metrics = Metrics()

    metrics.take([record(), record(cached=True), record(outcome="tool_error")])
    series = parsed(metrics.render())

    tool = {"mcp_method_name": "tools/call", "gen_ai_tool_name": "query"}
    assert _value(series, "mcp_server_operation_duration_seconds_count", **tool) == 3
    assert _value(series, "mcp_server_operation_duration_seconds_count", **tool, error_type="tool_error") == 1
    assert _value(series, "mcp_server_operation_duration_seconds_sum", **tool) == pytest.approx(0.093)
    assert _value(series, "mcp_client_operation_duration_seconds_sum", interlock_upstream="db") == pytest.approx(0.09)
    assert _value(series, "gen_ai_execute_tool_duration_seconds_count", gen_ai_operation_name="execute_tool") == 3
    assert _value(series, "interlock_policy_duration_seconds_count", interlock_policy_engine="embedded") == 3
    assert _value(series, "interlock_policy_decisions_total", interlock_policy_cached="true") == 1
    assert _value(series, "interlock_calls_total", interlock_action="mcp.tools.call", interlock_outcome="ok") == 2
    assert _value(series, "interlock_result_size_bytes_total", interlock_upstream="db") == 369


def test_histogram_is_cumulative_with_the_conventions_bounds() -> None:
    metrics = Metrics()

    metrics.take([record(total_ns=value) for value in (10_000_000, 10_000_001, 400 * 10**9)])
    series = parsed(metrics.render())

    name = "mcp_server_operation_duration_seconds_bucket"
    assert [_value(series, name, le=bound) for bound in ("0.01", "0.02", "300", "+Inf")] == [1, 2, 2, 3]
    assert sum(key[0] == name for key in series) == len(names.MCP_BUCKETS_S) + 1


def test_denial_is_counted_by_reason_and_reaches_no_upstream_metric() -> None:
    metrics = Metrics()

    denied = record(outcome="denied", error="policy_denied", execute_ns=0, result_bytes=0)
    metrics.take(
        [
            replace(denied, reasons=("rules.data:not_select", "late")),
            replace(denied, error="unauthenticated", decide_ns=0, identity=None),
            replace(denied, error="approval_pending"),
        ]
    )
    series = parsed(metrics.render())

    reasons = {
        dict(labels)["interlock_policy_reason"]: value
        for (name, labels), value in series.items()
        if name == "interlock_denials_total"
    }
    assert reasons == {"not_select": 1, "late": 1, "unauthenticated": 1, "approval_pending": 1}
    assert _value(series, "interlock_policy_decisions_total", interlock_policy_verdict="deny") == 1
    assert _value(series, "interlock_policy_decisions_total", interlock_policy_verdict="hold") == 1
    assert not any(name.startswith("mcp_client") for name, _ in series)


def test_result_that_policy_refused_did_come_from_the_upstream() -> None:
    metrics = Metrics()

    metrics.take([record(outcome="denied", error="policy_denied", result_bytes=9)])

    assert _value(parsed(metrics.render()), "mcp_client_operation_duration_seconds_count") == 1


def test_intent_is_not_counted_because_its_call_will_be() -> None:
    metrics = Metrics()

    metrics.take([record(outcome="intent")])

    assert not any(name.startswith("interlock_calls") for name, _ in parsed(metrics.render()))


def test_name_that_a_caller_invents_is_no_label() -> None:
    metrics = Metrics()
    unknown = Resource("tool", "evil/x", "evil", "x", known=False)

    metrics.take([record({"resource": unknown}, outcome="denied", error="unknown_resource", execute_ns=0)])

    labels = {value for _, labels in parsed(metrics.render()) for _, value in labels}
    assert not labels & {"x", "evil", "evil/x"}


def test_number_of_series_is_bounded_and_nothing_goes_uncounted() -> None:
    metrics = Metrics(max_rows=10, max_reasons=5)
    tools = [Resource("tool", f"db/t{n}", "db", f"t{n}") for n in range(100)]

    denied = record(outcome="denied", error="policy_denied")
    metrics.take(
        [replace(denied, call=replace(denied.call, resource=one), reasons=(f"r{n}",)) for n, one in enumerate(tools)]
    )
    series = parsed(metrics.render())

    name = "mcp_server_operation_duration_seconds_count"
    assert sum(key[0] == name for key in series) == 11
    assert _value(series, name) == 100
    assert _value(series, name, gen_ai_tool_name=OTHER) == 90
    assert _value(series, "interlock_denials_total") == 100
    assert sum(key[0] == "interlock_denials_total" for key in series) == 6
    assert _value(series, "interlock_metrics_series_dropped_total") == 90 + 95


def test_value_that_somebody_else_keeps_is_read_when_it_is_looked_at() -> None:
    up = {"db": 1.0, 'we"ird\\\n': 0.0}
    metrics = Metrics()
    metrics.add_gauge(names.UPSTREAM_UP, "Whether it answers.", lambda: up)
    metrics.add_gauge(names.PROCESS_MEMORY, "Memory.", resident_bytes, unit="By")
    metrics.add_counter(names.AUDIT_REFUSED, "Refused.", lambda: 3)

    before = parsed(metrics.render())
    up["db"] = 0
    after = parsed(metrics.render())

    assert _value(before, "interlock_upstream_up", interlock_upstream="db") == 1
    assert _value(before, "interlock_upstream_up", interlock_upstream='we"ird\\\n') == 0
    assert _value(after, "interlock_upstream_up", interlock_upstream="db") == 0
    assert 1_000_000 < _value(after, "process_resident_memory_bytes") < 10**11
    assert _value(after, "interlock_audit_refused_total") == 3


def test_every_family_says_what_it_is() -> None:
    metrics = Metrics()
    metrics.take([record()])

    body = metrics.render().decode()

    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")
    assert body.endswith("\n")
    for name in {line.split("{")[0].split(" ")[0] for line in body.splitlines() if not line.startswith("#")}:
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert f"# TYPE {family} " in body
        assert f"# HELP {family} " in body


@pytest.mark.parametrize(
    ("value", "written"),
    [(1.0, "1"), (0.25, "0.25"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"), (1e-5, "1e-05")],
)
def test_number_is_written_as_the_format_wants_it(value: float, written: str) -> None:
    family = Family("x", "gauge", "", "about", [((), value)])

    assert text([family]).decode().splitlines()[-1] == f"x {written}"


def test_batches_from_a_thread_and_looks_from_another_do_not_disturb_each_other() -> None:
    metrics = Metrics()

    def flush() -> None:
        for _ in range(40):
            metrics.take([record()] * 50)

    thread = Thread(target=flush)
    thread.start()
    while thread.is_alive():
        parsed(metrics.render())
    thread.join()

    assert _value(parsed(metrics.render()), "interlock_calls_total") == 2_000


def test_distribution_counts_what_it_was_given() -> None:
    one, other = Distribution((1, 2)), Distribution((1, 2))
    for value in (0.5, 1, 1.5, 9):
        one.add(value)
    other.add(2)

    one.merge(other)

    assert (one.counts, one.count, one.total) == ([2, 2, 1], 5, 14)
