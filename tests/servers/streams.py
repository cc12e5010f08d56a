"""ASGI pieces: a request's body, a JSON answer, and a stream of events that somebody else fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.servers.wire import Emit, Message, encode, event

KEEP_ALIVE_S = 5.0


class Channel:
    """Messages on their way to one stream of events. What is sent after the reader left is lost."""

    def __init__(self) -> None:
        self._in: MemoryObjectSendStream[Message]
        self.out: MemoryObjectReceiveStream[Message]
        self._in, self.out = anyio.create_memory_object_stream[Message](10_000)

    def emit(self, message: Message) -> None:
        """Put a message on the stream."""
        try:
            self._in.send_nowait(message)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    def close(self) -> None:
        """End the stream once it is read to its end."""
        self._in.close()


class EventStream:
    """An ASGI answer that sends what comes out of a channel until it is closed or the client leaves."""

    def __init__(
        self, channel: Channel, headers: Mapping[str, str] | None = None, on_leave: Callable[[], None] | None = None
    ) -> None:
        self._channel = channel
        self._headers = {"content-type": "text/event-stream", "cache-control": "no-cache", **(headers or {})}
        self._on_leave = on_leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream."""
        headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, receive, tasks.cancel_scope)
            async with self._channel.out:
                await self._copy(send)
            tasks.cancel_scope.cancel()

    async def _copy(self, send: Send) -> None:
        while True:
            message: Message | None = None
            with anyio.move_on_after(KEEP_ALIVE_S) as waiting:
                try:
                    message = await self._channel.out.receive()
                except anyio.EndOfStream:
                    await send({"type": "http.response.body", "body": b""})
                    return
            body = b": keep-alive\n\n" if waiting.cancelled_caught or message is None else event(message)
            await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self._on_leave is not None:
            self._on_leave()
        scope.cancel()


def json_answer(message: Message, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """One message as the whole answer."""
    return Response(encode(message), status, dict(headers or {}), "application/json")


def headers_of(request: Request) -> dict[str, str]:
    """The headers as received, lower-case names."""
    return {name: value.strip() for name, value in request.headers.items()}


__all__ = ["Channel", "Emit", "EventStream", "headers_of", "json_answer"]
