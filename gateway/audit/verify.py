"""Proves offline that a log on disk is whole: every hash, every checkpoint, every link between segments."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

import orjson

from gateway.audit.checkpoint import BadNote, Checkpoint, VerifierKey
from gateway.audit.merkle import Frontier, leaf_hash
from gateway.audit.report import Fault, Kept, Report, Unverifiable, kept_checkpoint, key_for
from gateway.audit.segment import Meta, Row, Signed, read_meta, read_rows, read_signed, reading, segment_paths

_NO_NUMBER: Final = -1


def verify_log(directory: Path, *, key: VerifierKey | None = None, kept: bytes | None = None) -> Report:
    """Check the log in `directory` (`<data>/audit`), also while a gateway writes it.

    `kept` is a checkpoint that was stored elsewhere. Raises `Unverifiable` when there is nothing to check.
    """
    paths = segment_paths(directory) if directory.is_dir() else []
    if not paths:
        raise Unverifiable(f"{directory}: there is no audit log here")
    remarks: list[str] = []
    key = key_for(directory, key, remarks)
    report = Report(key.name, segments=len(paths), remarks=remarks)
    check = _LogCheck(report, key, kept_checkpoint(kept, key, report))
    for number, path in paths:
        check.segment(number, path)
    check.end()
    return report


class _LogCheck:
    """Walks the segments, oldest first, growing the tree again."""

    def __init__(self, report: Report, key: VerifierKey, kept: Kept | None) -> None:
        self._report, self._key, self._kept = report, key, kept
        self._tree: Frontier | None = None
        """`None` after a fault that makes every later root differ; the next segment begins anew."""
        self._number = _NO_NUMBER
        self._last_note = ""
        self._expired_before = 0

    def segment(self, number: int, path: Path) -> None:
        """Check one segment, and its link to the one before it."""
        try:
            with reading(path) as db:
                meta = read_meta(db)
                self._link(number, meta)
                self._entries(number, meta, db)
        except sqlite3.Error as exc:
            self._lose(Fault.UNREADABLE, (self._report.size, self._report.size), f"{path.name}: {exc}", number)
        self._number = number

    def end(self) -> None:
        """What can only be said when everything was seen."""
        report = self._report
        if report.first > self._expired_before:
            gap = (self._expired_before, report.first - 1)
            report.find(Fault.REMOVED, 0, gap, "no retention marker in the log explains that these records are gone")
        unsigned = report.size - report.signed_size
        if report.ok and unsigned:
            report.remarks.append(f"the newest {unsigned} records are not covered by a checkpoint yet")
        if self._kept is not None:
            self._kept.judge(report)

    def _link(self, number: int, meta: Meta) -> None:
        tree = Frontier.from_edge(meta.edge)
        if self._number == _NO_NUMBER:
            self._report.first = self._report.size = self._report.signed_size = meta.first
        elif meta.first != self._report.size or number != self._number + 1:
            gap = (self._report.size, max(self._report.size, meta.first - 1))
            self._lose(Fault.REMOVED, gap, "records are missing before this segment", number)
        if meta.number != number or tree.size != meta.first:
            self._lose(
                Fault.CHAIN, (meta.first, meta.first), "the segment contradicts itself about where it begins", number
            )
        if self._last_note and meta.base != self._last_note:
            message = "the segment does not go on from the last checkpoint of the one before it"
            self._lose(Fault.CHAIN, (meta.first, meta.first), message, number)
        self._tree = tree if self._agrees(number, meta.base, meta.first, tree) else None
        self._report.size = meta.first
        self._see()

    def _entries(self, number: int, meta: Meta, db: sqlite3.Connection) -> None:
        stored = {signed.size: signed for signed in read_signed(db)}
        for row in read_rows(db):
            self._row(number, row, meta)
            self._checkpoint(number, stored.pop(row.seq + 1, None))
        for size in stored:
            seqs = (self._report.size, max(self._report.size, size - 1))
            self._lose(Fault.TRUNCATED, seqs, f"a checkpoint signed {size} records, but they end before that", number)

    def _row(self, number: int, row: Row, meta: Meta) -> None:
        expected = self._report.size
        if row.seq != expected:
            self._lose(Fault.REMOVED, (expected, max(expected, row.seq - 1)), "the records are missing", number)
        if row.leaf != leaf_hash(row.body):
            self._report.find(Fault.CHANGED, number, (row.seq, row.seq), "the record is not the one that was hashed")
        self._content(number, row, meta)
        self._report.size = row.seq + 1
        if self._tree is not None:
            self._tree.append(row.leaf)
            self._see()

    def _content(self, number: int, row: Row, meta: Meta) -> None:
        content = read_entry(row.body)
        if content.get("seq") != row.seq:
            message = f"the record here says that it is number {content.get('seq')}"
            self._report.find(Fault.REORDERED, number, (row.seq, row.seq), message)
        link = (content.get("event"), content.get("segment"), content.get("previous_checkpoint"))
        if row.seq == meta.first and link != ("segment", number, meta.base):
            message = "the segment's first record does not name the checkpoint it goes on from"
            self._report.find(Fault.CHAIN, number, (row.seq, row.seq), message)
        self._expired_before = max(self._expired_before, expiry(content))

    def _checkpoint(self, number: int, signed: Signed | None) -> None:
        if signed is None:
            return
        self._last_note = signed.note
        if self._tree is not None and self._agrees(number, signed.note, signed.size, self._tree):
            self._report.signed_size = signed.size
            self._report.checkpoints += 1
        else:
            self._tree = None

    def _agrees(self, number: int, note: str, size: int, tree: Frontier) -> bool:
        """Whether a stored checkpoint is signed and has the root of the tree as it is; else it is a finding."""
        if not size:
            return True  # the log begins here: there is nothing before it to sign
        signed = self._report.signed_size
        try:
            checkpoint = self._key.open(note.encode())
        except BadNote as exc:
            self._report.find(Fault.CHECKPOINT, number, (signed, size - 1), f"the checkpoint at size {size}: {exc}")
            return False
        if checkpoint != Checkpoint(self._key.name, size, tree.root()):
            message = f"the records since the last good checkpoint are not those signed at size {size}"
            self._report.find(Fault.CHANGED, number, (min(signed, size - 1), size - 1), message)
            return False
        return True

    def _see(self) -> None:
        if self._kept is not None and self._tree is not None:
            self._kept.see(self._tree)

    def _lose(self, fault: Fault, seqs: tuple[int, int], message: str, number: int) -> None:
        self._report.find(fault, number, seqs, message)
        self._tree = None
        self._last_note = ""


def read_entry(body: bytes) -> dict[str, object]:
    """The content of an entry; empty when it is not one."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def expiry(content: dict[str, object]) -> int:
    """The sequence number before which a retention marker says that records were deleted; 0 for other entries."""
    before = content.get("before")
    return before if content.get("event") == "expired" and isinstance(before, int) else 0
