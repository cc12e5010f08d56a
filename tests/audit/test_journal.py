"""The journal never makes a call wait for nothing, never loses a record quietly, and says no when it must."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import pytest

from gateway.audit.journal import Journal, JournalLimits, RecordSink
from gateway.audit.log import AuditLog, LogLimits
from gateway.audit.segment import read_rows, read_signed, reading, segment_path, segment_paths
from gateway.audit.verify import verify_log
from gateway.errors import AuditUnavailable
from gateway.ports import CallRecord
from tests.audit.records import Clock, a_call, a_record, records, tampering

QUICK = JournalLimits(flush_s=0.01, commit_timeout_s=5, drain_s=1)
REFUSE = "CREATE TRIGGER refuse BEFORE INSERT ON entry BEGIN SELECT RAISE(ABORT, 'no more'); END"


class Seen:
    """A sink that remembers what it got, and on which thread."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.threads: set[int] = set()

    def take(self, records: Sequence[CallRecord]) -> None:
        self.ids += [record.call.id for record in records]
        self.threads.add(threading.get_ident())


class Failing:
    def take(self, records: Sequence[CallRecord]) -> None:
        raise RuntimeError("the collector is away")


class SlowLog(AuditLog):
    """A log whose disk takes as long as the test says."""

    gate = threading.Event()

    def append(self, records: Sequence[CallRecord], *, durable: bool = False) -> None:
        self.gate.wait(5)
        super().append(records, durable=durable)


@asynccontextmanager
async def running(journal: Journal) -> AsyncIterator[Journal]:
    """The journal in a task group, as the app runs it; leaving shuts it down."""
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            await group.start(journal.run)
            yield journal
            group.cancel_scope.cancel()


def call_ids(data: Path) -> list[str]:
    found = []
    for _, path in segment_paths(data / "audit"):
        with reading(path) as db:
            contents = [json.loads(row.body) for row in read_rows(db)]
        found += [content["call"]["id"] for content in contents if content["kind"] != "marker"]
    return found


async def until_empty(journal: Journal) -> None:
    """Wait for the flusher; the thread hops of its work let it in."""
    while journal.status.queued:
        await anyio.lowlevel.checkpoint()


async def test_committed_record_is_on_disk_and_signed_when_commit_returns(tmp_path: Path) -> None:
    async with running(Journal(AuditLog.open(tmp_path))) as journal:
        await journal.commit(a_record(1))

        with reading(segment_path(tmp_path / "audit", 1)) as db:
            assert [signed.size for signed in read_signed(db)][-1] == 2
        assert call_ids(tmp_path) == ["call-1"]


async def test_records_are_written_in_the_order_they_were_taken(tmp_path: Path) -> None:
    async with running(Journal(AuditLog.open(tmp_path), limits=QUICK)) as journal:
        for number in range(600):
            journal.record(a_record(number))
        await journal.commit(a_record(600))

        assert call_ids(tmp_path) == [f"call-{number}" for number in range(601)]


async def test_recorded_calls_are_written_without_anybody_asking(tmp_path: Path) -> None:
    async with running(Journal(AuditLog.open(tmp_path), limits=QUICK)) as journal:
        journal.record(a_record(1))
        await until_empty(journal)

        assert call_ids(tmp_path) == ["call-1"]


async def test_concurrent_commits_share_a_write(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())
    async with running(Journal(log)) as journal:
        async with anyio.create_task_group() as callers:
            for number in range(100):
                callers.start_soon(journal.commit, a_record(number))

        with reading(segment_path(tmp_path / "audit", 1)) as db:
            assert len(read_signed(db)) < 20
        assert journal.status.size == 101


async def test_what_is_left_is_written_at_shutdown(tmp_path: Path) -> None:
    async with running(Journal(AuditLog.open(tmp_path), limits=JournalLimits(flush_s=60))) as journal:
        for number in range(700):
            journal.record(a_record(number))

    assert len(call_ids(tmp_path)) == 700
    assert verify_log(tmp_path / "audit").signed_size == 701
    assert not journal.accepting


async def test_records_of_calls_that_end_with_the_gateway_are_kept(tmp_path: Path) -> None:
    journal = Journal(AuditLog.open(tmp_path))

    async def call_in_flight() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            journal.record(a_record(7, outcome="cancelled"))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await group.start(journal.run)
            group.start_soon(call_in_flight)
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    assert call_ids(tmp_path) == ["call-7"]


async def test_closed_journal_refuses(tmp_path: Path) -> None:
    async with running(Journal(AuditLog.open(tmp_path))) as journal:
        pass

    with pytest.raises(AuditUnavailable, match="closed"):
        journal.record(a_record())
    with pytest.raises(AuditUnavailable, match="closed"):
        await journal.commit(a_record())


async def test_full_queue_refuses_and_says_so_beforehand(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path)
    journal = Journal(log, limits=JournalLimits(queue_records=2))
    journal.record(a_record(1))
    could = journal.accepting
    journal.record(a_record(2))

    with pytest.raises(AuditUnavailable, match="queue is full"):
        journal.record(a_record(3))

    assert could
    assert not journal.accepting
    assert (journal.status.queued, journal.status.refused) == (2, 1)
    log.close()


async def test_commit_gives_up_on_a_disk_that_hangs(tmp_path: Path) -> None:
    SlowLog.gate.clear()
    async with running(Journal(SlowLog.open(tmp_path), limits=JournalLimits(commit_timeout_s=0.05))) as journal:
        with pytest.raises(AuditUnavailable, match="took longer than"):
            await journal.commit(a_record(1))
        SlowLog.gate.set()


async def test_record_taken_while_another_is_written_is_not_forgotten(tmp_path: Path) -> None:
    SlowLog.gate.clear()
    async with running(Journal(SlowLog.open(tmp_path), limits=QUICK)) as journal:
        async with anyio.create_task_group() as callers:
            callers.start_soon(journal.commit, a_record(1))
            while not journal.status.queued:
                await anyio.lowlevel.checkpoint()
            callers.start_soon(journal.commit, a_record(2))
            while journal.status.queued < 2:
                await anyio.lowlevel.checkpoint()
            journal.record(a_record(3))
            SlowLog.gate.set()
        await until_empty(journal)

    assert call_ids(tmp_path) == ["call-1", "call-2", "call-3"]


async def test_quiet_log_is_signed_when_the_time_has_come(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, limits=LogLimits(checkpoint_s=0.05), clock=Clock())
    async with running(Journal(log, limits=QUICK)) as journal:
        journal.record(a_record(1))
        await until_empty(journal)
        while log.checkpoint_due:
            await anyio.lowlevel.checkpoint()

        with reading(segment_path(tmp_path / "audit", 1)) as db:
            assert [signed.size for signed in read_signed(db)] == [1, 2]


async def test_sinks_get_every_record_once_in_order_off_the_event_loop(tmp_path: Path) -> None:
    seen = Seen()
    sinks: Sequence[RecordSink] = [Failing(), seen]

    async with running(Journal(AuditLog.open(tmp_path), sinks=sinks, limits=QUICK)) as journal:
        for number in range(300):
            journal.record(a_record(number))

    assert seen.ids == [f"call-{number}" for number in range(300)]
    assert threading.get_ident() not in seen.threads


async def test_failing_sink_is_logged_and_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(Journal(AuditLog.open(tmp_path), sinks=[Failing()], limits=QUICK)) as journal:
        await journal.commit(a_record(1))

    assert call_ids(tmp_path) == ["call-1"]
    assert "Failing failed on 1 records" in caplog.text


async def test_failed_log_refuses_commits_keeps_records_and_recovers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen = Seen()
    log = AuditLog.open(tmp_path)
    with tampering(tmp_path) as db:
        db.execute(REFUSE)
    async with running(Journal(log, sinks=[seen], limits=QUICK)) as journal:
        journal.record(a_record(1))
        with pytest.raises(AuditUnavailable, match="no more"):
            await journal.commit(a_record(2))
        status, accepting = journal.status, journal.accepting
        with pytest.raises(AuditUnavailable, match="no more"):
            journal.record(a_record(3))
        with pytest.raises(AuditUnavailable, match="no more"):
            await journal.commit(a_record(4))
        with tampering(tmp_path) as db:
            db.execute("DROP TRIGGER refuse")
        await until_empty(journal)
        await journal.commit(a_record(5))
        recovered = journal.status

    assert (status.healthy, status.queued, accepting) == (False, 1, False)
    assert "no more" in status.error
    assert (recovered.healthy, recovered.error, recovered.refused) == (True, "", 3)
    assert call_ids(tmp_path) == ["call-1", "call-3", "call-5"]
    assert seen.ids == ["call-1", "call-2", "call-3", "call-5"]
    assert "calls are refused until it can" in caplog.text
    assert "can be written again" in caplog.text
    assert verify_log(tmp_path / "audit").findings == []
    with reading(segment_path(tmp_path / "audit", 1)) as db:
        events = [json.loads(row.body).get("event") for row in read_rows(db)]
    assert "resumed" in events


async def test_log_that_stays_broken_ends_with_a_loud_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog.open(tmp_path)
    with tampering(tmp_path) as db:
        db.execute(REFUSE)
    async with running(Journal(log, limits=JournalLimits(flush_s=0.01, drain_s=0.3))) as journal:
        with pytest.raises(AuditUnavailable):
            await journal.commit(a_record(1))
        with pytest.raises(AuditUnavailable):
            journal.record(a_record(2))

    assert "1 records are lost" in caplog.text


async def test_commit_that_waits_when_the_gateway_stops_is_refused(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path)
    with tampering(tmp_path) as db:
        db.execute(REFUSE)
    journal = Journal(log, limits=JournalLimits(drain_s=0.05))
    refused = anyio.Event()

    async def caller() -> None:
        with anyio.CancelScope(shield=True):
            with pytest.raises(AuditUnavailable):
                await journal.commit(a_record(1))
            refused.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(caller)
            while not journal.status.queued:
                await anyio.lowlevel.checkpoint()
            await group.start(journal.run)
            group.cancel_scope.cancel()

    assert refused.is_set()


async def test_last_checkpoint_that_fails_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())
    async with running(Journal(log, limits=QUICK)) as journal:
        journal.record(a_record(1))
        await until_empty(journal)
        with tampering(tmp_path) as db:
            db.execute("CREATE TRIGGER refuse BEFORE INSERT ON checkpoint BEGIN SELECT RAISE(ABORT, 'no more'); END")

    assert "the last checkpoint is missing" in caplog.text


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What a full disk is to a process: writing beyond `size` fails (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def big(number: int) -> CallRecord:
    """Some 30 kB of record, so that a disk is soon full."""
    return a_record(number, call=a_call(number, {"text": "x" * 24_000}), keep_arguments=True)


async def test_process_that_may_not_write_more_refuses_durable_calls_until_it_may(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path)
    wal = segment_path(tmp_path / "audit", 1).with_suffix(".sqlite-wal")
    async with running(Journal(log, limits=QUICK)) as journal:
        await journal.commit(a_record(0))
        with no_file_larger_than(wal.stat().st_size + 8_192):
            journal.record(big(1))
            with pytest.raises(AuditUnavailable, match="cannot be written"):
                await journal.commit(big(2))
            assert not journal.status.healthy
        await until_empty(journal)
        await journal.commit(a_record(3))

    assert set(call_ids(tmp_path)) == {"call-0", "call-1", "call-3"}
    assert verify_log(tmp_path / "audit").findings == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs (run as root)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_full_disk_refuses_durable_calls_until_there_is_space(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    log = AuditLog.open(small_disk)
    async with running(Journal(log, limits=QUICK)) as journal:
        await journal.commit(a_record(0))
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(1_000_000))

        journal.record(big(1))
        with pytest.raises(AuditUnavailable, match=r"disk is full|disk I/O error"):
            await journal.commit(big(2))
        kept = journal.status.queued
        ballast.unlink()
        await until_empty(journal)
        await journal.commit(a_record(3))

    assert kept == 1
    assert set(call_ids(small_disk)) == {"call-0", "call-1", "call-3"}
    assert verify_log(small_disk / "audit").findings == []


async def test_disk_that_fills_up_in_use_loses_no_acknowledged_record(small_disk: Path) -> None:
    acknowledged = []
    async with running(Journal(AuditLog.open(small_disk), limits=QUICK)) as journal:
        for number in range(100):
            try:
                await journal.commit(big(number))
            except AuditUnavailable:
                break
            acknowledged.append(f"call-{number}")

    assert 0 < len(acknowledged) < 100
    assert set(acknowledged) <= set(call_ids(small_disk))
    report = verify_log(small_disk / "audit")
    assert report.findings == []


def test_records_before_the_journal_runs_are_taken(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path)
    journal = Journal(log)

    for record in records(300):
        journal.record(record)

    assert journal.status.queued == 300
    assert journal.status.healthy
    log.close()
