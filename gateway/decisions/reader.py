"""Reads a decision log back, also while it is written: the lines of its segments, oldest first."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, cast

from gateway import codec
from gateway.decisions.event import OURS, Event
from gateway.decisions.files import SegmentFile, segment_files

_NS: Final = 1_000_000_000


def lines_in(directory: Path, since_ns: int = 0) -> Iterator[bytes]:
    """Every line of the segments that reach beyond `since_ns` (nanoseconds since the epoch).

    The first segment of them may begin earlier. A segment that cannot be read to its end ends where it can.
    Raises `OSError` when there is no such directory.
    """
    for segment in segment_files(directory):
        try:
            if segment.path.stat().st_mtime_ns >= since_ns:
                yield from _lines(segment.path)
        except FileNotFoundError:  # compressed, or deleted, since we looked
            packed = SegmentFile(segment.began_ns, segment.path.with_name(segment.path.name + ".gz"))
            if packed.path.exists():
                yield from _lines(packed.path)


def _lines(path: Path) -> Iterator[bytes]:
    with _opened(path) as file:
        try:
            yield from file
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return


def _opened(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def event_in(line: bytes) -> Event | None:
    """The event of a line; `None` for one that is torn or no JSON object."""
    try:
        event = codec.loads(line)
    except ValueError:
        return None
    return cast("Event", event) if isinstance(event, dict) else None


def lost_in(event: Event) -> int:
    """How many decisions a line says were lost; 0 for one that is an event."""
    lost = event.get("lost")
    return lost if type(lost) is int and "decision_id" not in event else 0


def is_replayable(event: Event) -> bool:
    """Whether the event holds exactly what was asked and answered."""
    custom = event.get("custom")
    known = custom.get(OURS) if isinstance(custom, dict) else None
    marked = isinstance(known, dict) and known.get("replayable") is True
    return marked and isinstance(event.get("input"), dict) and "result" in event
