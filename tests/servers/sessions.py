"""Legacy clients as a server sees them: sessions with a back-channel, over Streamable HTTP (2025-11-25) or stdio."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import anyio
from anyio.abc import TaskGroup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tests.servers.streams import Channel, EventStream, headers_of, json_answer
from tests.servers.wire import (
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


@dataclass(eq=False)
class Session:
    """One client, from `initialize` to its end. `out` reaches it outside of any request."""

    id: str
    out: Emit
    params: Mapping[str, object] = field(default_factory=dict)
    level: str = "info"
    subscriptions: set[str] = field(default_factory=set)
    waiting: dict[str, asyncio.Future[Message]] = field(default_factory=dict)
    running: dict[object, anyio.CancelScope] = field(default_factory=dict)
    keys: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def emit(self, message: Message) -> None:
        """Send a message that belongs to no request."""
        self.out(message)

    @property
    def capabilities(self) -> Mapping[str, object]:
        """What the client declared."""
        return mapping(self.params.get("capabilities"))

    def settle(self, message: Message) -> None:
        """Hand the client's answer to whoever asked; an answer nobody waits for is dropped."""
        future = self.waiting.pop(str(message.get("id")), None)
        if future is not None and not future.done():
            future.set_result(message)


@dataclass(frozen=True)
class Call:
    """One request of a client. `emit` writes to the stream that will carry its answer."""

    session: Session
    id: object
    method: str
    params: Mapping[str, object]
    emit: Emit
    headers: Mapping[str, str] = field(default_factory=dict)

    async def ask(self, method: str, params: Mapping[str, object]) -> Mapping[str, object]:
        """Put a question to the client. Raises `Refused` with the client's own error."""
        key = f"ask-{next(self.session.keys)}"
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.session.waiting[key] = future
        self.emit({"jsonrpc": "2.0", "id": key, "method": method, "params": dict(params)})
        reply = await future
        if "error" in reply:
            error = mapping(reply["error"])
            raise Refused(-32603, f"the client answered {method} with {error.get('code')}: {error.get('message')}")
        return mapping(reply.get("result"))

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Send a notification that belongs to this call."""
        self.emit(notice(method, params))


class Server(Protocol):
    """What a server does with the requests of its sessions."""

    journal: Journal
    sessions: dict[str, Session]

    async def serve(self, call: Call) -> Mapping[str, object]:
        """The result of a request. Raises `Refused`."""

    def heard(self, session: Session, method: str, params: Mapping[str, object]) -> None:
        """A notification of the client."""


async def run_call(server: Server, call: Call, done: Callable[[], None]) -> None:
    """Answer one request on its stream, unless the client cancels it first."""
    with anyio.CancelScope() as scope:
        call.session.running[call.id] = scope
        try:
            call.emit(answer(call.id, await server.serve(call)))
        except Refused as fault:
            call.emit(refusal(call.id, fault))
        finally:
            call.session.running.pop(call.id, None)
            if scope.cancel_called:
                server.journal.note("cancelled", id=call.id, method=call.method, name=call.params.get("name"))
            done()


def take_message(server: Server, session: Session, message: Message) -> bool:
    """Deal with a notification or an answer of the client; False when the message is a request."""
    method = message.get("method")
    if not isinstance(method, str):
        session.settle(message)
        return True
    if "id" in message:
        return False
    params = mapping(message.get("params"))
    server.journal.note("notified", method=method, session=session.id, params=params)
    scope = session.running.get(params.get("requestId"))
    if method == "notifications/cancelled" and scope is not None:
        scope.cancel()
    server.heard(session, method, params)
    return True


def _call_of(session: Session, message: Message, emit: Emit, headers: Mapping[str, str] | None = None) -> Call:
    params = mapping(message.get("params"))
    return Call(session, message["id"], str(message["method"]), params, emit, headers or {})


async def over_stdio(server: Server) -> None:
    """Serve the one client at the other end of the standard streams."""
    session = Session("stdio", line_out)
    server.sessions[session.id] = session
    async with anyio.create_task_group() as tasks:
        async for line in lines_in():
            message = decode(line)
            if not take_message(server, session, message):
                tasks.start_soon(run_call, server, _call_of(session, message, line_out), _nothing)
        tasks.cancel_scope.cancel()


def _nothing() -> None:
    pass


def over_http(server: Server) -> Starlette:
    """Serve any number of clients at `/mcp`, each with a session."""
    tasks: list[TaskGroup] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            tasks.append(group)
            yield
            group.cancel_scope.cancel()

    async def endpoint(request: Request) -> Response:
        serve = {"POST": _post, "GET": _get, "DELETE": _delete}[request.method]
        # Starlette calls whatever an endpoint returns as an ASGI application.
        return await serve(server, request, tasks[0])  # type: ignore[return-value]  # an ASGI app serves as a response

    return Starlette(routes=[Route("/mcp", endpoint, methods=["GET", "POST", "DELETE"])], lifespan=lifespan)


_Serve = Callable[[Server, Request, TaskGroup], Awaitable[ASGIApp]]


async def _post(server: Server, request: Request, tasks: TaskGroup) -> ASGIApp:
    message = decode(await request.body())
    if message.get("method") == "initialize":
        return await _initialize(server, request, message)
    session = server.sessions.get(request.headers.get("mcp-session-id", ""))
    if session is None:
        return _no_session(message.get("id"))
    if take_message(server, session, message):
        return Response(status_code=202)
    channel = Channel()
    call = _call_of(session, message, channel.emit, headers_of(request))
    tasks.start_soon(run_call, server, call, channel.close)
    return EventStream(channel)


async def _initialize(server: Server, request: Request, message: Message) -> ASGIApp:
    session = Session(uuid.uuid4().hex, _nowhere)
    server.sessions[session.id] = session
    result = await server.serve(_call_of(session, message, _nowhere, headers_of(request)))
    return json_answer(answer(message["id"], result), headers={"mcp-session-id": session.id})


def _nowhere(message: Message) -> None:
    """Where messages go while the client has no stream open for them."""


async def _get(server: Server, request: Request, tasks: TaskGroup) -> ASGIApp:
    session = server.sessions.get(request.headers.get("mcp-session-id", ""))
    if session is None:
        return _no_session(None)
    channel = Channel()
    session.out = channel.emit
    server.journal.note("listening", session=session.id)
    return EventStream(channel)


async def _delete(server: Server, request: Request, tasks: TaskGroup) -> ASGIApp:
    session = server.sessions.pop(request.headers.get("mcp-session-id", ""), None)
    if session is None:
        return _no_session(None)
    server.journal.note("ended", session=session.id)
    return Response(status_code=204)


def _no_session(request_id: object) -> ASGIApp:
    return json_answer(refusal(request_id, Refused(-32001, "Session not found")), 404)
