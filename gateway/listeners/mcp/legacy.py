"""The legacy leg: sessions over Streamable HTTP (MCP 2025-03-26 to 2025-11-25, basic/transports)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from gateway import codec
from gateway.errors import ApprovalPending, InterlockError, InvalidCall, Unauthenticated, UpstreamProtocolError
from gateway.events import Event, Events
from gateway.listeners.http import ClientWatch, EventStream, Reply, one, respond, respond_json
from gateway.listeners.mcp.calls import MERGED, CallMaker
from gateway.listeners.mcp.envelope import Message
from gateway.listeners.mcp.holds import can_open, url_required
from gateway.listeners.mcp.inbound import Inbound, accepts_events, reaches, require_capability
from gateway.listeners.mcp.methods import LEGACY_VERSIONS, LOG_LEVELS, METHODS, Method
from gateway.listeners.mcp.quiet import Handler
from gateway.listeners.mcp.sessions import Session, Sessions, SessionUnknown, Terms
from gateway.listeners.mcp.wire import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    RpcError,
    event,
    notification,
    reply_of,
    reply_of_error,
    reply_of_rpc_error,
    success,
)
from gateway.ports import Identifier
from gateway.types import Call, Era, Identity, Result

log = logging.getLogger("interlock.mcp")

URLS_SINCE: Final = "2025-11-25"
"""The revision that brought elicitation by address."""
ANSWER_WITHIN_S: Final = 600.0
"""How long a person may take over a question before the call that asked it fails."""


class LegacyExchange:
    """A legacy client during one call: told and asked on the response stream of that call's own POST."""

    era = Era.LEGACY

    def __init__(self, session: Session, message: Message, stream: EventStream | None) -> None:
        self._session = session
        self._message = message
        self._stream = stream
        self.owner = session.terms.key
        self.capabilities: Mapping[str, object] = session.terms.capabilities

    @property
    def log_level(self) -> str:
        return self._session.log_level

    @property
    def wants_progress(self) -> bool:
        return self._stream is not None and _progress_token(self._message) is not None

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        if self._stream is None:
            return
        if method == "notifications/message" and not reaches(self.log_level or "debug", params.get("level")):
            return
        if method == "notifications/progress":
            token = _progress_token(self._message)
            if token is None:
                return
            params = {**params, "progressToken": token}
        await self._stream.write(event(notification(method, params)))

    async def emit(self, event: bytes) -> None:
        raise UpstreamProtocolError("MCP has no streamed results")

    async def ask(self, call: Call) -> Result:
        require_capability(self.capabilities, call)
        if self._stream is None:
            raise InvalidCall("the client takes no event stream, so it cannot be asked; send Accept: text/event-stream")
        waiting: asyncio.Future[Mapping[str, object]] = asyncio.get_running_loop().create_future()
        self._session.waiting[call.id] = waiting
        try:
            question = {"jsonrpc": "2.0", "id": call.id, "method": call.method, "params": call.params}
            await self._stream.write(event(codec.dumps(question)))
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answer = await waiting
        except TimeoutError:
            raise InvalidCall(f"the client did not answer {call.method} in {ANSWER_WITHIN_S:.0f} s") from None
        finally:
            self._session.waiting.pop(call.id, None)
        if "error" in answer:
            return Result(codec.dumps(answer["error"]), "rpc_error")
        return Result(codec.dumps(answer.get("result")))


def _progress_token(message: Message) -> object:
    meta = message.params.get("_meta")
    return meta.get("progressToken") if isinstance(meta, dict) else None


class LegacyLeg:
    """Answers the requests of legacy clients on one endpoint."""

    def __init__(
        self,
        *,
        view: str,
        maker: CallMaker,
        handler: Handler,
        identifier: Identifier,
        sessions: Sessions,
        events: Events,
        challenge: Callable[[Unauthenticated], Unauthenticated],
    ) -> None:
        self._view = view
        self._maker = maker
        self._handler = handler
        self._identifier = identifier
        self._sessions = sessions
        self._events = events
        self._challenge = challenge

    async def post(self, inbound: Inbound) -> None:
        """Serve one POST whose body has been read."""
        stream = EventStream(inbound.send) if accepts_events(inbound.headers) else None
        reply = await self._reply(inbound, stream)
        if reply is None:
            return
        if stream is not None and stream.open:
            await stream.close(event(reply.body) if reply.body else b"")
            return
        if stream is not None:
            stream.closed = True  # what comes too late must not begin a second response
        if reply.body:
            await respond_json(inbound.send, reply)
        else:
            await respond(inbound.send, reply.status, reply.headers, b"")

    async def get(self, inbound: Inbound) -> None:
        """Serve the stream for messages that belong to no request, until the client leaves."""
        try:
            session = await self._session(inbound)
        except (Unauthenticated, SessionUnknown, RpcError) as error:
            await respond_json(inbound.send, self._refused(None, error))
            return
        if session.listening:
            await respond(inbound.send, 409, (), b"")
            return
        stream = EventStream(inbound.send)
        session.listening = True
        try:
            with ClientWatch(inbound.receive, stream.keep_alive):
                await self._tell_changes(session, stream)
        finally:
            session.listening = False
        await stream.close()

    async def delete(self, inbound: Inbound) -> None:
        """End a session at its client's wish."""
        try:
            session = await self._session(inbound)
        except (Unauthenticated, SessionUnknown, RpcError) as error:
            await respond_json(inbound.send, self._refused(None, error))
            return
        self._sessions.end(session)
        await respond(inbound.send, 204, (), b"")

    async def _reply(self, inbound: Inbound, stream: EventStream | None) -> Reply | None:
        message = inbound.message
        request_id = message.request_id if message.is_request else None
        try:
            if message.method == "initialize" and message.is_request:
                return await self._initialize(inbound)
            session = await self._session(inbound)
            if not message.is_request:
                _take(session, message)
                return Reply(202, b"")
            return await self._request(inbound, session, stream)
        except (Unauthenticated, SessionUnknown, RpcError) as error:
            return self._refused(request_id, error)
        except InterlockError as error:
            return _at_200(reply_of_error(request_id, message.method, error))
        except Exception:
            log.exception("a %s request failed", message.method[:100])
            return reply_of_rpc_error(request_id, RpcError(INTERNAL_ERROR, "Internal error"))

    def _refused(self, request_id: object, error: Exception) -> Reply:
        rid = request_id if isinstance(request_id, str | int) else None
        if isinstance(error, SessionUnknown):
            gone = RpcError(INVALID_REQUEST, "Session not found or ended; send initialize again", status=404)
            return reply_of_rpc_error(rid, gone)
        if isinstance(error, Unauthenticated):
            return reply_of_error(rid, "", self._challenge(error))
        return reply_of_rpc_error(rid, error if isinstance(error, RpcError) else RpcError(INTERNAL_ERROR, "Error"))

    async def _initialize(self, inbound: Inbound) -> Reply:
        params = inbound.message.params
        asked, capabilities = params.get("protocolVersion"), params.get("capabilities", {})
        if not isinstance(asked, str) or not isinstance(capabilities, dict):
            raise RpcError(
                INVALID_PARAMS, "initialize needs a string protocolVersion and object capabilities", status=200
            )
        version = asked if asked in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
        call = self._maker.make(inbound.message, METHODS["initialize"], inbound.tracing, version=version)
        session = Session(Terms("", self._view, version, capabilities))
        result = await self._handler.handle(call, inbound.credentials, LegacyExchange(session, inbound.message, None))
        identity = await self._identifier.identify(inbound.credentials)
        session_id = self._sessions.start(self._view, version, capabilities, identity)
        reply = reply_of(inbound.message.request_id, result, {})
        return Reply(reply.status, reply.body, ((b"mcp-session-id", session_id.encode()),))

    async def _session(self, inbound: Inbound) -> Session:
        version = one(inbound.headers, b"mcp-protocol-version")
        if version and version not in LEGACY_VERSIONS:
            raise RpcError(INVALID_REQUEST, f"Unsupported MCP-Protocol-Version {version[:40]!r}", status=400)
        identity = await self._identified(inbound)
        session_id = one(inbound.headers, b"mcp-session-id")
        if not session_id:
            raise RpcError(INVALID_REQUEST, "Missing Mcp-Session-Id; send initialize first", status=400)
        return self._sessions.find(session_id, self._view, identity)

    async def _identified(self, inbound: Inbound) -> Identity:
        """Who sends this. A request from nobody is still a call: it goes down the pipeline to be refused on record."""
        try:
            return await self._identifier.identify(inbound.credentials)
        except Unauthenticated:
            method = METHODS.get(inbound.message.method)
            if inbound.message.is_request and method is not None:
                call = self._maker.make(inbound.message, method, inbound.tracing, version="")
                session = Session(Terms("", self._view, "", {}))
                await self._handler.handle(call, inbound.credentials, LegacyExchange(session, inbound.message, None))
            raise

    async def _request(self, inbound: Inbound, session: Session, stream: EventStream | None) -> Reply | None:
        message = inbound.message
        if message.method == "ping":
            return Reply(200, success(message.request_id, b"{}"))
        method = METHODS.get(message.method)
        if method is None or not method.legacy or method.name == "initialize":
            raise RpcError(METHOD_NOT_FOUND, f"Method not found: {message.method[:100]}", status=200)
        level = _wanted_level(method, message)
        terms = session.terms
        call = self._maker.make(message, method, inbound.tracing, version=terms.version, session=terms.key)
        exchange = LegacyExchange(session, message, stream)
        with ClientWatch(inbound.receive, stream.keep_alive if stream else None) as watch, _Running(session, message):
            result = await self._handled(call, inbound, exchange, terms.version)
            self._remember(session, call, message, level)
            return reply_of(message.request_id, _for_legacy(result), {})
        return None if watch.left else Reply(202, b"")

    async def _handled(self, call: Call, inbound: Inbound, exchange: LegacyExchange, version: str) -> Result:
        """The result of the call; of a held one, the error that shows its user where it can be approved."""
        try:
            return await self._handler.handle(call, inbound.credentials, exchange)
        except ApprovalPending as held:
            if held.url and version >= URLS_SINCE and can_open(exchange.capabilities):
                raise url_required(held) from held
            raise

    def _remember(self, session: Session, call: Call, message: Message, level: str) -> None:
        if level:
            session.log_level = level
        uri = message.params.get("uri")
        if call.method == "resources/subscribe" and isinstance(uri, str) and uri not in session.subscriptions:
            session.subscriptions[uri] = call.resource
            self._events.watch(call.resource.upstream, call.resource.name)
        if call.method == "resources/unsubscribe" and isinstance(uri, str) and uri in session.subscriptions:
            watched = session.subscriptions.pop(uri)  # what the URI stood for then, which may have changed since
            self._events.unwatch(watched.upstream, watched.name)

    async def _tell_changes(self, session: Session, stream: EventStream) -> None:
        with self._events.subscription() as subscription:
            session.changes = subscription
            await stream.keep_alive()  # opens the stream, once nothing can be missed any more
            while not subscription.closed:
                for change in await subscription.next():
                    for text in _messages(self._view, session, change):
                        await stream.write(event(text))


class _Running:
    """Lets `notifications/cancelled` find the call while it runs, and takes that cancellation quietly."""

    def __init__(self, session: Session, message: Message) -> None:
        self._session = session
        self._id = message.request_id

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None or self._id is None:
            return
        if self._id in self._session.running:
            raise RpcError(INVALID_REQUEST, "A request with this id is still running in this session", status=200)
        self._session.running[self._id] = task

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if self._id is None or self._session.running.pop(self._id, None) is not None:
            return False
        task = asyncio.current_task()
        return kind is asyncio.CancelledError and task is not None and task.uncancel() == 0


def _take(session: Session, message: Message) -> None:
    """A notification or a response from the client."""
    if message.is_response:
        waiting = session.waiting.get(str(message.request_id))
        if waiting is not None and not waiting.done():
            waiting.set_result(message.raw)
        return
    if message.method == "notifications/cancelled":
        request_id = message.params.get("requestId")
        task = session.running.pop(request_id, None) if isinstance(request_id, str | int) else None
        if task is not None:
            task.cancel()


def _wanted_level(method: Method, message: Message) -> str:
    if method.name != "logging/setLevel":
        return ""
    level = message.params.get("level")
    if level not in LOG_LEVELS:
        raise RpcError(INVALID_PARAMS, f"params.level must be one of {', '.join(LOG_LEVELS)}", status=200)
    return str(level)


def _messages(view: str, session: Session, change: Event) -> list[bytes]:
    if change.upstream and view not in (MERGED, change.upstream):
        return []
    if change.change != "updated":
        return [notification(f"notifications/{change.change}/list_changed", {})]
    return [
        notification("notifications/resources/updated", {"uri": uri})
        for uri, resource in session.subscriptions.items()
        if (resource.upstream, resource.name) == (change.upstream, change.uri)
    ]


def _for_legacy(result: Result) -> Result:
    """The result without `structuredContent` that is no object: before 2026-07-28 it always was one."""
    if b'"structuredContent"' not in result.payload or b'"structuredContent":{' in result.payload:
        return result
    payload = codec.loads(result.payload)
    if not isinstance(payload, dict) or isinstance(payload.get("structuredContent"), dict):
        return result
    kept = {key: value for key, value in payload.items() if key != "structuredContent"}
    return replace(result, payload=codec.dumps(kept))


def _at_200(reply: Reply) -> Reply:
    """Legacy clients take an HTTP error for a broken transport or a lost session; the JSON-RPC error says it all."""
    return Reply(200, reply.body, reply.headers)
