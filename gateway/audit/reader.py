"""Shows the newest records of a log to a person, also while a gateway writes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.audit.report import Unverifiable
from gateway.audit.segment import read_rows, read_rows_backwards, reading, segment_paths
from gateway.audit.verify import read_entry


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records to show; an empty field matches all."""

    outcome: str = ""
    subject: str = ""
    action: str = ""

    def admits(self, body: bytes) -> bool:
        """Whether the entry passes."""
        content = read_entry(body)
        found = (content.get("outcome"), at(content, "identity", "subject", "id"), at(content, "call", "action"))
        asked = (self.outcome, self.subject, self.action)
        return all(not want or want == have for want, have in zip(asked, found, strict=True))


class Tail:
    """The end of a log. Raises `Unverifiable` when there is none, `sqlite3.Error` when it cannot be read."""

    def __init__(self, directory: Path, wanted: Filter) -> None:
        if not directory.is_dir() or not segment_paths(directory):
            raise Unverifiable(f"{directory}: there is no audit log here")
        self._directory, self._wanted = directory, wanted
        self._next = 0

    def last(self, count: int) -> list[bytes]:
        """The newest `count` entries that are wanted, oldest first."""
        found: list[bytes] = []
        for _, path in reversed(segment_paths(self._directory)):
            with reading(path) as db:
                for row in read_rows_backwards(db):
                    self._next = max(self._next, row.seq + 1)
                    if len(found) >= count:
                        return found[::-1]
                    if self._wanted.admits(row.body):
                        found.append(row.body)
        return found[::-1]

    def fresh(self) -> Iterator[bytes]:
        """The wanted entries that came since the last look."""
        for _, path in segment_paths(self._directory)[-2:]:
            with reading(path) as db:
                for row in read_rows(db, self._next):
                    self._next = row.seq + 1
                    if self._wanted.admits(row.body):
                        yield row.body


def readable(body: bytes) -> str:
    """One line for a person. Nothing that a caller sent can steer the terminal."""
    content = read_entry(body)
    fields = [
        _time(content.get("time_ns")),
        f"#{content.get('seq', '?')}",
        str(content.get("outcome") or content.get("event") or content.get("kind", "unreadable")),
        at(content, "call", "action"),
        at(content, "resource", "id"),
        at(content, "identity", "subject", "id"),
        *_details(content),
    ]
    line = "  ".join(str(field) for field in fields if field)
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)


def _details(content: dict[str, object]) -> Iterator[str]:
    for name, value in (
        ("error", content.get("error")),
        ("decision", at(content, "decision", "id")),
        ("trace", content.get("trace_id")),
    ):
        if value:
            yield f"{name}={value}"
    reasons = at(content, "decision", "reasons")
    if isinstance(reasons, list) and reasons:
        yield "reasons=" + ",".join(map(str, reasons))
    total = at(content, "timings_ns", "total")
    if isinstance(total, int) and total:
        yield f"{total / 1e6:.1f}ms"


def at(content: object, *path: str) -> object:
    """The value at a path of keys; empty text when there is none."""
    for key in path:
        content = content.get(key, "") if isinstance(content, dict) else ""
    return content


def _time(value: object) -> str:
    try:
        moment = datetime.fromtimestamp(int(str(value)) / 1e9, UTC)
    except (ValueError, OverflowError, OSError):
        return "?"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
