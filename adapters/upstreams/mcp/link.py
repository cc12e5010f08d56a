"""A way to send one JSON-RPC request to an MCP server, whatever carries it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from gateway.errors import UpstreamProtocolError
from gateway.headers import ParamHeaders
from gateway.types import EMPTY, Era

Object: TypeAlias = Mapping[str, object]
Told: TypeAlias = Callable[[str, Object], Awaitable[None]]
"""Takes a notification (method, params) that belongs to a request."""
Asked: TypeAlias = Callable[[str, Object], Awaitable[Object]]
"""Answers a question (method, params) of the server's with `{"result": ...}` or `{"error": ...}`."""

MODERN_VERSION: Final = "2026-07-28"
LEGACY_VERSION: Final = "2025-11-25"
LEGACY_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
META: Final = "io.modelcontextprotocol/"
CLIENT_INFO: Final[Object] = {"name": "interlock", "version": "0.1.0"}
METHOD_NOT_FOUND: Final = -32601


async def told_nobody(_method: str, _params: Object) -> None:
    """Nobody waits for notifications."""


async def asked_nobody(method: str, _params: Object) -> Object:
    """Nobody can answer questions."""
    return {"error": {"code": METHOD_NOT_FOUND, "message": f"nobody can answer {method} during this call"}}


@dataclass(frozen=True, slots=True)
class Request:
    """One request to an upstream and what goes with it. Times are seconds, sizes bytes."""

    method: str
    params: Object
    name: str = ""
    """The value of `Mcp-Name`: tool or prompt name, resource URI."""
    param_headers: ParamHeaders = ()
    traceparent: str = ""
    tracestate: str = ""
    capabilities: Object = EMPTY
    log_level: str = ""
    timeout_s: float = 60.0
    """The longest silence; progress restarts it."""
    max_bytes: int = 16 * 1024 * 1024


class Link(Protocol):
    """Sends requests. The answer is the whole JSON-RPC response: it has `result` or `error`."""

    @property
    def era(self) -> Era: ...

    async def request(self, request: Request, told: Told = told_nobody, asked: Asked = asked_nobody) -> Object: ...


def response_in(message: Object, label: str) -> Object:
    """The message itself when it is a JSON-RPC response; raises `UpstreamProtocolError` otherwise."""
    error = message.get("error")
    if isinstance(message.get("result"), dict) and error is None:
        return message
    if isinstance(error, dict) and isinstance(error.get("code"), int) and isinstance(error.get("message"), str):
        return message
    raise UpstreamProtocolError(f"upstream {label!r} answered something that is not a JSON-RPC response")


def modern_params(request: Request) -> dict[str, object]:
    """The parameters with the envelope that 2026-07-28 asks of every request (basic/index, "Per-request fields")."""
    sent = request.params.get("_meta")
    meta: dict[str, object] = dict(sent) if isinstance(sent, dict) else {}
    meta[META + "protocolVersion"] = MODERN_VERSION
    meta[META + "clientCapabilities"] = request.capabilities
    meta[META + "clientInfo"] = CLIENT_INFO
    if request.log_level:
        meta[META + "logLevel"] = request.log_level
    return _with_meta(request, meta)


def legacy_params(request: Request) -> dict[str, object]:
    """The parameters as a server of the handshake era takes them."""
    sent = request.params.get("_meta")
    meta: dict[str, object] = dict(sent) if isinstance(sent, dict) else {}
    return _with_meta(request, meta)


def _with_meta(request: Request, meta: dict[str, object]) -> dict[str, object]:
    if request.traceparent:
        meta["traceparent"] = request.traceparent
        if request.tracestate:
            meta["tracestate"] = request.tracestate
    params = dict(request.params)
    if meta:
        params["_meta"] = meta
    return params


def with_progress(params: dict[str, object], token: int) -> dict[str, object]:
    """Ask for progress under a token of this hop: tokens are never passed through."""
    meta = params.get("_meta")
    return {**params, "_meta": {**(meta if isinstance(meta, dict) else {}), "progressToken": token}}
