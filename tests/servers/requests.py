"""Modern requests as a server sees them: no session, everything in the request itself (2026-07-28), HTTP or stdio."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tests.servers.streams import Channel, EventStream, headers_of, json_answer
from tests.servers.wire import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Emit,
    Journal,
    Message,
    Refused,
    answer,
    decode,
    line_out,
    lines_in,
    mapping,
    notice,
    refusal,
)

VERSION: Final = "2026-07-28"
PREFIX: Final = "io.modelcontextprotocol/"
HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022

_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@dataclass(frozen=True)
class Asked:
    """One request with what its envelope says. `emit` writes to its own stream."""

    id: object
    method: str
    params: Mapping[str, object]
    emit: Emit
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def meta(self) -> Mapping[str, object]:
        """The `_meta` of the request."""
        return mapping(self.params.get("_meta"))

    @property
    def capabilities(self) -> Mapping[str, object]:
        """What the client declared with this request."""
        return mapping(self.meta.get(PREFIX + "clientCapabilities"))

    @property
    def arguments(self) -> Mapping[str, object]:
        """The arguments of the tool or prompt."""
        return mapping(self.params.get("arguments"))

    @property
    def responses(self) -> Mapping[str, object]:
        """The client's answers to the questions of the last round."""
        return mapping(self.params.get("inputResponses"))

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Send a notification that belongs to this request."""
        self.emit(notice(method, params))

    def need(self, capability: str) -> None:
        """Go on only if the client declared the capability (`-32021` otherwise)."""
        if capability not in self.capabilities:
            required: Message = {"requiredCapabilities": {capability: {}}}
            raise Refused(MISSING_CAPABILITY, f"needs the client's {capability}", data=required, status=400)


class Server(Protocol):
    """What a modern server does with a request."""

    journal: Journal

    def streams(self, asked: Asked) -> bool:
        """Whether the answer comes as a stream of events over HTTP."""

    async def serve(self, asked: Asked) -> Mapping[str, object]:
        """The result. Raises `Refused`."""


def check_envelope(asked: Asked) -> None:
    """What every request must carry (basic/index, "Request metadata")."""
    if asked.method == "initialize":
        raise Refused(METHOD_NOT_FOUND, "Method not found: initialize", status=404)
    version = asked.meta.get(PREFIX + "protocolVersion")
    if version is None or PREFIX + "clientCapabilities" not in asked.meta:
        raise Refused(INVALID_PARAMS, "_meta lacks protocolVersion or clientCapabilities", status=400)
    if version != VERSION:
        data = {"supported": [VERSION], "requested": version}
        raise Refused(UNSUPPORTED_VERSION, "Unsupported protocol version", data=data, status=400)


def check_headers(asked: Asked) -> None:
    """The headers must say what the body says (basic/transports/streamable-http, "Standard request headers")."""
    expected = {"mcp-protocol-version": VERSION, "mcp-method": asked.method}
    if asked.method in _NAMED:
        expected["mcp-name"] = str(asked.params.get(_NAMED[asked.method]))
    for name, value in expected.items():
        if plain(asked.headers.get(name, "")) != value:
            raise Refused(HEADER_MISMATCH, f"{name} does not match the body", status=400)


def plain(value: str) -> str:
    """A header's value with the sentinel form `=?base64?...?=` undone."""
    if value.startswith("=?base64?") and value.endswith("?="):
        return base64.b64decode(value[9:-2], validate=True).decode()
    return value


async def _run(server: Server, asked: Asked, done: Callable[[], None]) -> None:
    try:
        check_envelope(asked)
        asked.emit(answer(asked.id, await server.serve(asked)))
    except Refused as fault:
        asked.emit(refusal(asked.id, fault))
    except anyio.get_cancelled_exc_class():
        server.journal.note("cancelled", id=asked.id, method=asked.method, name=asked.params.get("name"))
        raise
    finally:
        done()


async def over_stdio(server: Server) -> None:
    """Serve the client at the other end of the standard streams."""
    running: dict[object, anyio.CancelScope] = {}

    async def one(asked: Asked) -> None:
        with anyio.CancelScope() as scope:
            running[asked.id] = scope
            await _run(server, asked, lambda: None)
        running.pop(asked.id, None)

    async with anyio.create_task_group() as tasks:
        async for line in lines_in():
            message = decode(line)
            params = mapping(message.get("params"))
            if message.get("method") == "notifications/cancelled":
                server.journal.note("notified", method=message["method"], params=dict(params))
                running.get(params.get("requestId"), anyio.CancelScope()).cancel()
            elif "id" in message and "method" in message:
                tasks.start_soon(one, Asked(message["id"], str(message["method"]), params, line_out))
        tasks.cancel_scope.cancel()


def over_http(server: Server) -> Starlette:
    """Serve requests at `/mcp`; there are no sessions, so only POST."""
    groups: list[TaskGroup] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            groups.append(group)
            yield
            group.cancel_scope.cancel()

    async def endpoint(request: Request) -> Response:
        # Starlette calls whatever an endpoint returns as an ASGI application.
        return await _post(server, request, groups[0])  # type: ignore[return-value]  # an ASGI app serves as a response

    return Starlette(routes=[Route("/mcp", endpoint, methods=["POST"])], lifespan=lifespan)


async def _post(server: Server, request: Request, tasks: TaskGroup) -> ASGIApp:
    message = decode(await request.body())
    if "method" not in message or "id" not in message:
        return Response(status_code=202)
    channel = Channel()
    params = mapping(message.get("params"))
    asked = Asked(message["id"], str(message["method"]), params, channel.emit, headers_of(request))
    try:
        check_envelope(asked)
        check_headers(asked)
        if not server.streams(asked):
            return json_answer(answer(asked.id, await server.serve(asked)))
    except Refused as fault:
        return json_answer(refusal(asked.id, fault), fault.status)
    scope = anyio.CancelScope()

    async def stream() -> None:
        with scope:
            await _run(server, asked, channel.close)

    tasks.start_soon(stream)
    return EventStream(channel, on_leave=scope.cancel)
