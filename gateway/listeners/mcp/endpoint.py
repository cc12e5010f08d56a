"""The MCP endpoint as an ASGI application: guards first, then the leg of the client's era."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.listeners.guards import Guards, credentials_of
from gateway.listeners.http import (
    BodyTooLarge,
    ClientLeft,
    Headers,
    Receive,
    Scope,
    Send,
    headers_of,
    one,
    read_body,
    respond,
    respond_json,
)
from gateway.listeners.mcp.calls import Tracing
from gateway.listeners.mcp.envelope import Message, parse
from gateway.listeners.mcp.inbound import Inbound
from gateway.listeners.mcp.legacy import LegacyLeg
from gateway.listeners.mcp.methods import LEGACY_VERSIONS, MODERN_VERSIONS
from gateway.listeners.mcp.modern import ModernLeg
from gateway.listeners.mcp.wire import INVALID_REQUEST, RpcError, reply_of_rpc_error

_NO_MESSAGE: Final = Message({}, "", {})


class McpEndpoint:
    """One MCP endpoint (a view): POST for both eras, GET and DELETE for legacy sessions."""

    def __init__(
        self,
        *,
        guards: Guards,
        modern: ModernLeg,
        legacy: LegacyLeg,
        trace: Callable[[str, str, Message], Tracing],
    ) -> None:
        self._guards = guards
        self._modern = modern
        self._legacy = legacy
        self._trace = trace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        refusal = self._guards.refusal(headers)
        if refusal is not None:
            error = RpcError(INVALID_REQUEST, refusal[1], status=refusal[0])
            await respond_json(send, reply_of_rpc_error(None, error))
            return
        method = scope["method"]
        if method == "POST":
            await self._post(scope, headers, receive, send)
        elif method in ("GET", "DELETE") and b"mcp-session-id" in headers:
            inbound = Inbound(_NO_MESSAGE, headers, credentials_of(scope, headers), Tracing(), receive, send)
            await (self._legacy.get(inbound) if method == "GET" else self._legacy.delete(inbound))
        else:
            await respond(send, 405, ((b"allow", b"POST"),), b"")

    async def _post(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        try:
            content_type = one(headers, b"content-type").partition(";")[0].strip().lower()
            if content_type != "application/json":
                raise RpcError(INVALID_REQUEST, "Content-Type must be application/json", status=415)
            message = parse(await read_body(receive, self._guards.max_body_bytes))
        except RpcError as error:
            await respond_json(send, reply_of_rpc_error(None, error))
            return
        except BodyTooLarge:
            words = f"The request body exceeds {self._guards.max_body_bytes} bytes (listen.max_body_bytes)"
            await respond_json(send, reply_of_rpc_error(None, RpcError(INVALID_REQUEST, words, status=413)))
            return
        except ClientLeft:
            return
        tracing = self._trace(one(headers, b"traceparent"), one(headers, b"tracestate"), message)
        inbound = Inbound(message, headers, credentials_of(scope, headers), tracing, receive, send)
        if _is_legacy(message, headers):
            await self._legacy.post(inbound)
        else:
            await self._modern.answer(inbound)


def _is_legacy(message: Message, headers: Headers) -> bool:
    """Which era a POST belongs to: by its version header, and where that is absent by how the message opens."""
    version = one(headers, b"mcp-protocol-version")
    if version in MODERN_VERSIONS:
        return False
    if message.method == "initialize":
        return True
    if version:
        return version in LEGACY_VERSIONS
    # 2025-03-26 had sessions but no version header. A modern envelope without the header is a modern fault.
    meta = message.params.get("_meta")
    return not (isinstance(meta, dict) and "io.modelcontextprotocol/protocolVersion" in meta)
