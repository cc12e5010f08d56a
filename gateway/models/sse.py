"""Server-sent events: those of providers out of bytes, and ours into them."""

from __future__ import annotations

from typing import Final

from gateway.codec import JsonValue
from gateway.errors import UpstreamProtocolError
from gateway.lines import LineSplitter, LineTooLong
from gateway.models.neutral import Api

DONE: Final = b"[DONE]"
"""The data of the last event of a stream of Chat Completions."""


class Events:
    """The data of events, however the stream was cut into pieces. Holds one event at most.

    Lines end as these providers end them, in LF or CRLF.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max_bytes = max_event_bytes
        self._lines = LineSplitter(max_event_bytes)
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes. Raises `UpstreamProtocolError` for one that is too large."""
        try:
            lines = self._lines.feed(chunk)
        except LineTooLong:
            raise self._too_large() from None
        return [data for line in lines if (data := self._line(line.removesuffix(b"\r")))]

    def _line(self, line: bytes) -> bytes:
        if not line:
            data, self._data, self._size = b"\n".join(self._data), [], 0
            return data
        name, _, value = line.partition(b":")
        if name.removeprefix(b"\xef\xbb\xbf") == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)
            if self._size > self._max_bytes:
                raise self._too_large()
        return b""

    def _too_large(self) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"the provider sent an event larger than the limit of {self._max_bytes} bytes")


def framed(api: Api, event: bytes, kind: JsonValue = None) -> bytes:
    """One event, JSON on one line, as the API's clients read it. `kind` is its `type` (`kind_of` finds it)."""
    named = api in {"messages", "responses"} and isinstance(kind, str) and kind
    head = f"event: {kind}\n".encode() if named else b""
    return head + b"data: " + event + b"\n\n"


def last_frame(api: Api) -> bytes:
    """What ends a stream."""
    return b"data: " + DONE + b"\n\n" if api == "chat.completions" else b""
