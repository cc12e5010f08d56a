"""Events of an agent as Server-Sent Events: the agent's bytes between two constants (sections 9.4.2 and 11.7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.listeners.http import EventStream

_END: Final = b"\n\n"
_LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")


class Framed:
    """A stream of events in the form of one binding; `translate` gives an event in the client's version."""

    def __init__(
        self, stream: EventStream, head: bytes, tail: bytes, translate: Callable[[bytes], bytes] | None = None
    ) -> None:
        self._stream = stream
        self._head = b"data: " + head
        self._tail = tail + _END
        self._translate = translate

    async def emit(self, event: bytes) -> None:
        """Send one event (JSON), with backpressure."""
        if self._translate is not None:
            event = self._translate(event)
        await self._stream.write(self._head + one_line(event) + self._tail)


def one_line(text: bytes) -> bytes:
    """JSON on one line. Between its tokens a line end is white space, and within a string none can stand."""
    return text.translate(_LINE_ENDS) if b"\n" in text or b"\r" in text else text


def last_event(data: bytes, *, kind: bytes = b"") -> bytes:
    """One event that ends a stream."""
    head = b"event: " + kind + b"\n" if kind else b""
    return head + b"data: " + one_line(data) + _END
