"""One HTTP request to an agent, with what it says of its client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import parse_qsl

from gateway.a2a.errors import CONTENT_TYPE_NOT_SUPPORTED, DOMAIN
from gateway.a2a.versions import (
    EXTENSIONS_HEADER,
    LEGACY_EXTENSIONS_HEADER,
    VERSION_HEADER,
    negotiate,
    requested_extensions,
)
from gateway.listeners.a2a.calls import Peer
from gateway.listeners.a2a.refusals import INVALID_REQUEST, Refusal, Refused, error_info, invalid
from gateway.listeners.guards import credentials_of
from gateway.listeners.http import BodyTooLarge, Headers, Receive, Scope, Send, one, read_body
from gateway.listeners.mcp.calls import Tracing

Trace: TypeAlias = Callable[[str, str], Tracing]
"""The trace context of a call, from the `traceparent` and `tracestate` that came in."""

_VERSION_PARAMETER: Final = "A2A-Version"
_MAX_PARAMETERS: Final = 64
_VERSION: Final = VERSION_HEADER.encode()
_EXTENSIONS: Final = (EXTENSIONS_HEADER.encode(), LEGACY_EXTENSIONS_HEADER.encode())


@dataclass(frozen=True, slots=True)
class Inbound:
    """One request whose Host and Origin are served here."""

    verb: str
    path: str
    """What follows the agent's base, with its slash, percent-encoded as it came."""
    query: bytes
    headers: Headers
    scope: Scope
    receive: Receive
    send: Send

    def media_type(self, header: bytes) -> str:
        """The media type that a header names, without parameters."""
        return one(self.headers, header).partition(";")[0].strip().lower()

    async def body(self, max_bytes: int, *media_types: str) -> bytes:
        """The whole body, which may be empty. Raises `Refused` for another media type, and for too large a body."""
        try:
            body = await read_body(self.receive, max_bytes)
        except BodyTooLarge as exc:
            words = f"The request body exceeds {max_bytes} bytes (listen.max_body_bytes)"
            raise invalid(INVALID_REQUEST, words, status=413) from exc
        if body and self.media_type(b"content-type") not in media_types:
            raise _not_supported(media_types)
        return body


def _not_supported(media_types: tuple[str, ...]) -> Refused:
    """The status is that of RFC 9110; 400 is for the media types of parts (section 5.4)."""
    fault = CONTENT_TYPE_NOT_SUPPORTED
    words = f"Content-Type must be {' or '.join(media_types)}"
    info = error_info(fault.reason, DOMAIN, {})
    return Refused(Refusal(fault.code, words, 415, fault.grpc, (info,), of_transport=True))


def inbound_of(scope: Scope, path: str, headers: Headers, receive: Receive, send: Send) -> Inbound:
    """The request as it came."""
    query = scope.get("query_string", b"")
    return Inbound(
        str(scope["method"]), path, query if isinstance(query, bytes) else b"", headers, scope, receive, send
    )


def peer_of(inbound: Inbound, trace: Trace, version: str) -> Peer:
    """What the request says of its client, which speaks this version."""
    headers = inbound.headers
    return Peer(
        credentials=credentials_of(inbound.scope, headers),
        version=version,
        extensions=_extensions_of(headers),
        tracing=trace(one(headers, b"traceparent"), one(headers, b"tracestate")),
    )


def version_of(inbound: Inbound) -> str:
    """The version that the client asked for, in the header or in the query (section 3.6.1).

    Raises `A2aError` for one that is not served.
    """
    named = [value for name, value in _pairs(inbound.query) if name == _VERSION_PARAMETER]
    if len(named) > 1:
        raise invalid(INVALID_REQUEST, f"the query names {_VERSION_PARAMETER} more than once")
    return negotiate(inbound.headers.get(_VERSION, ()), named[0] if named else None)


def parameters_in(query: bytes) -> Mapping[str, str]:
    """The parameters of a query, without the version. Raises `Refused` when one stands twice."""
    found: dict[str, str] = {}
    for name, value in _pairs(query):
        if name in found:
            raise invalid(INVALID_REQUEST, "a query parameter stands twice; write it once")
        found[name] = value
    found.pop(_VERSION_PARAMETER, None)
    return found


def _pairs(query: bytes) -> list[tuple[str, str]]:
    if not query:
        return []
    try:
        return parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS)
    except ValueError as exc:
        words = f"the query must be percent-encoded UTF-8 of at most {_MAX_PARAMETERS} parameters"
        raise invalid(INVALID_REQUEST, words) from exc


def _extensions_of(headers: Headers) -> tuple[str, ...]:
    return requested_extensions([value for name in _EXTENSIONS for value in headers.get(name, ())])
