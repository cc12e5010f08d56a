"""Whatever is done to a log behind our back is found, with the segment and the sequence numbers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from gateway.audit.checkpoint import Signer, VerifierKey
from gateway.audit.log import AuditLog
from gateway.audit.merkle import EMPTY_ROOT, leaf_hash
from gateway.audit.report import Fault, Finding, Report, Unverifiable
from gateway.audit.segment import segment_path
from gateway.audit.verify import verify_log
from tests.audit.records import DAY, SECOND, SMALL_SEGMENTS, Clock, records, tampering, write_log

THREE_SEGMENTS = [100, 50, 50, 50, 250, 100]


def found(report: Report) -> list[tuple[Fault, int, int, int]]:
    return [(finding.fault, finding.segment, finding.first_seq, finding.last_seq) for finding in report.findings]


def verified(data: Path, kept: str | None = None, key: VerifierKey | None = None) -> Report:
    return verify_log(data / "audit", key=key, kept=kept.encode() if kept else None)


def test_untouched_log_is_whole(tmp_path: Path) -> None:
    write_log(tmp_path, THREE_SEGMENTS)

    report = verified(tmp_path)

    assert report.ok
    assert (report.first, report.size, report.signed_size, report.segments) == (0, 603, 603, 3)
    assert report.checkpoints >= 9


def test_log_is_verified_while_it_is_written(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())
    log.append(records(5), durable=True)
    log.append(records(2, 5))

    report = verified(tmp_path)

    assert report.ok
    assert (report.size, report.signed_size) == (8, 6)
    assert "the newest 2 records are not covered by a checkpoint yet" in report.remarks
    log.close()


def test_changed_record_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, THREE_SEGMENTS)
    with tampering(tmp_path, 2) as db:
        db.execute(
            "UPDATE entry SET body = replace(CAST(body AS TEXT), 'agent:report-bot', 'agent:other-bot') WHERE seq = 300"
        )

    report = verified(tmp_path)

    assert found(report) == [(Fault.CHANGED, 2, 300, 300)]


def test_changed_record_with_its_hash_made_to_fit_is_found_by_the_checkpoint(tmp_path: Path) -> None:
    write_log(tmp_path, [10, 10, 10])
    with tampering(tmp_path) as db:
        body = db.execute("SELECT CAST(body AS BLOB) FROM entry WHERE seq = 14").fetchone()[0].replace(b'"ok"', b'"no"')
        db.execute("UPDATE entry SET body = ?, leaf = ? WHERE seq = 14", (body, leaf_hash(body)))

    report = verified(tmp_path)

    assert found(report) == [(Fault.CHANGED, 1, 11, 20)]
    assert report.signed_size == 11


def test_removed_record_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, [10, 10])
    with tampering(tmp_path) as db:
        db.execute("DELETE FROM entry WHERE seq IN (4, 5)")

    report = verified(tmp_path)

    assert found(report) == [(Fault.REMOVED, 1, 4, 5)]


def test_removed_record_whose_place_was_closed_up_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, [3])
    with tampering(tmp_path) as db:
        db.execute("DELETE FROM entry WHERE seq = 2")
        db.execute("UPDATE entry SET seq = 2 WHERE seq = 3")

    report = verified(tmp_path)

    assert found(report) == [(Fault.REORDERED, 1, 2, 2), (Fault.TRUNCATED, 1, 3, 3)]


def test_reordered_records_are_found(tmp_path: Path) -> None:
    write_log(tmp_path, [10])
    with tampering(tmp_path) as db:
        db.execute("UPDATE entry SET seq = 1000 WHERE seq = 4")
        db.execute("UPDATE entry SET seq = 4 WHERE seq = 7")
        db.execute("UPDATE entry SET seq = 7 WHERE seq = 1000")

    report = verified(tmp_path)

    assert found(report)[:2] == [(Fault.REORDERED, 1, 4, 4), (Fault.REORDERED, 1, 7, 7)]
    assert found(report)[2] == (Fault.CHANGED, 1, 1, 10)


def test_truncated_log_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, [10, 10])
    with tampering(tmp_path) as db:
        db.execute("DELETE FROM entry WHERE seq > 16")

    report = verified(tmp_path)

    assert found(report) == [(Fault.TRUNCATED, 1, 17, 20)]


def test_log_cut_back_together_with_its_checkpoints_is_found_by_one_kept_elsewhere(tmp_path: Path) -> None:
    note = write_log(tmp_path, [10, 10])
    with tampering(tmp_path) as db:
        db.execute("DELETE FROM entry WHERE seq > 10")
        db.execute("DELETE FROM checkpoint WHERE size > 11")

    assert verified(tmp_path).ok
    assert found(verified(tmp_path, kept=note)) == [(Fault.TRUNCATED, 0, 11, 20)]


def test_rewritten_history_is_found_by_a_checkpoint_kept_elsewhere(tmp_path: Path) -> None:
    write_log(tmp_path, [2])
    audit = tmp_path / "audit"
    shutil.copytree(audit, tmp_path / "fork" / "audit")
    note = write_log(tmp_path, [10])
    log = AuditLog.open(tmp_path / "fork")
    log.append(records(20, first=70))
    log.close()

    report = verified(tmp_path / "fork", kept=note)

    assert found(report) == [(Fault.CHANGED, 0, 0, 12)]


def test_log_that_grew_agrees_with_the_checkpoint_kept_elsewhere(tmp_path: Path) -> None:
    first = write_log(tmp_path, [10])
    at_the_seam = write_log(tmp_path, [245])
    write_log(tmp_path, [300])

    assert verified(tmp_path, kept=first).ok
    assert verified(tmp_path, kept=at_the_seam).ok


def test_kept_checkpoint_of_another_log_is_a_fault(tmp_path: Path) -> None:
    write_log(tmp_path / "a", [1])
    note = write_log(tmp_path / "b", [1])

    assert found(verified(tmp_path / "a", kept=note)) == [(Fault.CHECKPOINT, 0, 0, 0)]


def test_kept_checkpoint_older_than_retention_is_left_unanswered(tmp_path: Path) -> None:
    clock = Clock()
    note = write_log(tmp_path, [10], clock=clock)
    write_log(tmp_path, [300], clock=clock)
    clock.now += 500 * DAY
    write_log(tmp_path, [300], clock=clock)

    report = verified(tmp_path, kept=note)

    assert (report.findings, report.ok) == ([], False)
    assert "gone by retention" in report.unanswered


def test_empty_log_agrees_with_the_checkpoint_of_nothing(tmp_path: Path) -> None:
    write_log(tmp_path, [3])
    signer = Signer.parse((tmp_path / "audit" / "signing.key").read_text())

    assert verified(tmp_path, kept=signer.sign(0, EMPTY_ROOT)).ok


def test_key_kept_elsewhere_finds_a_log_that_was_replaced_whole(tmp_path: Path) -> None:
    write_log(tmp_path / "true", [5])
    key = VerifierKey.parse((tmp_path / "true" / "audit" / "verifier.key").read_text())
    write_log(tmp_path / "false", [5])

    report = verified(tmp_path / "false", key=key)

    assert Fault.CHECKPOINT in {finding.fault for finding in report.findings}


def test_remark_says_when_the_key_came_with_the_log(tmp_path: Path) -> None:
    write_log(tmp_path, [5])
    key = VerifierKey.parse((tmp_path / "audit" / "verifier.key").read_text())

    assert "same directory" in verified(tmp_path).remarks[0]
    assert verified(tmp_path, key=key).remarks == []


@pytest.mark.parametrize("text", [None, "nonsense"])
def test_log_without_a_usable_key_cannot_be_verified(tmp_path: Path, text: str | None) -> None:
    write_log(tmp_path, [5])
    path = tmp_path / "audit" / "verifier.key"
    path.unlink() if text is None else path.write_text(text)

    with pytest.raises(Unverifiable, match=r"no usable verifier\.key"):
        verified(tmp_path)


def test_forged_checkpoint_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, [5, 5])
    with tampering(tmp_path) as db:
        db.execute(
            "UPDATE checkpoint SET note = replace(note, char(10) || '6' || char(10), char(10) || '7' || char(10))"
        )

    report = verified(tmp_path)

    assert found(report) == [(Fault.CHECKPOINT, 1, 1, 5)]


def test_checkpoint_stored_at_the_wrong_size_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, [5, 5])
    with tampering(tmp_path) as db:
        db.execute("UPDATE checkpoint SET size = 5 WHERE size = 6")

    assert found(verified(tmp_path)) == [(Fault.CHANGED, 1, 1, 4)]


def test_missing_segment_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, THREE_SEGMENTS)
    segment_path(tmp_path / "audit", 2).unlink()

    report = verified(tmp_path)

    assert (Fault.REMOVED, 3, 256, 511) in found(report)


def test_missing_oldest_segment_without_a_retention_marker_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, THREE_SEGMENTS)
    segment_path(tmp_path / "audit", 1).unlink()

    report = verified(tmp_path)

    assert found(report) == [(Fault.REMOVED, 0, 0, 255)]


def test_more_missing_than_the_retention_marker_says_is_found(tmp_path: Path) -> None:
    clock = Clock()
    log = AuditLog.open(tmp_path, limits=replace(SMALL_SEGMENTS, segment_s=10**9, retention_s=86_400 * 2), clock=clock)
    log.append(records(256))
    clock.now += DAY
    log.append(records(256))
    clock.now += DAY + SECOND
    log.append(records(1))
    log.close()
    segment_path(tmp_path / "audit", 2).unlink()

    assert found(verified(tmp_path)) == [(Fault.REMOVED, 0, 256, 511)]


def test_segment_cut_back_before_the_next_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, [255, 100])
    with tampering(tmp_path, 1) as db:
        db.execute("DELETE FROM entry WHERE seq > 250")
        db.execute("DELETE FROM checkpoint WHERE size > 251")

    report = verified(tmp_path)

    assert (Fault.REMOVED, 2, 251, 255) in found(report)


@pytest.mark.parametrize(
    ("statement", "faults"),
    [
        ("UPDATE meta SET base = replace(base, 'audit', 'audio')", {Fault.CHECKPOINT, Fault.CHAIN, Fault.CHANGED}),
        ("UPDATE meta SET base = ''", {Fault.CHECKPOINT, Fault.CHAIN}),
        ("UPDATE meta SET edge = x'00'", {Fault.CHAIN, Fault.CHANGED}),
        ("UPDATE meta SET number = 7", {Fault.CHAIN}),
        ("UPDATE meta SET number = 'two'", {Fault.UNREADABLE}),
        ("UPDATE entry SET body = 1.5 WHERE seq = 300", {Fault.CHANGED, Fault.REORDERED}),
        ("UPDATE checkpoint SET time_ns = 'now'", {Fault.UNREADABLE}),
        ("UPDATE entry SET body = CAST(x'fffe' AS TEXT)", {Fault.UNREADABLE}),
        ("PRAGMA application_id = 1", {Fault.UNREADABLE}),
        ("UPDATE meta SET first = 257", {Fault.CHAIN, Fault.REMOVED, Fault.CHANGED}),
    ],
)
def test_segment_that_was_hung_elsewhere_is_found(tmp_path: Path, statement: str, faults: set[Fault]) -> None:
    write_log(tmp_path, [255, 100])
    with tampering(tmp_path, 2) as db:
        db.execute(statement)

    report = verified(tmp_path)

    assert report.findings != []
    assert {finding.fault for finding in report.findings} <= faults
    assert {finding.segment for finding in report.findings} == {2}


def test_oldest_segment_with_other_unfinished_tiles_is_found(tmp_path: Path) -> None:
    clock = Clock()
    write_log(tmp_path, [256, 256], clock=clock)
    clock.now += 401 * DAY
    write_log(tmp_path, [1], clock=clock)
    with tampering(tmp_path, 3) as db:
        edge = bytearray(db.execute("SELECT edge FROM meta").fetchone()[0])
        edge[-1] ^= 1
        db.execute("UPDATE meta SET edge = ?", (bytes(edge),))

    report = verified(tmp_path)

    assert Fault.CHANGED in {finding.fault for finding in report.findings}


def test_segment_that_does_not_begin_with_its_marker_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, [255, 100])
    with tampering(tmp_path, 2) as db:
        body = orjson.dumps({"seq": 256})
        db.execute("UPDATE entry SET body = ?, leaf = ? WHERE seq = 256", (body, leaf_hash(body)))

    report = verified(tmp_path)

    assert (Fault.CHAIN, 2, 256, 256) in found(report)


@pytest.mark.parametrize("body", [b"not json", b"[1]"])
def test_entry_that_is_not_one_of_ours_is_found(tmp_path: Path, body: bytes) -> None:
    write_log(tmp_path, [10])
    with tampering(tmp_path) as db:
        db.execute("UPDATE entry SET body = ? WHERE seq = 3", (body,))

    assert found(verified(tmp_path)) == [(Fault.CHANGED, 1, 3, 3), (Fault.REORDERED, 1, 3, 3)]


def test_unreadable_segment_is_found_and_the_others_are_still_checked(tmp_path: Path) -> None:
    write_log(tmp_path, THREE_SEGMENTS)
    segment_path(tmp_path / "audit", 2).write_bytes(b"not a database" * 1_000)
    with tampering(tmp_path, 3) as db:
        db.execute("UPDATE entry SET body = replace(CAST(body AS TEXT), 'SELECT', 'DELETE') || ' ' WHERE seq = 590")

    report = verified(tmp_path)

    assert (Fault.UNREADABLE, 2, 256, 256) in found(report)
    assert (Fault.CHANGED, 3, 590, 590) in found(report)


def test_damaged_pages_are_found(tmp_path: Path) -> None:
    write_log(tmp_path, [200])
    path = segment_path(tmp_path / "audit", 1)
    blob = bytearray(path.read_bytes())
    blob[20_000:60_000] = bytes(40_000)
    path.write_bytes(blob)

    assert not verified(tmp_path).ok


def test_finding_reads_as_a_sentence() -> None:
    one = Finding(Fault.CHANGED, 2, 300, 300, "the record is not the one that was hashed")
    several = Finding(Fault.REMOVED, 0, 4, 5, "gone")

    assert str(one) == "changed: segment 2, sequence 300: the record is not the one that was hashed"
    assert str(several) == "removed: sequence 4 to 5: gone"
