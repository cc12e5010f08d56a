"""The catalogue of agents and MCP servers at `/.well-known/ai-catalog.json`: a call like any other, shown by policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.a2a.catalogue import MEDIA_TYPE
from gateway.errors import InterlockError, Unauthenticated
from gateway.listeners.guards import Guards, credentials_of
from gateway.listeners.http import JSON, Receive, Scope, Send, headers_of, one, respond
from gateway.listeners.mcp.calls import Tracing
from gateway.listeners.mcp.quiet import Handler, QuietExchange
from gateway.listeners.mcp.wire import reply_of_error
from gateway.types import Call, Resource

CATALOGUE_READ: Final = "catalog/read"
_ACTION: Final = "a2a.card.read"


class CatalogueEndpoint:
    """Serves the catalogue: to each caller what that caller may use."""

    def __init__(
        self,
        *,
        handler: Handler,
        guards: Guards,
        new_id: Callable[[], str],
        trace: Callable[[str, str], Tracing],
        challenge: Callable[[Unauthenticated], Unauthenticated],
    ) -> None:
        self._handler = handler
        self._guards = guards
        self._new_id = new_id
        self._trace = trace
        self._challenge = challenge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        refusal = self._guards.refusal(headers)
        if refusal is not None:
            await respond(send, refusal[0], ((b"content-type", b"text/plain"),), refusal[1].encode())
            return
        if scope["method"] != "GET":
            await respond(send, 405, ((b"allow", b"GET"),), b"")
            return
        tracing = self._trace(one(headers, b"traceparent"), one(headers, b"tracestate"))
        everything = Resource("agent", "*", upstream="*", name="*")
        call = Call(
            self._new_id(),
            _ACTION,
            CATALOGUE_READ,
            everything,
            protocol="a2a",
            protocol_version="1.0",
            traceparent=tracing.traceparent,
            tracestate=tracing.tracestate,
        )
        try:
            result = await self._handler.handle(call, credentials_of(scope, headers), QuietExchange(""))
        except InterlockError as error:
            told = self._challenge(error) if isinstance(error, Unauthenticated) else error
            reply = reply_of_error(None, CATALOGUE_READ, told)
            await respond(send, reply.status, (JSON, *reply.headers), reply.body)
            return
        kept = ((b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"private, max-age=60"))
        await respond(send, 200, kept, result.payload)
