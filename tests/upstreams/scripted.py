"""A legacy server over HTTP that does what a test says, request by request, on real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from tests.wire.upstreams import Conversation, upstream

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
"""The head of a stream that the end of the connection ends."""
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Seen:
    """One request. `method` is that of the message, or of HTTP where there is none."""

    method: str
    headers: Mapping[str, str]
    message: Mapping[str, Any]

    @property
    def session(self) -> str:
        return self.headers.get("mcp-session-id", "")


Answer = Callable[[Conversation, Seen], Awaitable[None]]


@dataclass
class Script:
    """What was asked so far, and how each method is answered."""

    answers: dict[str, Answer]
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    sessions: int = 0

    def count(self, method: str) -> int:
        return sum(seen.method == method for seen in self.seen)

    def last(self, method: str) -> Seen:
        return next(seen for seen in reversed(self.seen) if seen.method == method)


def body(status: str, content: bytes, *headers: str, kind: str = "application/json") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(content)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def result_for(seen: Seen, result: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": seen.message["id"], "result": result}).encode()


def text_for(seen: Seen, text: str) -> bytes:
    return result_for(seen, {"content": [{"type": "text", "text": text}]})


def error_for(seen: Seen, code: int, message: str) -> bytes:
    return json.dumps(
        {"jsonrpc": "2.0", "id": seen.message.get("id"), "error": {"code": code, "message": message}}
    ).encode()


def event(data: bytes, event_id: str = "", retry_ms: int | None = None) -> bytes:
    lines = ([f"id: {event_id}"] if event_id else []) + ([f"retry: {retry_ms}"] if retry_ms is not None else [])
    return "".join(line + "\n" for line in lines).encode() + b"data: " + data + b"\n\n"


def question(method: str, number: object = "s1", **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()


def notice(method: str, **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode()


async def pace(seconds: float) -> None:
    """What a server does between two messages, and a test that shows that nothing happens."""
    with anyio.move_on_after(seconds):
        await anyio.sleep_forever()


def says(status: str, content: bytes = b"", *headers: str) -> Answer:
    """Always the same answer."""

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(body(status, content, *headers))

    return answer


def gives(result: object, *headers: str) -> Answer:
    """Always the same result."""

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(body("200 OK", result_for(seen, result), *headers))

    return answer


def streams(*pieces: Callable[[Seen], bytes]) -> Answer:
    """A stream of these pieces, then its end."""

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM + b"".join(piece(seen) for piece in pieces))
        await conversation.stream.aclose()

    return answer


INITIALIZED = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {"listChanged": True}, "resources": {"subscribe": True}, "logging": {}},
    "serverInfo": {"name": "scripted", "version": "1"},
}


def defaults(script: Script, initialized: object) -> dict[str, Answer]:
    """A legacy server with sessions and without a stream of its own."""

    async def initialize(conversation: Conversation, seen: Seen) -> None:
        script.sessions += 1
        await conversation.send(body("200 OK", result_for(seen, initialized), f"mcp-session-id: s{script.sessions}"))

    async def echo(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(body("200 OK", text_for(seen, seen.session)))

    return {
        "server/discover": says(
            "400 Bad Request", b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no"}}'
        ),
        "initialize": initialize,
        "notifications/initialized": says("202 Accepted"),
        "notifications/cancelled": says("202 Accepted"),
        "response": says("202 Accepted"),
        "logging/setLevel": gives({}),
        "tools/list": gives({"tools": []}),
        "resources/list": gives({"resources": []}),
        "resources/templates/list": gives({"resourceTemplates": []}),
        "resources/subscribe": gives({}),
        "tools/call": echo,
        "GET": says("405 Method Not Allowed"),
        "DELETE": says("204 No Content"),
    }


@asynccontextmanager
async def scripted(answers: Mapping[str, Answer] | None = None, *, initialized: object = None) -> AsyncIterator[Script]:
    """Run the server; `answers` replaces what it does by default."""
    script = Script({})
    script.answers = {**defaults(script, initialized or INITIALIZED), **(answers or {})}

    async def handler(conversation: Conversation) -> None:
        while True:
            request = await conversation.request()
            seen = _seen(request.head, request.body)
            script.seen.append(seen)
            await script.answers[seen.method](conversation, seen)

    async with upstream(handler) as served:
        script.url = served.url + "/mcp"
        yield script


def _seen(head: bytes, content: bytes) -> Seen:
    first, *lines = head.decode().strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    message = json.loads(content) if content else {}
    method = message.get("method") or ("response" if message else first.split(" ")[0])
    return Seen(method, headers, message)
