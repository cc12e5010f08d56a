"""A client that drives an ASGI application in this process: no socket, no thread, no sleep."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

Json: TypeAlias = dict[str, Any]
Header: TypeAlias = tuple[bytes, bytes]
Asgi: TypeAlias = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]

DEADLINE_S: Final = 5.0
LOCAL: Final = ("127.0.0.1", 50_000)


@dataclass
class Answer:
    """One HTTP response, as far as it has come."""

    status: int = 0
    headers: list[Header] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False

    def header(self, name: str) -> str:
        """The value of a header; empty when it is absent."""
        found = [value for key, value in self.headers if key == name.encode()]
        assert len(found) <= 1, f"{name} came {len(found)} times"
        return found[0].decode() if found else ""

    @property
    def is_stream(self) -> bool:
        return self.header("content-type") == "text/event-stream"

    @property
    def messages(self) -> list[Json]:
        """Every JSON-RPC message: the body, or the events of the stream so far."""
        if not self.is_stream:
            return [json.loads(self.body)]
        return [json.loads(data) for event in self.body.split(b"\n\n") if (data := data_of(event))]

    @property
    def message(self) -> Json:
        """The last message, which is the response once the answer is complete."""
        return self.messages[-1]

    @property
    def result(self) -> Json:
        found: Json = self.message["result"]
        return found

    @property
    def error(self) -> Json:
        found: Json = self.message["error"]
        return found


def data_of(event: bytes) -> bytes:
    """What an event of a stream carries; nothing for a comment."""
    return b"\n".join(line[6:] for line in event.split(b"\n") if line.startswith(b"data: "))


@dataclass
class Exchange:
    """An open request: what has come so far, and how to leave."""

    answer: Answer
    _events: MemoryObjectReceiveStream[None]
    _left: anyio.Event
    _done: anyio.Event

    async def message(self, number: int) -> Json:
        """The message of that number (from 0), as soon as it is there."""
        await self._until(lambda: self.answer.is_stream and len(self.answer.messages) > number)
        return self.answer.messages[number]

    async def opened(self) -> None:
        """Return once the response has begun."""
        await self._until(lambda: self.answer.status != 0)

    async def grown(self, size: int) -> None:
        """Return once this many bytes of the body are there."""
        await self._until(lambda: len(self.answer.body) >= size)

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    async def finished(self) -> Answer:
        """The answer, once the application is done with the request."""
        with anyio.fail_after(DEADLINE_S):
            await self._done.wait()
        return self.answer

    async def _until(self, reached: Callable[[], bool]) -> None:
        with anyio.fail_after(DEADLINE_S):
            while not reached():
                await self._events.receive()


@asynccontextmanager
async def opened(
    app: Asgi,
    body: bytes = b"",
    headers: Iterable[Header] = (),
    *,
    method: str = "POST",
    path: str = "/mcp",
    client: tuple[str, int] | None = LOCAL,
) -> AsyncIterator[Exchange]:
    """Send a request and look at its answer while it comes. Leaving the block leaves the request."""
    put, events = anyio.create_memory_object_stream[None](10_000)
    exchange = Exchange(Answer(), events, anyio.Event(), anyio.Event())
    chunks = [body]

    async def receive() -> MutableMapping[str, Any]:
        if chunks:
            return {"type": "http.request", "body": chunks.pop(), "more_body": False}
        await exchange._left.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if exchange._left.is_set():
            return  # as an ASGI server does with what nobody reads any more
        _take(exchange.answer, message)
        put.send_nowait(None)

    async def run() -> None:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": list(headers),
            "client": client,
            "query_string": b"",
            "scheme": "http",
            "server": ("127.0.0.1", 8080),
            "root_path": "",
            "http_version": "1.1",
        }
        try:
            await app(scope, receive, send)
        finally:
            exchange._done.set()

    with put, events:
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            yield exchange
            exchange.leave()
            await exchange.finished()


def _take(answer: Answer, message: MutableMapping[str, Any]) -> None:
    if message["type"] == "http.response.start":
        assert answer.status == 0, "a second response began"
        answer.status, answer.headers = message["status"], list(message["headers"])
        return
    assert answer.status, "a body came before its response"
    assert not answer.complete, "more came after the end"
    answer.body += message.get("body", b"")
    answer.complete = not message.get("more_body", False)


async def fetch(
    app: Asgi,
    body: bytes = b"",
    headers: Iterable[Header] = (),
    *,
    method: str = "POST",
    path: str = "/mcp",
    client: tuple[str, int] | None = LOCAL,
) -> Answer:
    """Send a request and wait for the whole answer."""
    async with opened(app, body, headers, method=method, path=path, client=client) as exchange:
        return await exchange.finished()
