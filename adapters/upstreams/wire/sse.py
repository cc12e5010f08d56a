"""Server-Sent Events out of a byte stream (WHATWG HTML, section 9.2.6 "Interpreting an event stream")."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Final

from gateway.errors import UpstreamProtocolError

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `data` stays UTF-8 bytes, since JSON is read from bytes; `id` is the last one the stream has named."""

    data: bytes
    type: str = "message"
    id: str = ""

    @property
    def text(self) -> str:
        """`data` as text; what is not UTF-8 becomes U+FFFD, as the specification says."""
        return self.data.decode("utf-8", "replace")


class SseParser:
    """Turns pieces of a stream into events, however the stream was cut. Holds at most `max_event_bytes` and a piece."""

    __slots__ = (
        "_after_cr",
        "_data",
        "_event_bytes",
        "_id",
        "_max_event_bytes",
        "_started",
        "_tail",
        "_type",
        "last_id",
        "retry_ms",
    )

    def __init__(self, *, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._tail = bytearray()
        self._after_cr = False
        self._started = False
        self._data: list[bytes] = []
        self._event_bytes = 0
        self._type = ""
        self._id = ""
        self.last_id = ""
        """What `Last-Event-ID` says when the stream is resumed: the id of the last event that was whole."""
        self.retry_ms: int | None = None
        """How long the stream asked to wait before resuming it, if it did."""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes. Raises `UpstreamProtocolError` when one exceeds the limit."""
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        first, *rest = _LINE_END.split(chunk)
        self._tail += first
        if not rest:
            self._check(len(self._tail))
            return []
        lines = [bytes(self._tail), *rest[:-1]]
        self._tail = bytearray(rest[-1])
        events = [event for line in lines if (event := self._line(line)) is not None]
        self._check(len(self._tail))
        return events

    def _line(self, line: bytes) -> Event | None:
        if not self._started:
            self._started = True
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        self._check(len(line))
        name, _, value = line.partition(b":")
        self._field(name, value.removeprefix(b" "))
        return None

    def _field(self, name: bytes, value: bytes) -> None:
        match name:
            case b"data":
                self._data.append(value)
                self._event_bytes += len(value) + 1
            case b"event":
                self._type = value.decode("utf-8", "replace")
            case b"id" if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
            case b"retry" if value.isdigit() and len(value) < 10:
                self.retry_ms = int(value)
            case _:  # a comment, or a field that the specification says to ignore
                pass

    def _dispatch(self) -> Event | None:
        data, kind = self._data, self._type
        self._data, self._type, self._event_bytes = [], "", 0
        self.last_id = self._id  # only now: an event that was cut off in its middle must come again
        if not data:
            return None
        return Event(b"\n".join(data), kind or "message", self.last_id)

    def _check(self, pending: int) -> None:
        if self._event_bytes + pending > self._max_event_bytes:
            raise UpstreamProtocolError(
                f"the upstream sent an event larger than the limit of {self._max_event_bytes} bytes"
            )


async def events(chunks: AsyncIterable[bytes], *, max_event_bytes: int) -> AsyncIterator[Event]:
    """The events of a stream. One that the stream's end cuts off is dropped, as the specification says."""
    parser = SseParser(max_event_bytes=max_event_bytes)
    async for chunk in chunks:
        for event in parser.feed(chunk):
            yield event
