"""HTTP upstreams that do exactly what a test tells them to, byte by byte, on real sockets."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSListener

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead)


@dataclass(frozen=True)
class Request:
    head: bytes
    body: bytes
    connection: int


@dataclass
class Served:
    """What an upstream has seen so far."""

    port: int = 0
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    closed: anyio.Event = field(default_factory=anyio.Event)
    """Set when the first connection has ended."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


class Conversation:
    """The upstream's side of one connection."""

    def __init__(self, stream: ByteStream, served: Served) -> None:
        self.stream = stream
        self.number = served.connections
        self._reader = BufferedByteReceiveStream(stream)
        self._served = served

    async def request(self) -> Request:
        head = await self._reader.receive_until(b"\r\n\r\n", 100_000)
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        body = await self._reader.receive_exactly(length) if length else b""
        request = Request(head, body, self.number)
        self._served.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def until_closed(self) -> None:
        """Wait until the gateway's side ends."""
        while True:
            await self.stream.receive()


Handler: TypeAlias = Callable[[Conversation], Awaitable[None]]


@asynccontextmanager
async def upstream(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Served]:
    """Serve each connection with `handler`; it is closed when the handler returns."""
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    listener = plain if tls is None else TLSListener(plain, tls, standard_compatible=False)
    served = Served(plain.extra(anyio.abc.SocketAttribute.local_port), "http" if tls is None else "https")

    async def handle(stream: ByteStream) -> None:
        served.connections += 1
        try:
            async with stream:
                await handler(Conversation(stream, served))
        except GONE:
            pass
        finally:
            served.closed.set()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield served
        tasks.cancel_scope.cancel()


async def answer_all(conversation: Conversation) -> None:
    """Answer each request with an empty JSON object."""
    while True:
        await conversation.request()
        await conversation.send(OK)


def answering(data: bytes, *, close: bool = False) -> Handler:
    """Answer each request with these bytes; with `close`, end the connection after the first."""

    async def handler(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.send(data)
            if close:
                return

    return handler
