"""A line to a server that a test can cut, hold up or fill with nonsense while both ends are running."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

Mode: TypeAlias = Literal["pass", "refuse", "hang", "garbage", "torn", "list", "lie"]


def _json(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    return head + b"%d\r\n\r\n" % len(body) + body


ANSWERS: Mapping[Mode, bytes] = {
    "hang": b"",
    "garbage": b"\x16\x03\x01 this is no answer \xff\xfe\r\n\r\n",
    "torn": _json(b'{"result": {"decision": tru'),
    "list": _json(b'[{"decision": true}]'),
    "lie": _json(b'{"result": "yes"}'),
}
_OVER = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


@dataclass
class Line:
    """`mode` says what happens to what the client sends from now on, on connections that are open too."""

    port: int = 0
    mode: Mode = "pass"
    to: int = 0
    """The port that new connections lead to."""
    requests: list[str] = field(default_factory=list)
    """The first line of each piece that looked like an HTTP request."""

    @property
    def url(self) -> str:
        """Where the client is to connect to."""
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def line_to(port: int) -> AsyncIterator[Line]:
    """A line to what listens on that port of loopback."""
    line = Line(to=port)

    async def serve(client: SocketStream) -> None:
        async with client:
            if line.mode == "refuse":
                return
            try:
                server = await anyio.connect_tcp("127.0.0.1", line.to)
            except OSError:
                return
            async with server, anyio.create_task_group() as group:
                group.start_soon(_pump, server, client, group.cancel_scope)
                await _requests(line, client, server)
                group.cancel_scope.cancel()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        line.port = listener.extra(SocketAttribute.local_port)
        group.start_soon(listener.serve, serve)
        yield line
        group.cancel_scope.cancel()


async def _requests(line: Line, client: ByteStream, server: ByteStream) -> None:
    try:
        while True:
            data = await client.receive()
            line.requests += [head for head in [data.split(b"\r\n")[0].decode(errors="replace")] if " HTTP/" in head]
            if line.mode == "refuse":
                return
            if line.mode == "pass":
                await server.send(data)
            elif ANSWERS[line.mode]:
                await client.send(ANSWERS[line.mode])
    except _OVER:
        return


async def _pump(source: ByteStream, target: ByteStream, scope: anyio.CancelScope) -> None:
    try:
        while True:
            await target.send(await source.receive())
    except _OVER:
        scope.cancel()
