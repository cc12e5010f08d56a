"""The answer to one request: whole or as a stream of events, in the API's form, with what it bears in its head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, cast

from gateway import codec
from gateway.codec import JsonObject
from gateway.errors import InterlockError, InvalidCall, UpstreamProtocolError
from gateway.listeners.a2a.framing import one_line
from gateway.listeners.http import JSON, EventStream, Header, Send, respond
from gateway.listeners.models.refusals import reply_to
from gateway.listeners.models.replays import Slot
from gateway.models import Api, Talk, as_stream, error_event, framed, last_frame
from gateway.models.calls import ACTION
from gateway.types import EMPTY, Call, Era, Result

ROUTING: Final = "interlock.route"
"""Under which name it is said which model answers (`gateway/routing/records.py`)."""


@dataclass(slots=True)
class Head:
    """What the head of a response says of its call."""

    api: Api
    call_id: str = ""
    model: str = ""
    decision_id: str = ""
    replayed: bool = False
    route: str = ""
    """Why this model answers, where a route led to it (`gateway/routing/README.md`)."""
    cache: str = ""
    """Whether, and since when, the answer was there already."""

    def permitted(self, call: Call, decision_id: str) -> None:
        """The call is permitted, so its client may know what it is to."""
        self.decision_id = decision_id
        self.model = call.resource.id if call.action == ACTION else ""

    @property
    def lines(self) -> tuple[Header, ...]:
        """As header lines. The clients of each API look for the request's id under another name."""
        names = {
            b"request-id" if self.api == "messages" else b"x-request-id": self.call_id,
            b"x-interlock-decision": self.decision_id,
            b"x-interlock-model": self.model,
            b"idempotent-replayed": "true" if self.replayed else "",
            b"x-interlock-route": self.route,
            b"x-interlock-cache": self.cache,
        }
        return tuple([(name, value.encode("latin-1", "replace")) for name, value in names.items() if value])


class Answering:
    """Writes the answer to one request. Nothing is sent before the first event, the result, or the error."""

    def __init__(self, send: Send, head: Head) -> None:
        self.head = head
        self.streams = False
        """Whether the client asked for a stream."""
        self._send = send
        self._stream: EventStream | None = None
        self._events = 0

    async def event(self, event: bytes) -> None:
        """Send one event (JSON), with backpressure."""
        if not self.streams:
            raise UpstreamProtocolError("the model streams an answer that was asked for as a whole")
        if self._stream is None:
            self._stream = EventStream(self._send, self.head.lines)
        self._events += 1
        await self._stream.write(framed(self.head.api, one_line(event), _kind_of(self.head.api, event)))

    async def keep_alive(self) -> None:
        """Show that a stream is alive. Before it has begun nothing is sent: its status may yet be another."""
        if self._stream is not None:
            await self._stream.keep_alive()

    async def result(self, result: Result, params: Mapping[str, object]) -> None:
        """Send a whole answer, or the end of a stream."""
        if self._stream is not None:
            # An answer that broke has said so in its last event already.
            await self._stream.close(last_frame(self.head.api) if result.outcome == "ok" else b"")
        elif result.outcome != "ok":
            await respond(self._send, 502, (JSON, *self.head.lines), result.payload)
        elif self.streams:
            head = _chosen(self.head.lines, result.headers)
            for frame in self._as_frames(result, params):
                await self._written(frame, head)
            await self._written(last_frame(self.head.api), head, last=True)
        else:
            headers = _chosen(self.head.lines, result.headers)
            await respond(self._send, 200, (JSON, *headers), result.payload)

    async def error(self, error: InterlockError) -> None:
        """Tell a refusal or a failure: as the response, or as the last event of a stream."""
        if self._stream is not None:
            event = error_event(self.head.api, error, self._events)
            await self._stream.close(framed(self.head.api, codec.dumps(event), event.get("type")))
            return
        reply = reply_to(self.head.api, error)
        self.head.decision_id = getattr(error, "decision_id", "") or self.head.decision_id
        await respond(self._send, reply.status, (*reply.headers, *self.head.lines), reply.body)

    def _as_frames(self, result: Result, params: Mapping[str, object]) -> Iterator[bytes]:
        """An answer that policy wanted whole, for a client that wants a stream."""
        try:
            answer = codec.loads(result.payload)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise UpstreamProtocolError("the model's answer is no JSON object any more")
        talk = cast("Talk", self.head.api)
        events: Iterator[JsonObject] = as_stream(talk, answer, params)
        for event in events:
            yield framed(talk, codec.dumps(event), event.get("type"))

    async def _written(self, data: bytes, head: tuple[Header, ...], *, last: bool = False) -> None:
        if self._stream is None:
            self._stream = EventStream(self._send, head)
        await (self._stream.close(data) if last else self._stream.write(data))


def _chosen(lines: tuple[Header, ...], more: tuple[Header, ...]) -> tuple[Header, ...]:
    """The head, with what whoever carried the call out says better: which model answered."""
    better = dict(more)
    return (*[line for line in lines if line[0] not in better], *more)


def _kind_of(api: Api, event: bytes) -> str:
    if api not in {"messages", "responses"}:
        return ""
    try:
        value = codec.loads(event)
    except ValueError:
        return ""
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) and kind.isprintable() else ""


class ModelExchange:
    """A client of a model API during one call: it takes events, if it asked for them, and no questions."""

    era = Era.MODERN
    capabilities: Mapping[str, object] = EMPTY
    log_level = ""
    wants_progress = False

    def __init__(self, owner: str, answering: Answering, slot: Slot) -> None:
        self.owner = owner
        self._answering = answering
        self._slot = slot

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        """What is said of the answer before it begins stands in its head; nothing else has a place."""
        data = params.get("data")
        if params.get("logger") == ROUTING and isinstance(data, Mapping):
            head = self._answering.head
            for name in ("model", "route", "cache"):
                setattr(head, name, str(data.get(name) or getattr(head, name)))

    async def emit(self, event: bytes) -> None:
        self._slot.heard(event)
        await self._answering.event(event)

    async def ask(self, call: Call) -> Result:
        raise InvalidCall(f"a client of a model cannot be asked: nobody answers {call.method}")
