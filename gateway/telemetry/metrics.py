"""Counts what the calls did, from their records and off their path.

One row per combination of action, method, upstream, tool, outcome, error and engine holds everything; the metrics are
read from the rows when somebody looks. A record costs one dictionary access and four bisections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, Literal, NamedTuple, TypeAlias

from gateway.ports import CallRecord
from gateway.telemetry import names, prometheus
from gateway.telemetry.facts import error_type, tool_name, verdict_of, was_forwarded
from gateway.telemetry.families import Distribution, Family, Kind, Labels

CONTENT_TYPE: Final = prometheus.CONTENT_TYPE
MAX_ROWS: Final = 2_000
MAX_REASONS: Final = 500
OTHER: Final = "other"
_NANO: Final = 1e-9

Reading: TypeAlias = "float | Mapping[str, float]"


class _Key(NamedTuple):
    action: str
    method: str
    upstream: str
    tool: str
    outcome: str
    error: str
    engine: str
    cached: bool
    verdict: str


class _Row:
    """Everything that was counted of one kind of call."""

    __slots__ = ("bytes", "calls", "client", "policy", "server", "tool")

    def __init__(self) -> None:
        self.calls = 0
        self.bytes = 0
        self.server = Distribution(names.MCP_BUCKETS_S)
        self.client = Distribution(names.MCP_BUCKETS_S)
        self.tool = Distribution(names.GEN_AI_BUCKETS_S)
        self.policy = Distribution(names.POLICY_BUCKETS_S)


@dataclass(frozen=True, slots=True)
class _Reader:
    """A value that somebody else keeps."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    about: str
    label: str
    read: Callable[[], Reading]


class Metrics:
    """A `RecordSink`. `take` runs in the flusher's thread, everything else on the event loop.

    Names that a caller invents never become a label, and beyond `max_rows` combinations everything new is counted
    as `other`.
    """

    def __init__(self, *, max_rows: int = MAX_ROWS, max_reasons: int = MAX_REASONS) -> None:
        self._max_rows, self._max_reasons = max_rows, max_reasons
        self._rows: dict[_Key, _Row] = {}
        self._denials: dict[tuple[str, str], int] = {}
        self._overflow = 0
        self._readers: list[_Reader] = []
        self._lock = Lock()

    def take(self, records: Sequence[CallRecord]) -> None:
        """Count a batch of records."""
        with self._lock:
            for record in records:
                if record.outcome != "intent":  # the call's own record follows
                    self._count(record)

    def add_gauge(
        self, name: str, about: str, read: Callable[[], Reading], *, label: str = names.UPSTREAM, unit: str = ""
    ) -> None:
        """Show a value that is read when somebody looks: a number, or numbers by the value of `label`."""
        self._readers.append(_Reader(name, "gauge", unit, about, label, read))

    def add_counter(
        self, name: str, about: str, read: Callable[[], Reading], *, label: str = names.UPSTREAM, unit: str = ""
    ) -> None:
        """The same for a value that only grows."""
        self._readers.append(_Reader(name, "counter", unit, about, label, read))

    def collect(self) -> list[Family]:
        """Every metric, consistent as of now."""
        with self._lock:
            families = [*_families(self._rows), _denials(self._denials), _overflow(self._overflow)]
        return [*families, *map(_read, self._readers)]

    def render(self) -> bytes:
        """The body of an answer to `/metrics`, of type `CONTENT_TYPE`."""
        return prometheus.text(self.collect())

    def _count(self, record: CallRecord) -> None:
        row = self._row(_key(record))
        row.calls += 1
        row.bytes += record.result_bytes
        row.server.add(record.total_ns * _NANO)
        if was_forwarded(record):
            row.client.add(record.execute_ns * _NANO)
            if record.call.method == "tools/call":
                row.tool.add(record.execute_ns * _NANO)
        if verdict_of(record):
            row.policy.add(record.decide_ns * _NANO)
        if record.outcome == "denied":
            self._deny(record)

    def _row(self, key: _Key) -> _Row:
        row = self._rows.get(key)
        if row is not None:
            return row
        if len(self._rows) >= self._max_rows:
            self._overflow += 1
            key = _Key(OTHER, OTHER, OTHER, OTHER, key.outcome, OTHER, OTHER, False, key.verdict)
        return self._rows.setdefault(key, _Row())

    def _deny(self, record: CallRecord) -> None:
        for reason in record.reasons or (record.error,):
            key = (reason.rpartition(":")[2], record.call.resource.upstream if record.call.resource.known else "")
            if key not in self._denials and len(self._denials) >= self._max_reasons:
                self._overflow += 1
                key = (OTHER, OTHER)
            self._denials[key] = self._denials.get(key, 0) + 1


def _key(record: CallRecord) -> _Key:
    call = record.call
    return _Key(
        call.action,
        call.method,
        call.resource.upstream if call.resource.known else "",
        tool_name(call),
        record.outcome,
        error_type(record),
        record.engine,
        record.cached,
        verdict_of(record),
    )


def _families(rows: Mapping[_Key, _Row]) -> list[Family]:
    items = list(rows.items())
    operations = "Time from the arrival of a request to its answer, policy and the upstream included."
    return [
        _histogram(
            names.MCP_SERVER_OPERATION_DURATION, operations, ((_operation(key), row.server) for key, row in items)
        ),
        _histogram(
            names.MCP_CLIENT_OPERATION_DURATION,
            "Time that the upstream took.",
            (((*_operation(key), (names.UPSTREAM, key.upstream)), row.client) for key, row in items),
        ),
        _histogram(
            names.GEN_AI_EXECUTE_TOOL_DURATION,
            "Time that the tool took.",
            ((_tool(key), row.tool) for key, row in items),
        ),
        _histogram(
            names.POLICY_DURATION,
            "Time from the question to the decision.",
            ((_policy(key), row.policy) for key, row in items),
        ),
        _sum(
            names.POLICY_DECISIONS,
            "{decision}",
            "Decisions of policy.",
            ((_decided(key), row.policy.count) for key, row in items),
        ),
        _sum(names.CALLS, "{call}", "Calls by how they ended.", ((_call(key), row.calls) for key, row in items)),
        _sum(names.RESULT_SIZE, "By", "Bytes of results.", ((_upstream(key), row.bytes) for key, row in items)),
    ]


def _operation(key: _Key) -> Labels:
    return (
        (names.MCP_METHOD_NAME, key.method),
        (names.GEN_AI_TOOL_NAME, key.tool),
        (names.ERROR_TYPE, key.error),
    )


def _tool(key: _Key) -> Labels:
    return (
        (names.GEN_AI_OPERATION_NAME, "execute_tool"),
        (names.GEN_AI_TOOL_NAME, key.tool),
        (names.ERROR_TYPE, key.error),
        (names.UPSTREAM, key.upstream),
    )


def _policy(key: _Key) -> Labels:
    return ((names.POLICY_ENGINE, key.engine), (names.POLICY_CACHED, "true" if key.cached else "false"))


def _decided(key: _Key) -> Labels:
    return (*_policy(key), (names.POLICY_VERDICT, key.verdict))


def _call(key: _Key) -> Labels:
    return ((names.ACTION, key.action), (names.UPSTREAM, key.upstream), (names.OUTCOME, key.outcome))


def _upstream(key: _Key) -> Labels:
    return ((names.UPSTREAM, key.upstream),)


def _histogram(name: str, about: str, series: Iterable[tuple[Labels, Distribution]]) -> Family:
    merged: dict[Labels, Distribution] = {}
    for labels, distribution in series:
        if not distribution.count:
            continue
        kept = _present(labels)
        if kept not in merged:
            merged[kept] = Distribution(distribution.bounds)
        merged[kept].merge(distribution)
    return Family(name, "histogram", "s", about, [(labels, merged[labels]) for labels in sorted(merged)])


def _sum(name: str, unit: str, about: str, series: Iterable[tuple[Labels, int]]) -> Family:
    merged: dict[Labels, float] = {}
    for labels, value in series:
        if value:
            kept = _present(labels)
            merged[kept] = merged.get(kept, 0) + value
    return Family(name, "counter", unit, about, sorted(merged.items()))


def _denials(counts: Mapping[tuple[str, str], int]) -> Family:
    series = ((((names.POLICY_REASON, reason), (names.UPSTREAM, up)), count) for (reason, up), count in counts.items())
    return _sum(names.DENIALS, "{denial}", "Refused calls by the code of the reason.", series)


def _overflow(count: int) -> Family:
    about = "Records counted as `other` because there were too many combinations of labels."
    return Family(names.SERIES_DROPPED, "counter", "{record}", about, [((), float(count))])


def _read(reader: _Reader) -> Family:
    value = reader.read()
    points: list[tuple[Labels, float | Distribution]]
    if isinstance(value, Mapping):
        points = [(((reader.label, str(key)),), float(one)) for key, one in sorted(value.items())]
    else:
        points = [((), float(value))]
    kind: Kind = reader.kind
    return Family(reader.name, kind, reader.unit, reader.about, points)


def _present(labels: Labels) -> Labels:
    return tuple([pair for pair in labels if pair[1]])
