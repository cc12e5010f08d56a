"""The HTTP side of one request: reading the body within its limit, answering, and noticing that the client left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, TypeAlias

Scope: TypeAlias = MutableMapping[str, object]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, object]]]
Send: TypeAlias = Callable[[MutableMapping[str, object]], Awaitable[None]]
Headers: TypeAlias = dict[bytes, list[bytes]]
Header: TypeAlias = tuple[bytes, bytes]

JSON: Final[Header] = (b"content-type", b"application/json")
EVENT_STREAM: Final[tuple[Header, ...]] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)

WATCH_AFTER_S: Final = 0.05
"""A call that is done sooner is not watched for its client's leaving: the watch would cost more than the rest."""
KEEP_ALIVE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One JSON response as bytes, with its HTTP status and extra headers."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = ()


class BodyTooLarge(Exception):
    """The request body is larger than the configured limit."""


class ClientLeft(Exception):
    """The client closed the connection while its request was being read."""


def headers_of(scope: Scope) -> Headers:
    """Header lines by lower-case name, repeated ones kept apart."""
    headers: Headers = {}
    for name, value in scope["headers"]:  # type: ignore[attr-defined]  # ASGI: an iterable of byte pairs
        value = value.rstrip(b" \t")  # noqa: PLW2901  # RFC 9110 section 5.5: white space is not part of the value
        if name in headers:
            headers[name].append(value)
        else:
            headers[name] = [value]
    return headers


def one(headers: Headers, name: bytes) -> str:
    """The only value of a header; empty when it is absent."""
    values = headers.get(name)
    return values[0].decode("latin-1") if values else ""


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """The whole body. Raises `BodyTooLarge` as soon as it exceeds `max_bytes`."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeft
        chunk = message.get("body", b"")
        if isinstance(chunk, bytes) and chunk:
            size += len(chunk)
            if size > max_bytes:
                raise BodyTooLarge
            chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def respond(send: Send, status: int, headers: Iterable[Header], body: bytes) -> None:
    """One complete response."""
    lines = list(headers)
    if status != 204:  # RFC 9110 section 8.6: there it must not stand
        lines.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, reply: Reply) -> None:
    """One complete JSON response."""
    await respond(send, reply.status, (JSON, *reply.headers), reply.body)


class EventStream:
    """A response that becomes a stream of Server-Sent Events with the first thing written to it."""

    def __init__(self, send: Send, headers: Iterable[Header] = ()) -> None:
        self._send = send
        self._headers = tuple(headers)
        self._lock = asyncio.Lock()
        self.open = False
        self.closed = False

    async def write(self, data: bytes) -> None:
        """Send bytes, with backpressure: returns once the transport takes more."""
        async with self._lock:
            if self.closed:
                return
            if not self.open:
                self.open = True
                headers = [*EVENT_STREAM, *self._headers]
                await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def keep_alive(self) -> None:
        """Send a comment, so that nobody between the ends takes a long call for a dead connection."""
        await self.write(b": keep-alive\n\n")

    async def close(self, data: bytes = b"") -> None:
        """End the stream, after `data`."""
        async with self._lock:
            if self.open and not self.closed:
                self.closed = True
                await self._send({"type": "http.response.body", "body": data, "more_body": False})


class ClientWatch:
    """Cancels the surrounding block when the client leaves, and keeps a silent connection alive.

    Leaving the block by that cancellation is quiet: `left` says that it happened. The watch starts only for calls
    that take longer than `WATCH_AFTER_S`.
    """

    def __init__(self, receive: Receive, keep_alive: Callable[[], Awaitable[None]] | None = None) -> None:
        self._receive = receive
        self._keep_alive = keep_alive
        self._task: asyncio.Task[None] | None = None
        self.left = False

    def __enter__(self) -> ClientWatch:
        loop = asyncio.get_running_loop()
        victim = asyncio.current_task(loop)
        self._timer = loop.call_later(WATCH_AFTER_S, self._begin, loop, victim)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if not self.left:
            return False
        task = asyncio.current_task()
        remaining = task.uncancel() if task is not None else 0
        return kind is asyncio.CancelledError and remaining == 0

    def _begin(self, loop: asyncio.AbstractEventLoop, victim: asyncio.Task[object] | None) -> None:
        # The one bare task of the listeners: a task group per call would cost a fifth of the call. It never outlives
        # the block, because leaving the block cancels it.
        self._task = loop.create_task(self._watch(victim))

    async def _watch(self, victim: asyncio.Task[object] | None) -> None:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    message = await self._receive()
            except TimeoutError:
                if self._keep_alive is not None:
                    await self._keep_alive()
                continue
            if message["type"] == "http.disconnect":
                break
        self.left = True
        if victim is not None:
            victim.cancel()
