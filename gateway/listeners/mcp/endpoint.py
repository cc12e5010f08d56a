"""The MCP endpoint as an ASGI application: guards first, then the leg of the client's era."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from gateway.listeners.mcp.calls import Tracing
from gateway.listeners.mcp.envelope import Message, parse
from gateway.listeners.mcp.http import (
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
from gateway.listeners.mcp.inbound import Inbound
from gateway.listeners.mcp.legacy import LegacyLeg
from gateway.listeners.mcp.methods import LEGACY_VERSIONS, MODERN_VERSIONS
from gateway.listeners.mcp.modern import ModernLeg
from gateway.listeners.mcp.wire import INVALID_REQUEST, RpcError, reply_of_rpc_error
from gateway.types import Credentials

_PROXY_HEADERS: Final = frozenset(
    {
        b"forwarded", b"via", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto",
        b"x-forwarded-port", b"x-forwarded-server", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip",
    }
)  # fmt: skip
"""What proxies add; one that adds none of these cannot be told from a caller on this machine."""
_NO_MESSAGE: Final = Message({}, "", {})


@dataclass(frozen=True, slots=True)
class Guards:
    """What a request must satisfy before anything of it is read.

    `hosts` and `origins` are lower-case `host` or `host:port`, and whole origins; a loopback listener always takes
    loopback names (DNS rebinding: 2026-07-28, basic/transports/streamable-http, "Security & Endpoint").
    """

    max_body_bytes: int
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    loopback: bool = True

    def refusal(self, headers: Headers) -> tuple[int, str] | None:
        """Status and words when Host or Origin is not one that is served here."""
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or not self._host_allowed(hosts[0].decode("latin-1").lower()):
            return 421, "Host is not served here; add it to listen.allowed_hosts"
        origins = headers.get(b"origin")
        if origins is not None and not (
            len(origins) == 1 and self._origin_allowed(origins[0].decode("latin-1").lower())
        ):
            return 403, "Origin is not allowed; add it to listen.allowed_origins"
        return None

    def _host_allowed(self, host: str) -> bool:
        name = _name_of(host)
        return host in self.hosts or name in self.hosts or (self.loopback and _is_loopback_name(name))

    def _origin_allowed(self, origin: str) -> bool:
        if origin in self.origins:
            return True
        try:
            parts = urlsplit(origin)
            name = parts.hostname or ""
        except ValueError:
            return False
        return self.loopback and parts.scheme in ("http", "https") and _is_loopback_name(name)


def _name_of(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _is_loopback_name(name: str) -> bool:
    return name in ("localhost", "127.0.0.1", "[::1]", "::1")


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


def credentials_of(scope: Scope, headers: Headers) -> Credentials:
    """Who a request may be from. Behind a proxy everybody seems to come from loopback, so then nobody does."""
    client = scope.get("client")
    address: str = client[0] if client else ""  # type: ignore[index]  # ASGI: a pair of host and port, or nothing
    authorization = headers.get(b"authorization", [])
    bearer = ""
    if authorization:
        kind, _, token = authorization[0].decode("latin-1").partition(" ")
        # A second header or another scheme is no credential, and it is not anonymous either: it is a wrong one.
        bearer = token.strip() if kind.lower() == "bearer" and len(authorization) == 1 else "\x00"
    direct = _PROXY_HEADERS.isdisjoint(headers)
    return Credentials(bearer or ("\x00" if authorization else ""), address, direct and _on_loopback(address))


@lru_cache(maxsize=4_096)
def _on_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
