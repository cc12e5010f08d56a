"""The modern leg: one POST is one call (MCP 2026-07-28, basic/transports/streamable-http)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from gateway import codec
from gateway.errors import ApprovalPending, InterlockError, Unauthenticated, UpstreamProtocolError
from gateway.headers import param_mismatch
from gateway.listeners.http import ClientWatch, EventStream, Headers, Reply, respond, respond_json
from gateway.listeners.mcp.calls import CallMaker
from gateway.listeners.mcp.envelope import Envelope, Message, open_envelope
from gateway.listeners.mcp.holds import Patience, answered, asked, can_open, no_patience
from gateway.listeners.mcp.inbound import Inbound, MissingCapability, accepts_events, reaches, require_capability
from gateway.listeners.mcp.methods import METHODS, Method
from gateway.listeners.mcp.quiet import Handler
from gateway.listeners.mcp.tasks import HeldTasks, declares, require_tasks
from gateway.listeners.mcp.wire import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    STATUS_OF_CODE,
    RequestId,
    RpcError,
    event,
    notification,
    reply_of,
    reply_of_error,
    reply_of_rpc_error,
)
from gateway.ports import Identifier
from gateway.types import Call, Credentials, Era, Identity, Result

log = logging.getLogger("interlock.mcp")

_LISTEN: Final = "subscriptions/listen"


class ModernExchange:
    """A modern client during one call: it can be told, and is asked by way of its answer."""

    era = Era.MODERN

    def __init__(self, envelope: Envelope, owner: str, stream: EventStream | None) -> None:
        self._envelope = envelope
        self._stream = stream
        self.owner = owner

    @property
    def capabilities(self) -> Mapping[str, object]:
        return self._envelope.capabilities

    @property
    def log_level(self) -> str:
        return self._envelope.log_level

    @property
    def wants_progress(self) -> bool:
        return self._stream is not None and self._envelope.progress_token is not None

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        if self._stream is None:
            return
        if method == "notifications/message" and not reaches(self.log_level, params.get("level")):
            return
        if method == "notifications/progress":
            if not self.wants_progress:
                return
            params = {**params, "progressToken": self._envelope.progress_token}
        await self._stream.write(event(notification(method, params)))

    async def emit(self, event: bytes) -> None:
        raise UpstreamProtocolError("MCP has no streamed results")

    async def ask(self, call: Call) -> Result:
        require_capability(self.capabilities, call)
        return Result(b"{}", "input_required")


class Streams(Protocol):
    """Serves `subscriptions/listen`: the stream that stays open."""

    async def serve(self, call: Call, identity: Identity, request_id: RequestId, stream: EventStream) -> Result: ...


class ModernLeg:
    """Answers the requests of modern clients on one endpoint."""

    def __init__(
        self,
        *,
        maker: CallMaker,
        handler: Handler,
        identifier: Identifier,
        streams: Streams,
        challenge: Callable[[Unauthenticated], Unauthenticated],
        parked_ttl_s: int,
        patience: Patience = no_patience,
        tasks: HeldTasks | None = None,
    ) -> None:
        self._patience = patience
        self._tasks = tasks
        self._maker = maker
        self._handler = handler
        self._identifier = identifier
        self._streams = streams
        self._challenge = challenge
        self._parked_ttl_s = parked_ttl_s

    async def answer(self, inbound: Inbound) -> None:
        """Serve one POST whose body has been read."""
        message = inbound.message
        if not message.is_request:
            # Clients send no responses, and the revision defines no notification over HTTP: those are dropped.
            await respond(inbound.send, 400 if message.is_response else 202, (), b"")
            return
        stream = EventStream(inbound.send) if accepts_events(inbound.headers) else None
        reply = await self._reply(inbound, stream)
        if reply is None:
            return
        if stream is not None and stream.open:
            await stream.close(event(reply.body))
            return
        if stream is not None:
            stream.closed = True  # what comes too late must not begin a second response
        await respond_json(inbound.send, reply)

    async def _reply(self, inbound: Inbound, stream: EventStream | None) -> Reply | None:
        message = inbound.message
        try:
            envelope = open_envelope(message, inbound.headers)
            method = METHODS.get(message.method)
            if method is None or not method.modern or (method.target == "task" and self._tasks is None):
                raise RpcError(METHOD_NOT_FOUND, f"Method not found: {message.method[:100]}")
            return await self._served(inbound, envelope, method, stream)
        except RpcError as error:
            return reply_of_rpc_error(message.request_id, error)
        except MissingCapability as error:
            data: dict[str, object] = {"requiredCapabilities": error.required}
            return reply_of_rpc_error(message.request_id, RpcError(MISSING_CAPABILITY, str(error), data))
        except Unauthenticated as error:
            return reply_of_error(message.request_id, message.method, self._challenge(error))
        except InterlockError as error:
            return reply_of_error(message.request_id, message.method, error)
        except Exception:
            log.exception("a %s request failed", message.method[:100])
            return reply_of_rpc_error(message.request_id, RpcError(INTERNAL_ERROR, "Internal error", status=500))

    async def _served(
        self, inbound: Inbound, envelope: Envelope, method: Method, stream: EventStream | None
    ) -> Reply | None:
        message = inbound.message
        if self._tasks is not None and (method.target == "task" or _listens_to_tasks(message)):
            require_tasks(envelope.capabilities)
        call = self._maker.make(message, method, inbound.tracing, version=envelope.version)
        identity = await self._identified(call, inbound.credentials, envelope)
        # Not before it is known who asks: the answer would tell a stranger which tools there are.
        _check_param_headers(call, inbound.headers)
        if method.may_need_input:
            call = self._maker.resume(call, message, identity)
        if method.name == _LISTEN and stream is None:
            raise RpcError(INVALID_REQUEST, f"{_LISTEN} is answered by a stream: accept text/event-stream", status=406)
        exchange = ModernExchange(envelope, identity.principal, stream)
        with ClientWatch(inbound.receive, stream.keep_alive if stream else None) as watch:
            result = await self._handled(call, method, inbound, exchange, identity)
            if method.name == _LISTEN and stream is not None:
                result = await self._streams.serve(call, identity, message.request_id, stream)
        if watch.left:
            return None
        if result.outcome == "input_required":
            result = self._sealed(call, result, identity)
        return reply_of(message.request_id, result, STATUS_OF_CODE)

    async def _handled(
        self, call: Call, method: Method, inbound: Inbound, exchange: ModernExchange, identity: Identity
    ) -> Result:
        """The result of the call; of a held one, its task or the question that shows where it can be approved."""
        if method.target == "task" and self._tasks is not None:
            return await self._tasks.asked(call, inbound.message, identity, inbound.credentials, exchange)
        try:
            return await self._handler.handle(call, inbound.credentials, exchange)
        except ApprovalPending as held:
            task = await self._task(held, call, method, inbound.message, exchange, identity)
            if task is not None:
                return task
            answer = answered(inbound.message)
            if answer not in ("", "accept") or not _can_be_asked(held, method, exchange):
                raise
            if not answer:
                return asked(held, call)
            await self._patience(held.ticket_id)  # its user went there, and the client would only ask at once again
        try:
            return await self._handler.handle(call, inbound.credentials, exchange)
        except ApprovalPending as held:
            if not held.url:  # another call was faster: there is nothing to look at, only to call again
                raise
            return asked(held, call)

    async def _task(
        self,
        held: ApprovalPending,
        call: Call,
        method: Method,
        message: Message,
        exchange: ModernExchange,
        identity: Identity,
    ) -> Result | None:
        if self._tasks is None or method.target != "tool" or not declares(exchange.capabilities):
            return None
        return await self._tasks.created(held, call, message, self._maker.view, identity)

    async def _identified(self, call: Call, credentials: Credentials, envelope: Envelope) -> Identity:
        """Who calls. A call of nobody is still a call: it goes down the pipeline to be refused on record."""
        try:
            return await self._identifier.identify(credentials)
        except Unauthenticated:
            await self._handler.handle(call, credentials, ModernExchange(envelope, "", None))
            raise

    def _sealed(self, call: Call, result: Result, identity: Identity) -> Result:
        """Put the state that the next round needs into the answer, sealed."""
        payload = codec.loads(result.payload)
        if not isinstance(payload, dict):
            raise UpstreamProtocolError("the upstream asked for input in a form that is not MCP")
        payload["requestState"] = self._maker.seal_state(call, result.state or {}, identity, self._parked_ttl_s)
        return Result(codec.dumps(payload), "input_required", result.labels)


def _can_be_asked(held: ApprovalPending, method: Method, exchange: ModernExchange) -> bool:
    return bool(held.url) and method.may_need_input and can_open(exchange.capabilities)


def _listens_to_tasks(message: Message) -> bool:
    wanted = message.params.get("notifications") if message.method == _LISTEN else None
    return isinstance(wanted, Mapping) and bool(wanted.get("taskIds"))


def _check_param_headers(call: Call, headers: Headers) -> None:
    annotations = call.resource.param_headers
    if not annotations:
        return
    sent: dict[str, str] = {}
    for name, values in headers.items():
        if name.startswith(b"mcp-param-"):
            if len(values) > 1:
                raise RpcError(HEADER_MISMATCH, f"Header mismatch: {name.decode('latin-1')} appears more than once")
            sent[name.decode("latin-1")] = values[0].decode("latin-1")
    mismatch = param_mismatch(annotations, call.arguments, sent)
    if mismatch is not None:
        raise RpcError(HEADER_MISMATCH, f"Header mismatch: {mismatch}")
