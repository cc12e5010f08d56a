"""Whenever the process or the machine dies, what was acknowledged is there, and the log is whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.audit.log import AuditLog
from gateway.audit.segment import read_rows, reading, segment_path, segment_paths
from gateway.audit.verify import verify_log
from tests.audit.records import SMALL_SEGMENTS, Clock, records

ROOT = Path(__file__).parents[2]


def killed_after(data: Path, first: int, acknowledged: int) -> list[str]:
    """Run the writer, kill -9 it after so many acknowledged calls, and return all that it acknowledged."""
    command = [sys.executable, "-m", "tests.audit.writer", str(data), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}) as child:
        assert child.stdout is not None
        seen = [child.stdout.readline() for _ in range(acknowledged)]
        child.send_signal(signal.SIGKILL)
        seen += child.stdout.readlines()
    return [line.decode().strip() for line in seen if line.endswith(b"\n")]


def call_ids(data: Path) -> list[str]:
    found = []
    for _, path in segment_paths(data / "audit"):
        with reading(path) as db:
            contents = [json.loads(row.body) for row in read_rows(db)]
        found += [content["call"]["id"] for content in contents if "call" in content]
    return found


def kill_and_check(data: Path, kills: range) -> None:
    acknowledged: set[str] = set()
    for kill in kills:
        acknowledged.update(killed_after(data, 1_000_000 * kill, 60 + 97 * kill))

        report = verify_log(data / "audit")
        assert report.findings == []
        missing = acknowledged - set(call_ids(data))
        assert missing == set()
    assert len(acknowledged) >= 60 * len(kills)
    log = AuditLog.open(data)
    log.close()
    report = verify_log(data / "audit")
    assert report.findings == []
    assert report.signed_size == report.size


def test_killed_process_loses_no_acknowledged_record(tmp_path: Path) -> None:
    kill_and_check(tmp_path, range(1, 3))


@pytest.mark.slow
def test_process_killed_again_and_again_loses_no_acknowledged_record(tmp_path: Path) -> None:
    kill_and_check(tmp_path, range(1, 11))

    assert len(segment_paths(tmp_path / "audit")) > 5


def torn_copy(data: Path, target: Path, keep: int, flip: int = -1) -> None:
    """What a power cut leaves: the write-ahead log ends anywhere, perhaps in nonsense."""
    shutil.copytree(data / "audit", target / "audit")
    wal = segment_path(target / "audit", 1).with_suffix(".sqlite-wal")
    blob = bytearray(wal.read_bytes()[:keep])
    if flip >= 0:
        blob[flip:] = bytes(byte ^ 0xA5 for byte in blob[flip:])
    wal.write_bytes(blob)
    segment_path(target / "audit", 1).with_suffix(".sqlite-shm").unlink()


def test_torn_write_ahead_log_leaves_a_whole_shorter_log(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path / "live", clock=Clock())
    for number in range(20):
        log.append(records(3, 3 * number), durable=number % 2 == 0)
    wal = segment_path(tmp_path / "live" / "audit", 1).with_suffix(".sqlite-wal").stat().st_size
    sizes = []

    for case in range(24):
        torn = tmp_path / f"torn-{case}"
        keep = wal * case // 23
        torn_copy(tmp_path / "live", torn, keep, flip=max(0, keep - 5_000) if case % 3 == 0 else -1)
        before = verify_log(torn / "audit")
        reopened = AuditLog.open(torn, clock=Clock())
        sizes.append(reopened.size)
        reopened.append(records(1, 900), durable=True)
        reopened.close()
        assert before.findings == []
        assert verify_log(torn / "audit").findings == []

    assert sizes[0] == 1
    assert max(sizes) == log.size == 61
    assert len(set(sizes)) > 8
    log.close()


def test_kill_between_the_end_of_a_segment_and_the_next_is_harmless(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, limits=SMALL_SEGMENTS, clock=Clock())
    log.append(records(255), durable=True)
    shutil.copytree(tmp_path / "audit", tmp_path / "copy" / "audit")
    log.close()
    segment_path(tmp_path / "copy" / "audit", 2).with_suffix(".sqlite.new").write_bytes(b"cut short")

    reopened = AuditLog.open(tmp_path / "copy", limits=SMALL_SEGMENTS, clock=Clock())
    reopened.append(records(1, 255), durable=True)
    reopened.close()

    report = verify_log(tmp_path / "copy" / "audit")
    assert (report.findings, report.segments) == ([], 2)
