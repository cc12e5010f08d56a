"""A server that misbehaves on purpose, one named fault at a time, over HTTP or stdio, in either era.

    python -m tests.servers.faulty stdio [--fault METHOD=FAULT ...] [--record FILE]
    python -m tests.servers.faulty http --port N [...]

Calling the tool named like a fault commits it; `--fault tools/list=changing` makes a whole method misbehave. The tool
`fine` works. Faults: see `FAULTS`, `LINES` and `BODIES`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.servers.wire import (
    METHOD_NOT_FOUND,
    Journal,
    Message,
    Refused,
    answer,
    decode,
    encode,
    event,
    lines_in,
    mapping,
    notice,
    raw_out,
    refusal,
    text,
    tool,
)

MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
MIB: Final = 1024 * 1024
HUGE_MIB: Final = 100
DRIP_S: Final = 0.05

FAULTS: Final = (
    "garbage",  # bytes that are no JSON
    "binary",  # bytes that are no UTF-8
    "html",  # a web page with status 200
    "empty",  # nothing at all
    "array",  # JSON, but no message
    "huge",  # a result of 100 MB
    "deep",  # 100,000 nested arrays
    "hang",  # no answer, ever
    "die",  # the process ends in the middle of the call
    "cut",  # the connection ends in the middle of the answer
    "drip",  # one byte at a time, without end
    "chatter",  # notifications without end, never an answer
    "wrong_id",  # an answer to another request
    "twice",  # two answers
    "wrong_version",  # JSON-RPC 1.0
    "no_result",  # neither result nor error
    "not_a_result",  # the result is a string
    "bad_error",  # the error is not an object
    "bad_content",  # content blocks of no known shape
    "stranger",  # a request of the server's own in the middle of the call
    "noise",  # stdio: a line of log output on standard output, then a good answer
    "redirect",  # HTTP: 307 to another origin
    "status_500",  # HTTP: status 500 without a body
    "status_401",  # HTTP: asks for credentials
    "changing",  # another definition each time (for lists)
    "endless",  # a next page without end (for lists)
    "duplicate",  # the same name twice (for lists)
)
ELSEWHERE: Final = "http://198.51.100.7/mcp"


@dataclass
class Faulty:
    """Which methods misbehave, and what was seen so far."""

    faults: Mapping[str, str] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)
    lists: int = 0

    def fault_of(self, message: Message) -> str:
        """The fault that this request commits; empty for none."""
        method = str(message.get("method"))
        name = mapping(message.get("params")).get("name")
        if method == "tools/call" and name in FAULTS:
            return str(name)
        return self.faults.get(method, "")

    def good(self, message: Message) -> Message:
        """The answer of a server that works."""
        handler = METHODS.get(str(message.get("method")))
        try:
            if handler is None:
                raise Refused(METHOD_NOT_FOUND, "Method not found", status=404)
            return answer(message["id"], handler(self, mapping(message.get("params"))))
        except Refused as fault:
            return refusal(message["id"], fault)


def _initialize(server: Faulty, params: Mapping[str, object]) -> Message:
    info = {"name": "faulty", "version": "1.0.0"}
    return {"protocolVersion": LEGACY, "capabilities": {"tools": {"listChanged": True}}, "serverInfo": info}


def _discover(server: Faulty, params: Mapping[str, object]) -> Message:
    capabilities = {"tools": {"listChanged": True}}
    fresh: Message = {"ttlMs": 0, "cacheScope": "private"}
    return {"resultType": "complete", "supportedVersions": [MODERN], "capabilities": capabilities, **fresh}


def _list(server: Faulty, params: Mapping[str, object]) -> Message:
    server.lists += 1
    fault = server.faults.get("tools/list")
    changing = f"version {server.lists}" if fault == "changing" else "works"
    tools = [tool("fine", changing), *(tool(name, f"commits {name}") for name in FAULTS)]
    page: Message = {"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private"}
    if fault == "duplicate":
        return {**page, "tools": [*tools, tool("fine", "the other one")]}
    return {**page, "nextCursor": str(server.lists)} if fault == "endless" else page


def _call(server: Faulty, params: Mapping[str, object]) -> Message:
    return {"resultType": "complete", **text("fine")}


METHODS: Final[dict[str, Callable[[Faulty, Mapping[str, object]], Message]]] = {
    "initialize": _initialize,
    "ping": lambda server, params: {},
    "server/discover": _discover,
    "tools/list": _list,
    "tools/call": _call,
}

_OTHER_ID: Final = "nobody-asked"


def _result(message: Message, result: object) -> bytes:
    return encode({"jsonrpc": "2.0", "id": message["id"], "result": result})


# Faults that are one wrong message: the bytes that go out instead of the good answer.
LINES: Final[dict[str, Callable[[Message, Message], bytes]]] = {
    "garbage": lambda message, good: b"%PDF-1.4 {this is not JSON",
    "binary": lambda message, good: b'{"jsonrpc":"2.0","id":1,"result":{"text":"\xff\xfe\x80"}}',
    "html": lambda message, good: b"<!doctype html><title>It works!</title>",
    "empty": lambda message, good: b"",
    "array": lambda message, good: b"[1, 2, 3]",
    "huge": lambda message, good: _result(message, text("x" * (HUGE_MIB * MIB))),
    "deep": lambda message, good: b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "wrong_id": lambda message, good: encode({**good, "id": _OTHER_ID}),
    "wrong_version": lambda message, good: encode({**good, "jsonrpc": "1.0"}),
    "no_result": lambda message, good: encode({"jsonrpc": "2.0", "id": message["id"]}),
    "not_a_result": lambda message, good: _result(message, "done"),
    "bad_error": lambda message, good: encode({"jsonrpc": "2.0", "id": message["id"], "error": "no"}),
    "bad_content": lambda message, good: _result(message, {"content": [{"type": 7}, "text", None]}),
}


async def _hang() -> None:
    await anyio.sleep_forever()


def _die() -> None:
    sys.stderr.write("faulty: dying on purpose\n")
    sys.stderr.flush()
    os._exit(7)


async def over_stdio(server: Faulty) -> None:
    """Serve the client at the other end of the standard streams, one request after the other starting at once."""
    async with anyio.create_task_group() as tasks:
        async for line in lines_in():
            message = decode(line)
            if "id" in message and "method" in message:
                tasks.start_soon(_answer_line, server, message)
        tasks.cancel_scope.cancel()


async def _answer_line(server: Faulty, message: Message) -> None:
    fault = server.fault_of(message)
    server.journal.note("called", method=message["method"], fault=fault)
    good = server.good(message)
    if fault in LINES:
        raw_out(LINES[fault](message, good) + b"\n")
    elif fault in STDIO:
        await STDIO[fault](message, good)
    else:
        raw_out(encode(good) + b"\n")


async def _line_hang(message: Message, good: Message) -> None:
    await _hang()


async def _line_die(message: Message, good: Message) -> None:
    _die()


async def _line_cut(message: Message, good: Message) -> None:
    raw_out(encode(good)[:20])
    _die()


async def _line_drip(message: Message, good: Message) -> None:
    raw_out(b'{"jsonrpc":"2.0","result":"')
    while True:
        raw_out(b"x")
        await anyio.sleep(DRIP_S)


async def _line_chatter(message: Message, good: Message) -> None:
    while True:
        raw_out(encode(_chat()) + b"\n")
        await anyio.sleep(DRIP_S)


def _chat() -> Message:
    return notice("notifications/message", {"level": "info", "data": time.monotonic()})


async def _line_twice(message: Message, good: Message) -> None:
    raw_out((encode(good) + b"\n") * 2)


async def _line_stranger(message: Message, good: Message) -> None:
    raw_out(encode({"jsonrpc": "2.0", "id": "s1", "method": "roots/list"}) + b"\n" + encode(good) + b"\n")


async def _line_noise(message: Message, good: Message) -> None:
    raw_out(b"INFO: starting up, please wait ...\n" + encode(good) + b"\n")


STDIO: Final = {
    "hang": _line_hang,
    "die": _line_die,
    "cut": _line_cut,
    "drip": _line_drip,
    "chatter": _line_chatter,
    "twice": _line_twice,
    "stranger": _line_stranger,
    "noise": _line_noise,
}


async def _body_drip(good: Message) -> AsyncIterator[bytes]:
    yield b'{"jsonrpc":"2.0","result":"'
    while True:
        await anyio.sleep(DRIP_S)
        yield b"x"


async def _body_chatter(good: Message) -> AsyncIterator[bytes]:
    while True:
        yield event(_chat())
        await anyio.sleep(DRIP_S)


async def _body_twice(good: Message) -> AsyncIterator[bytes]:
    yield event(good) + event(good)


async def _body_stranger(good: Message) -> AsyncIterator[bytes]:
    yield event({"jsonrpc": "2.0", "id": "s1", "method": "roots/list"}) + event(good)


async def _body_cut(good: Message) -> AsyncIterator[bytes]:
    yield encode(good)[:20]
    raise ConnectionAbortedError("cutting the answer on purpose")


# Faults that last: the body and its content type.
BODIES: Final = {
    "drip": (_body_drip, "application/json"),
    "chatter": (_body_chatter, "text/event-stream"),
    "twice": (_body_twice, "text/event-stream"),
    "stranger": (_body_stranger, "text/event-stream"),
    "cut": (_body_cut, "application/json"),
}
STATUSES: Final = {
    "redirect": partial(Response, status_code=307, headers={"location": ELSEWHERE}),
    "status_500": partial(Response, status_code=500),
    "status_401": partial(Response, status_code=401, headers={"www-authenticate": "Bearer"}),
}


def over_http(server: Faulty) -> Starlette:
    """Serve any client at `/mcp`, without sessions."""

    async def endpoint(request: Request) -> Response:
        message = decode(await request.body())
        if "id" not in message or "method" not in message:
            return Response(status_code=202)
        fault = server.fault_of(message)
        server.journal.note("called", method=message["method"], fault=fault)
        return await _respond(fault, message, server.good(message))

    return Starlette(routes=[Route("/mcp", endpoint, methods=["POST"])])


async def _respond(fault: str, message: Message, good: Message) -> Response:
    if fault == "hang":
        await _hang()
    if fault == "die":
        _die()
    if fault in LINES:
        media_type = "text/html" if fault == "html" else "application/json"
        return Response(LINES[fault](message, good), media_type=media_type)
    if fault in BODIES:
        body, media_type = BODIES[fault]
        return StreamingResponse(body(good), media_type=media_type)
    if fault in STATUSES:
        return STATUSES[fault]()
    return Response(encode(good), media_type="application/json")


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.faulty")
    parser.add_argument("transport", choices=["stdio", "http"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--fault", action="append", default=[], metavar="METHOD=FAULT")
    options = parser.parse_args()
    faults = dict(fault.split("=", 1) for fault in options.fault)
    server = Faulty(faults, Journal(options.record))
    if options.transport == "stdio":
        anyio.run(over_stdio, server)
    else:
        uvicorn.run(over_http(server), host="127.0.0.1", port=options.port, log_level="critical")


if __name__ == "__main__":
    main()
