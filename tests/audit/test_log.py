"""The log keeps what it acknowledged, in one tree over all its segments, for one writer."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.audit.checkpoint import Checkpoint, VerifierKey
from gateway.audit.log import AuditLog, LogLimits
from gateway.audit.report import Unverifiable
from gateway.audit.segment import Row, read_rows, read_signed, reading, segment_path, segment_paths
from gateway.audit.verify import verify_log
from gateway.errors import AuditUnavailable
from tests.audit.records import (
    DAY,
    SECOND,
    SMALL_SEGMENTS,
    Clock,
    a_call,
    a_record,
    records,
    tampering,
    write_log,
)


def rows_of(data: Path) -> list[Row]:
    found: list[Row] = []
    for _, path in segment_paths(data / "audit"):
        with reading(path) as db:
            found += read_rows(db)
    return found


def events_of(data: Path) -> list[dict[str, object]]:
    contents = [json.loads(row.body) for row in rows_of(data)]
    return [content for content in contents if content["kind"] == "marker"]


def signed_sizes(data: Path, number: int = 1) -> list[int]:
    with reading(segment_path(data / "audit", number)) as db:
        return [signed.size for signed in read_signed(db)]


def test_records_stand_in_the_order_they_were_written(tmp_path: Path) -> None:
    write_log(tmp_path, [3, 1, 2])

    contents = [json.loads(row.body) for row in rows_of(tmp_path)]
    assert [content["kind"] for content in contents] == ["marker"] + ["call"] * 6
    assert [content["call"]["id"] for content in contents[1:]] == [f"call-{number}" for number in range(6)]
    assert [content["seq"] for content in contents] == list(range(7))


def test_reopened_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    write_log(tmp_path, [3])
    log = AuditLog.open(tmp_path)

    log.append(records(2, 3))
    log.close()

    assert log.size == 6
    assert verify_log(tmp_path / "audit").signed_size == 6


def test_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    write_log(tmp_path, [1])
    before = (tmp_path / "audit" / "signing.key").read_bytes()

    note = write_log(tmp_path, [1])

    key = tmp_path / "audit" / "signing.key"
    assert key.read_bytes() == before
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o700
    assert VerifierKey.parse((tmp_path / "audit" / "verifier.key").read_text()).open(note.encode()).size == 3


def test_lost_verifier_key_is_made_again_from_the_signing_key(tmp_path: Path) -> None:
    write_log(tmp_path, [1])
    (tmp_path / "audit" / "verifier.key").unlink()

    log = AuditLog.open(tmp_path)
    log.close()

    assert (tmp_path / "audit" / "verifier.key").read_text().strip() == log.verifier


def test_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, [1])
    (tmp_path / "audit" / "signing.key").chmod(0o640)

    with pytest.raises(AuditUnavailable, match=r"mode 640.*chmod 600"):
        AuditLog.open(tmp_path)


def test_lost_key_does_not_start_a_second_history(tmp_path: Path) -> None:
    write_log(tmp_path, [1])
    (tmp_path / "audit" / "signing.key").unlink()

    with pytest.raises(AuditUnavailable, match="is missing, but the log has entries"):
        AuditLog.open(tmp_path)


@pytest.mark.parametrize("text", ["nonsense", "\udcff"])
def test_damaged_key_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    write_log(tmp_path, [1])
    (tmp_path / "audit" / "signing.key").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(AuditUnavailable, match="restore it from a backup") as caught:
        AuditLog.open(tmp_path)

    assert "nonsense" not in str(caught.value)


def test_other_key_cannot_continue_the_log(tmp_path: Path) -> None:
    write_log(tmp_path / "a", [1])
    write_log(tmp_path / "b", [1])
    shutil.copy(tmp_path / "b" / "audit" / "signing.key", tmp_path / "a" / "audit" / "signing.key")

    with pytest.raises(AuditUnavailable, match="no signature by"):
        AuditLog.open(tmp_path / "a")


def test_second_process_is_refused_and_told_which_has_the_log(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path)

    with pytest.raises(AuditUnavailable, match=f"in use by process {os.getpid()}; stop it"):
        AuditLog.open(tmp_path)

    log.close()
    AuditLog.open(tmp_path).close()


def test_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(AuditUnavailable, match="Not a directory"):
        AuditLog.open(tmp_path / "file")


def test_lock_that_cannot_be_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audit" / "lock").mkdir(parents=True)

    with pytest.raises(AuditUnavailable, match="Is a directory"):
        AuditLog.open(tmp_path)


def test_lock_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    os.mkfifo(tmp_path / "audit" / "lock")

    with pytest.raises(AuditUnavailable, match="Invalid argument"):
        AuditLog.open(tmp_path)


def test_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path)
    log.close()
    log.close()

    with pytest.raises(AuditUnavailable, match="closed"):
        log.append(records(1))


def test_durable_records_are_signed_at_once(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())

    log.append(records(2), durable=True)

    assert signed_sizes(tmp_path) == [1, 3]
    assert not log.checkpoint_due
    log.close()


def test_other_records_are_signed_after_so_many_or_so_long(tmp_path: Path) -> None:
    clock = Clock()
    log = AuditLog.open(tmp_path, limits=LogLimits(checkpoint_entries=10, checkpoint_s=5), clock=clock)

    log.append(records(4))
    log.append(records(6))
    log.append(records(1))
    clock.now += 5 * SECOND
    log.append(records(1))
    log.append(records(1))
    due = log.checkpoint_due
    log.checkpoint()
    log.checkpoint()

    assert due
    assert signed_sizes(tmp_path) == [1, 11, 13, 14]
    log.close()


def test_closing_signs_the_rest_and_leaves_one_plain_file(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())
    log.append(records(4))

    log.close()

    assert signed_sizes(tmp_path) == [1, 5]
    assert sorted(path.name for path in (tmp_path / "audit").iterdir()) == [
        "lock",
        "segment-00000001.sqlite",
        "signing.key",
        "verifier.key",
    ]


def test_reader_does_not_keep_the_log_from_closing(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())
    log.append(records(4))

    with reading(segment_path(tmp_path / "audit", 1)) as db:
        seen = len(list(read_rows(db)))
        log.close()

    assert seen == 5
    assert verify_log(tmp_path / "audit").ok


def test_last_checkpoint_can_be_kept_elsewhere(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())
    log.append(records(4), durable=True)

    checkpoint = VerifierKey.parse(log.verifier).open(log.last_checkpoint.encode())

    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.size == log.size == 5
    log.close()


def test_full_segment_is_followed_by_one_that_names_its_last_checkpoint(tmp_path: Path) -> None:
    write_log(tmp_path, [100, 200])

    with reading(segment_path(tmp_path / "audit", 1)) as db:
        final = read_signed(db)[-1].note
    events = events_of(tmp_path)
    assert [event["event"] for event in events] == ["segment", "segment"]
    assert (events[1]["seq"], events[1]["segment"], events[1]["previous_segment"]) == (256, 2, 1)
    assert events[1]["previous_checkpoint"] == final
    report = verify_log(tmp_path / "audit")
    assert (report.findings, report.size, report.segments) == ([], 302, 2)


def test_quiet_segment_is_full_after_a_month(tmp_path: Path) -> None:
    clock = Clock()
    log = AuditLog.open(tmp_path, clock=clock)
    log.append(records(100))
    clock.now += 31 * DAY

    log.append(records(200, 100))
    log.close()

    assert [number for number, _ in segment_paths(tmp_path / "audit")] == [1, 2]
    assert verify_log(tmp_path / "audit").ok


def test_full_segment_stays_while_a_tile_is_unfinished(tmp_path: Path) -> None:
    write_log(tmp_path, [100, 100])

    assert len(segment_paths(tmp_path / "audit")) == 1


def test_record_of_several_parts_does_not_cross_segments(tmp_path: Path) -> None:
    long = a_record(call=a_call(9, {"text": "x" * 20_000}), keep_arguments=True)
    log = AuditLog.open(tmp_path, limits=SMALL_SEGMENTS, clock=Clock())
    log.append(records(253))

    log.append([a_record(), long, a_record()])
    log.close()

    contents = [json.loads(row.body) for row in rows_of(tmp_path)]
    assert [content["kind"] for content in contents[254:]] == [
        "call",
        "marker",
        "marker",
        *["part"] * 4,
        "call",
        "call",
    ]
    assert [content.get("event") for content in contents[255:257]] == ["padding", "segment"]
    assert verify_log(tmp_path / "audit").findings == []


def test_expired_segments_go_and_the_log_says_so(tmp_path: Path) -> None:
    clock = Clock()
    write_log(tmp_path, [256, 256, 256], clock=clock)
    clock.now += 401 * DAY

    write_log(tmp_path, [1], clock=clock)

    assert [number for number, _ in segment_paths(tmp_path / "audit")] == [4]
    expired = [event for event in events_of(tmp_path) if event["event"] == "expired"]
    assert [(event["first_segment"], event["last_segment"], event["before"]) for event in expired] == [(1, 3, 768)]
    report = verify_log(tmp_path / "audit")
    assert (report.findings, report.first) == ([], 768)


def test_running_log_looks_for_expired_segments_daily(tmp_path: Path) -> None:
    clock = Clock()
    log = AuditLog.open(tmp_path, limits=replace(SMALL_SEGMENTS, segment_s=10**9, retention_s=86_400 * 2), clock=clock)
    log.append(records(256))
    clock.now += DAY
    log.append(records(256))
    clock.now += DAY + SECOND

    log.append(records(1))

    assert [number for number, _ in segment_paths(tmp_path / "audit")] == [2, 3]
    log.close()
    assert verify_log(tmp_path / "audit").findings == []


def test_nothing_expires_when_retention_is_off(tmp_path: Path) -> None:
    clock = Clock()
    limits = replace(SMALL_SEGMENTS, retention_s=0)
    write_log(tmp_path, [300], limits=limits, clock=clock)
    clock.now += 4_000 * DAY

    write_log(tmp_path, [1], limits=limits, clock=clock)

    assert len(segment_paths(tmp_path / "audit")) == 2


def test_segment_that_cannot_be_read_is_not_expired(tmp_path: Path) -> None:
    clock = Clock()
    write_log(tmp_path, [256, 256], clock=clock)
    segment_path(tmp_path / "audit", 1).write_bytes(b"not a database, but as long as one has to be" * 100)
    clock.now += 401 * DAY

    write_log(tmp_path, [1], clock=clock)

    assert [number for number, _ in segment_paths(tmp_path / "audit")] == [1, 2, 3]


def test_half_made_segment_of_a_crash_is_made_again(tmp_path: Path) -> None:
    write_log(tmp_path, [255])
    draft = segment_path(tmp_path / "audit", 2).with_suffix(".sqlite.new")
    draft.write_bytes(b"half")

    write_log(tmp_path, [1])

    assert not draft.exists()
    assert verify_log(tmp_path / "audit").findings == []


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("DELETE FROM entry WHERE seq = 2", "entry 2 is missing"),
        ("UPDATE entry SET leaf = zeroblob(32) WHERE seq = 2", "not those of the checkpoint at size 6"),
        ("DELETE FROM entry WHERE seq > 3", "not those of the checkpoint at size 6"),
        ("DELETE FROM checkpoint", "index out of range"),
        ("DELETE FROM meta", "does not say how it begins"),
        ("UPDATE meta SET edge = x'02aa'", "cut short"),
        ("PRAGMA user_version = 2", "use a newer interlock"),
        ("DROP TABLE entry", "no such table"),
    ],
)
def test_damaged_log_is_not_continued(tmp_path: Path, statement: str, what: str) -> None:
    write_log(tmp_path, [5])
    with tampering(tmp_path) as db:
        db.execute(statement)

    with pytest.raises(AuditUnavailable, match=what):
        AuditLog.open(tmp_path)

    with closing(sqlite3.connect(segment_path(tmp_path / "audit", 1))) as db:
        db.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()  # nothing holds the file any more


def test_write_that_fails_is_all_or_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())
    log.append(records(1), durable=True)
    with tampering(tmp_path) as db:
        db.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON entry WHEN NEW.seq = 3 BEGIN SELECT RAISE(ABORT, 'no more'); END"
        )

    with pytest.raises(AuditUnavailable, match="cannot be written: no more"):
        log.append(records(3, 1), durable=True)
    size = log.size
    with tampering(tmp_path) as db:
        db.execute("DROP TRIGGER refuse")
    log.append(records(3, 1), durable=True)

    assert (size, log.size) == (2, 5)
    log.close()
    assert verify_log(tmp_path / "audit").findings == []


def test_log_whose_files_vanish_says_so_and_recovers_when_they_are_back(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, limits=SMALL_SEGMENTS, clock=Clock())
    log.append(records(255), durable=True)
    (tmp_path / "audit").rename(tmp_path / "elsewhere")

    with pytest.raises(AuditUnavailable, match="cannot be written"):
        log.append(records(1, 255), durable=True)
    with pytest.raises(AuditUnavailable, match="No such file"):
        log.append(records(1, 255), durable=True)
    (tmp_path / "elsewhere").rename(tmp_path / "audit")
    log.append(records(1, 255), durable=True)
    log.close()

    assert verify_log(tmp_path / "audit").findings == []


def test_last_checkpoint_that_cannot_be_written_is_told_and_the_lock_released(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())
    log.append(records(1))
    with tampering(tmp_path) as db:
        db.execute("CREATE TRIGGER refuse BEFORE INSERT ON checkpoint BEGIN SELECT RAISE(ABORT, 'no more'); END")

    with pytest.raises(AuditUnavailable, match="no more"):
        log.close()

    with tampering(tmp_path) as db:
        db.execute("DROP TRIGGER refuse")
    AuditLog.open(tmp_path).close()


def test_markers_tell_of_the_log_itself(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())

    log.mark("resumed", {"refused": 3})
    log.close()

    assert [event["event"] for event in events_of(tmp_path)] == ["segment", "resumed"]


def test_directory_without_a_log_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(Unverifiable, match="no audit log here"):
        verify_log(tmp_path)
