"""`interlock audit` proves, shows and publishes a log from the command line."""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.audit.log import AuditLog
from gateway.audit.reader import Filter, Tail, readable
from gateway.cli import audit
from tests.audit.records import Clock, a_record, an_identity, records, tampering, write_log


def interlock(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="interlock")
    audit.add_parser(parser.add_subparsers())
    args = parser.parse_args(["audit", *words])
    code = args.func(args)
    assert isinstance(code, int)
    return code


def mixed_log(data: Path) -> None:
    log = AuditLog.open(data, clock=Clock())
    log.append(
        [
            a_record(1),
            a_record(2, outcome="denied", error="policy_denied"),
            a_record(3, identity=None, reasons=(), total_ns=0),
            a_record(4, outcome="denied", identity=an_identity()),
        ]
    )
    log.close()


def test_whole_log_is_verified_with_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, [5])

    code = interlock("verify", "--data", str(tmp_path))

    out = capsys.readouterr().out
    assert code == 0
    assert "records      0 to 5, 6 covered by checkpoints" in out
    assert out.endswith("verdict      whole\n")


def test_faulty_log_is_told_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, [5])
    with tampering(tmp_path) as db:
        db.execute("UPDATE entry SET body = body || ' ' WHERE seq = 3")

    code = interlock("verify", "--data", str(tmp_path))

    out = capsys.readouterr().out
    assert code == 1
    assert "FAULT        changed: segment 1, sequence 3: the record is not the one that was hashed" in out
    assert out.endswith("verdict      1 fault(s)\n")


def test_missing_log_is_told_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = interlock("verify", "--data", str(tmp_path))

    assert code == 2
    assert "there is no audit log here" in capsys.readouterr().err


def test_report_is_printed_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, [5])
    with tampering(tmp_path) as db:
        db.execute("DELETE FROM entry WHERE seq = 3")

    code = interlock("verify", "--data", str(tmp_path), "--json")

    report = json.loads(capsys.readouterr().out)
    assert code == 1
    assert report["ok"] is False
    assert report["findings"] == [
        {"fault": "removed", "segment": 1, "first_seq": 3, "last_seq": 3, "message": "the records are missing"}
    ]


def test_log_is_verified_against_what_was_kept_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text(write_log(tmp_path, [5]))
    key = tmp_path / "audit" / "verifier.key"
    with tampering(tmp_path) as db:
        db.execute("DELETE FROM entry WHERE seq > 0")
        db.execute("DELETE FROM checkpoint WHERE size > 1")

    plain = interlock("verify", "--data", str(tmp_path))
    with_key_file = interlock("verify", "--data", str(tmp_path), "--key", str(key))
    with_key = interlock("verify", "--data", str(tmp_path), "--key", key.read_text())
    with_checkpoint = interlock("verify", "--data", str(tmp_path), "--checkpoint", str(tmp_path / "kept"))
    with_no_key = interlock("verify", "--data", str(tmp_path), "--key", "nonsense")

    assert (plain, with_key_file, with_key, with_checkpoint, with_no_key) == (0, 0, 0, 1, 2)


def test_question_that_cannot_be_answered_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    (tmp_path / "kept").write_text(write_log(tmp_path, [10], clock=clock))
    write_log(tmp_path, [300], clock=clock)
    clock.now += 500 * 86_400 * 10**9
    write_log(tmp_path, [300], clock=clock)

    code = interlock("verify", "--data", str(tmp_path), "--checkpoint", str(tmp_path / "kept"))

    out = capsys.readouterr().out
    assert code == 2
    assert "UNANSWERED" in out
    assert out.endswith("verdict      cannot tell\n")


def test_export_is_written_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "data", [5])
    tiles = str(tmp_path / "tiles")

    codes = [
        interlock("export", "--data", str(tmp_path / "data"), tiles),
        interlock("verify", "--tiles", tiles),
        interlock("verify", "--data", tiles),
    ]

    assert codes == [0, 0, 0]
    assert "records 0 to 5, 2 files written" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["audit", "else"], ids=["empty", "missing"])
def test_export_of_nothing_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    (tmp_path / place).mkdir()

    code = interlock("export", "--data", str(tmp_path), str(tmp_path / "tiles"))

    assert code == 2
    assert "there is no audit log here" in capsys.readouterr().err


def test_tail_shows_the_newest_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed_log(tmp_path)

    code = interlock("tail", "--data", str(tmp_path), "-n", "4")

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert len(lines) == 4
    assert lines[1] == (
        "2026-11-18T11:06:40.000Z  #2  denied  mcp.tools.call  warehouse/query  agent:report-bot  error=policy_denied"
        "  decision=decision-2  trace=0af7651916cd43dd8448eb211c80319c  reasons=rules.data.sql_only  6.0ms"
    )
    assert "agent" not in lines[2]


def test_reader_that_has_seen_enough_is_no_failure(tmp_path: Path) -> None:
    mixed_log(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)

    command = [sys.executable, "-m", "gateway", "audit", "tail", "--data", str(tmp_path)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)

    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["--outcome", "denied"], [2, 4]),
        (["--subject", "agent:report-bot"], [1, 2, 4]),
        (["--action", "mcp.tools.call", "--outcome", "ok"], [1, 3]),
        (["--action", "a2a.card.read"], []),
        (["-n", "1"], [4]),
        (["-n", "0"], []),
    ],
)
def test_tail_shows_only_what_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], numbers: list[int]
) -> None:
    mixed_log(tmp_path)

    interlock("tail", "--data", str(tmp_path), "--json", *words)

    shown = [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()]
    assert shown == numbers


def test_tail_reaches_back_over_segments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, [255, 255, 10])

    interlock("tail", "--data", str(tmp_path), "--json", "-n", "300")

    shown = [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()]
    assert shown == list(range(223, 523))


def test_tail_follows_new_records_until_it_is_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())
    batches = iter([[a_record(1), a_record(2, outcome="denied")], [a_record(3, outcome="denied")]])

    def wait(_: float) -> None:
        try:
            log.append(next(batches))
        except StopIteration:
            raise KeyboardInterrupt from None

    args = argparse.Namespace(data=tmp_path, count=5, follow=True, outcome="denied", subject="", action="", json=True)
    code = functools.partial(audit._tail, wait=wait)(args)
    log.close()

    assert code == 0
    assert [json.loads(line)["call"]["id"] for line in capsys.readouterr().out.splitlines()] == ["call-2", "call-3"]


def test_following_goes_on_into_the_next_segment(tmp_path: Path) -> None:
    write_log(tmp_path, [250])
    tail = Tail(tmp_path / "audit", Filter(outcome="ok"))
    before = len(tail.last(1_000))

    write_log(tmp_path, [20])

    assert (before, len(list(tail.fresh())), len(list(tail.fresh()))) == (250, 20, 0)


@pytest.mark.parametrize("make", [True, False])
def test_tail_of_nothing_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], *, make: bool) -> None:
    if make:
        (tmp_path / "audit").mkdir()

    code = interlock("tail", "--data", str(tmp_path))

    assert code == 2
    assert "there is no audit log here" in capsys.readouterr().err


def test_what_a_caller_sent_cannot_steer_the_terminal() -> None:
    line = readable(b'{"seq":1,"outcome":"ok","resource":{"id":"\\u001b[2J\\u202eevil\\n"}}')

    assert "\x1b" not in line
    assert "\u202e" not in line
    assert "\n" not in line
    assert r"\x1b[2J\u202eevil\n" in line


@pytest.mark.parametrize(
    "body", [b"garbage", b"[]", b'{"time_ns":"x"}', b'{"time_ns":"99999999999999999999999999999"}']
)
def test_unreadable_entry_is_shown_as_such(body: bytes) -> None:
    assert readable(body).startswith("?  #?  unreadable")


def test_marker_is_shown_by_its_event(tmp_path: Path) -> None:
    write_log(tmp_path, [])

    [body] = Tail(tmp_path / "audit", Filter()).last(5)

    assert readable(body).endswith("#0  segment")


def test_many_records_are_only_read_as_far_as_asked(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, clock=Clock())
    log.append(records(50))
    log.close()

    assert len(Tail(tmp_path / "audit", Filter()).last(7)) == 7
