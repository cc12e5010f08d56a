"""Decisions are written as OPA writes them, off the path of calls; what cannot be kept is lost visibly."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import anyio
import pytest

from gateway.app.decisions import MaskingByRevision
from gateway.decisions.event import event_of
from gateway.decisions.files import SegmentLimits, Segments, segment_files
from gateway.decisions.log import DecisionLog, LogLimits
from gateway.decisions.masking import LogRules
from gateway.decisions.reader import event_in, lines_in, lost_in
from gateway.decisions.upload import UploadBuffer, UploadLimits
from gateway.ports import Answer, Decided
from tests.decisions.traffic import NOW_NS, at, bundle_from, events_in, open_log, recording, until

QUESTION = {"subject": {"id": "key:dev"}, "context": {"time_ns": NOW_NS + 5, "trace_id": "t1"}}
ROOT = Path(__file__).parents[2]


def decided(number: int = 0, question: object = QUESTION) -> Decided:
    """A yes to a question."""
    assert isinstance(question, dict)
    return Decided(f"d{number}", "decision", question, Answer({"decision": True}, "r1", "regorus"), took_ns=7)


def test_event_has_the_shape_of_opa() -> None:
    event = event_of(decided(), {"id": "x"}, NOW_NS)

    assert event == {
        "labels": {"id": "x"},
        "decision_id": "d0",
        "bundles": {"interlock": {"revision": "r1"}},
        "path": "interlock/decision",
        "input": QUESTION,
        "result": {"decision": True},
        "requested_by": "key:dev",
        "timestamp": "2027-01-15T08:00:00.000000005Z",
        "trace_id": "t1",
        "metrics": {"timer_rego_query_eval_ns": 7},
        "custom": {"interlock": {"replayable": True, "engine": "regorus", "cached": False}},
    }


def test_decision_without_an_answer_has_its_error_and_is_not_replayable() -> None:
    event = event_of(Decided("d", "visible", {}, None, "timeout: too late"), {}, NOW_NS)

    assert event["error"] == {"code": "timeout", "message": "too late"}
    assert event["timestamp"] == at(0)
    assert (event["path"], event["custom"]) == ("interlock/visible", {"interlock": {"replayable": False}})
    assert "result" not in event


async def test_every_decision_of_a_pipeline_is_in_the_log_with_its_exact_question(tmp_path: Path) -> None:
    async with recording(tmp_path / "log", bundle_from()) as gateway:
        outcomes = [await gateway.use("dev", "time/get_current_time", {"timezone": zone}) for zone in ("UTC", "CET")]
        outcomes.append(await gateway.use("guest", "time/get_current_time", {"timezone": "é\u2028"}))

    events = events_in(tmp_path / "log")
    zones = [event["input"]["resource"]["properties"]["arguments"]["timezone"] for event in events]  # type: ignore[index]  # JSON
    assert outcomes == ["ok", "ok", "denied"]
    assert zones == ["UTC", "CET", "é\u2028"]
    assert [event["decision_id"] for event in events] == ["d1", "d2", "d3"]


async def test_log_is_private(tmp_path: Path) -> None:
    async with recording(tmp_path / "state" / "log", bundle_from()) as gateway:
        await gateway.use("dev", "time/get_current_time", {})

    (segment,) = segment_files(tmp_path / "state" / "log")
    assert segment.path.stat().st_mode & 0o777 == 0o600
    assert segment.path.parent.stat().st_mode & 0o777 == 0o700


async def test_full_queue_loses_decisions_visibly_and_never_raises(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segments = Segments.open(tmp_path, SegmentLimits(), lambda: NOW_NS)
    limits = LogLimits(queue=3, flush_s=0.01)
    log = DecisionLog(segments, labels={}, rules_of=lambda _: None, clock_ns=lambda: NOW_NS, limits=limits)
    for number in range(5):
        log.decided(decided(number))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(log.run)
            group.cancel_scope.cancel()

    events = events_in(tmp_path)
    assert [lost_in(event) for event in events] == [2, 0, 0, 0]
    assert (log.lost, log.written) == (2, 3)
    assert [record.message for record in caplog.records] == ["decisions: 2 were lost (the queue was full)"]


def log_of(directory: Path, limits: LogLimits, rules: LogRules | None = None) -> DecisionLog:
    segments = Segments.open(directory, SegmentLimits(), lambda: NOW_NS)
    return DecisionLog(segments, labels={}, rules_of=lambda _: rules, clock_ns=lambda: NOW_NS, limits=limits)


async def run_to_its_end(log: DecisionLog) -> None:
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            await group.start(log.run)
            group.cancel_scope.cancel()


async def test_large_questions_wait_within_a_bound_of_bytes_and_not_of_numbers_alone(tmp_path: Path) -> None:
    log = log_of(tmp_path, LogLimits(queue_bytes=5_000, flush_s=0.01))
    large = {**QUESTION, "filler": "x" * 2_000}

    for number in range(5):
        log.decided(decided(number, large))
    await run_to_its_end(log)
    before = log.lost
    log.decided(decided(9, large))
    await run_to_its_end(log)

    assert (before, log.lost) == (3, 3)
    assert [event.get("lost", event.get("decision_id")) for event in events_in(tmp_path)] == [3, "d0", "d1", "d9"]


class SlowRules:
    """Masks nothing; each event takes a step of its own clock, and no time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def about(self, event: bytes) -> Mapping[str, object]:
        self.now_s += 0.4
        return {}


async def test_rules_that_mask_slowly_are_given_a_bounded_time_at_once_and_nothing_gets_lost(tmp_path: Path) -> None:
    rules = SlowRules()
    segments = Segments.open(tmp_path, SegmentLimits(), lambda: NOW_NS)
    uploads = UploadBuffer(UploadLimits())
    log = DecisionLog(
        segments,
        labels={},
        rules_of=lambda _: rules,
        clock_ns=lambda: NOW_NS,
        upload=uploads,
        limits=LogLimits(flush_s=0.01),
        monotonic_s=lambda: rules.now_s,
    )
    for number in range(8):
        log.decided(decided(number))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            await group.start(log.run)
            await until(lambda: log.written)
            first = log.written
            await until(lambda: log.written == 8)
            group.cancel_scope.cancel()

    assert first % 3 == 0  # 1 second a time
    assert [event["decision_id"] for event in events_in(tmp_path)] == [f"d{number}" for number in range(8)]
    assert len(uploads) == 8


async def test_what_there_is_no_more_time_for_at_the_end_is_lost_visibly(tmp_path: Path) -> None:
    log = log_of(tmp_path, LogLimits(batch=1, drain_s=0.0))
    for number in range(5):
        log.decided(decided(number))

    await run_to_its_end(log)

    lost = sum(map(lost_in, events_in(tmp_path)))
    assert log.lost == lost > 0
    assert log.lost + log.written == 5


async def test_unwritable_disk_loses_decisions_visibly_and_is_used_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "log"
    log = open_log(directory, MaskingByRevision())
    directory.rmdir()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(log.run)
            for number in range(3):
                log.decided(decided(number))
            await until(lambda: log.lost == 3)
            directory.mkdir()
            log.decided(decided(3))
            await until(lambda: log.written)
            group.cancel_scope.cancel()

    first, second = events_in(directory)
    assert (first["lost"], second["decision_id"]) == (3, "d3")
    assert "No such file" in str(first["reason"])
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


async def test_question_that_is_no_json_is_lost_and_nothing_else(tmp_path: Path) -> None:
    log = open_log(tmp_path, MaskingByRevision())
    log.decided(decided(0, {"strange": object()}))
    log.decided(decided(1))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(log.run)
            group.cancel_scope.cancel()

    assert [event.get("decision_id", "lost") for event in events_in(tmp_path)] == ["lost", "d1"]


def test_full_segments_are_compressed_and_read_in_order(tmp_path: Path) -> None:
    segments = Segments.open(tmp_path, SegmentLimits(segment_bytes=100), lambda: NOW_NS)
    for number in range(10):
        segments.append([b'{"n":%d,"filler":"%s"}' % (number, b"x" * 60)])
    segments.close()

    assert [segment.packed for segment in segment_files(tmp_path)] == [True] * 5
    assert [event["n"] for event in events_in(tmp_path)] == list(range(10))
    assert all(segment.path.stat().st_mode & 0o777 == 0o600 for segment in segment_files(tmp_path))


def test_segment_of_a_gateway_that_is_never_quiet_ends_at_its_age(tmp_path: Path) -> None:
    now = [NOW_NS]
    segments = Segments.open(tmp_path, SegmentLimits(retention_s=100, segment_s=10), lambda: now[0])

    for number in range(300):
        segments.append([b'{"n":%d}' % number])
        now[0] += 10**9

    kept = [cast("int", event["n"]) for event in events_in(tmp_path)]
    assert 0 < 299 - min(kept) <= 125
    assert max(kept) == 299


def test_old_segments_and_those_beyond_the_size_are_deleted(tmp_path: Path) -> None:
    now = [NOW_NS]
    limits = SegmentLimits(retention_s=100, max_bytes=400, segment_bytes=50, segment_s=10)
    segments = Segments.open(tmp_path, limits, lambda: now[0])
    segments.append([b'{"n":"%s"}' % (b"a" * 60)])
    now[0] += 101 * 10**9
    segments.append([b'{"n":"%s"}' % (b"b" * 60)])
    aged = [str(event["n"])[0] for event in events_in(tmp_path)]

    for _ in range(9):
        segments.append([os.urandom(40).hex().encode()])

    assert aged == ["b"]
    assert sum(segment.path.stat().st_size for segment in segment_files(tmp_path)) <= 400
    assert events_in(tmp_path) == []


def test_what_a_killed_process_wrote_is_read_but_for_its_torn_line(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from gateway.decisions.files import *\n"
        "segments = Segments.open(Path(sys.argv[1]), SegmentLimits(), time.time_ns)\n"
        "for number in range(10**6):\n"
        "    segments.append([b'{\"n\":%d}' % number]); number == 50 and print('go', flush=True)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        being_written = [segment.path for segment in segment_files(tmp_path)]
        Segments.open(tmp_path, SegmentLimits(), lambda: NOW_NS)
        left_alone = [segment.path for segment in segment_files(tmp_path)] == being_written
        process.send_signal(signal.SIGKILL)
    with being_written[0].open("ab") as file:
        file.write(b'{"n":"torn')

    Segments.open(tmp_path, SegmentLimits(retention_s=10**9), lambda: NOW_NS)

    numbers = [event["n"] for event in events_in(tmp_path)]
    assert left_alone  # another process does not touch what is being written
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 50
    assert [segment.packed for segment in segment_files(tmp_path)] == [True]


def test_damaged_segment_ends_where_it_can_be_read(tmp_path: Path) -> None:
    segments = Segments.open(tmp_path, SegmentLimits(segment_bytes=10), lambda: NOW_NS)
    segments.append([b'{"n":%d}' % number for number in range(1000)])
    (segment,) = segment_files(tmp_path)
    segment.path.write_bytes(segment.path.read_bytes()[:-20])

    found = [event for line in lines_in(tmp_path) if (event := event_in(line)) is not None]

    assert len(found) <= 1000
    assert [event["n"] for event in found] == list(range(len(found)))
