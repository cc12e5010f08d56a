"""The events of a stream, kept so that a legacy client can resume it (2025-11-25, Streamable HTTP, "Resumability")."""

from __future__ import annotations

from collections import deque

from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp_types import JSONRPCMessage

MAX_EVENTS = 10_000


class RecentEvents(EventStore):
    """The last `MAX_EVENTS` events of all streams. An event's id is its position, so ids grow and never repeat."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, str, JSONRPCMessage | None]] = deque(maxlen=MAX_EVENTS)
        self._last = 0

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """Keep one event; `None` is the empty one that opens a stream."""
        self._last += 1
        self._events.append((self._last, stream_id, message))
        return str(self._last)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Send again what followed `last_event_id` on its stream. `None` when that event is not known any more."""
        after = int(last_event_id) if last_event_id.isdecimal() else 0
        stream = next((stream for number, stream, _ in self._events if number == after), None)
        missed = [(number, message) for number, of, message in self._events if of == stream and number > after]
        for number, message in missed:
            if message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream
