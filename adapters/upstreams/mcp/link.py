"""A way to send one JSON-RPC request to an MCP server, whatever carries it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from gateway.boxes import BoxFacts
from gateway.errors import UpstreamProtocolError
from gateway.headers import ParamHeaders
from gateway.types import EMPTY, Era

Object: TypeAlias = Mapping[str, object]
Told: TypeAlias = Callable[[str, Object], Awaitable[None]]
"""Takes a notification (method, params) that came with the answer to a request."""
Asked: TypeAlias = Callable[[str, Object], Awaitable[Object]]
"""Answers a question (method, params) of the server's with `{"result": ...}` or `{"error": ...}`."""
News: TypeAlias = Callable[[str, Object], None]
"""Takes a notification (method, params) that belongs to no request. Never waits."""

MODERN_VERSION: Final = "2026-07-28"
LEGACY_VERSION: Final = "2025-11-25"
LEGACY_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
META: Final = "io.modelcontextprotocol/"
CLIENT_INFO: Final[Object] = {"name": "interlock", "version": "0.1.0"}
METHOD_NOT_FOUND: Final = -32601
HEADER_MISMATCH: Final = -32020
UNSUPPORTED_VERSION: Final = -32022
MODERN_ERRORS: Final = frozenset({METHOD_NOT_FOUND, -32602, -32603, -32021})
"""Codes that a modern server answers with another HTTP status than 200, and means."""
PROGRESS: Final = "notifications/progress"
LOG: Final = "notifications/message"
MAX_NOTICE_BYTES: Final = 256 * 1024
"""A larger progress or log message is dropped: many of them wait at once for a client that reads slowly."""


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
    progress: bool = False
    """Ask for progress notifications."""
    timeout_s: float = 60.0
    """The longest silence; progress restarts it, and a question that waits for its answer stops the clock."""
    max_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered: `error` is its error object, or `None` when it gave a `result`."""

    result: Object = EMPTY
    error: Object | None = None
    raw: bytes = b""
    """The result as the server wrote it, on one line; empty where only the decoded one is known."""
    status: int = 200
    """The HTTP status that it came with."""


class Link(Protocol):
    """Sends requests. Raises the `Upstream*` errors."""

    @property
    def era(self) -> Era: ...

    @property
    def box(self) -> BoxFacts | None:
        """What its server runs in; `None` for one that is not ours to put into a box."""

    async def request(self, request: Request, told: Told = told_nobody, asked: Asked = asked_nobody) -> Reply: ...


def reply_in(message: Object, number: object, label: str, status: int = 200) -> Reply:
    """The answer to request `number` that a message is; raises `UpstreamProtocolError` when it is none.

    An error without an id is one as well: the server could not make out the request (JSON-RPC 2.0, section 5).
    """
    error, answered = message.get("error"), message.get("id")
    fits = answered == number and type(answered) is type(number)
    if message.get("jsonrpc") != "2.0":
        raise UpstreamProtocolError(f"upstream {label!r} answered something that is not JSON-RPC 2.0")
    if isinstance(error, dict) and type(error.get("code")) is int and isinstance(error.get("message"), str):
        if "result" not in message and (fits or answered is None):
            return Reply(error=error, status=status)
    elif error is None and fits:
        result = message.get("result")
        if isinstance(result, dict):
            return Reply(result, status=status)
    raise UpstreamProtocolError(f"upstream {label!r} answered something that is no response to what was asked")


def modern_params(request: Request, progress: int | None = None) -> dict[str, object]:
    """The parameters with the envelope that 2026-07-28 asks of every request (basic/index, "Per-request fields")."""
    meta = _meta_of(request, progress)
    meta[META + "protocolVersion"] = MODERN_VERSION
    meta[META + "clientCapabilities"] = request.capabilities
    meta[META + "clientInfo"] = CLIENT_INFO
    if request.log_level:
        meta[META + "logLevel"] = request.log_level
    return {**request.params, "_meta": meta}


def legacy_params(request: Request, progress: int | None = None) -> dict[str, object]:
    """The parameters as a server of the handshake era takes them."""
    meta = _meta_of(request, progress)
    return {**request.params, "_meta": meta} if meta else dict(request.params)


def _meta_of(request: Request, progress: int | None) -> dict[str, object]:
    """What the client sent along, the trace, and a progress token of this hop: tokens are never passed through."""
    sent = request.params.get("_meta")
    meta: dict[str, object] = dict(sent) if isinstance(sent, dict) else {}
    if request.traceparent:
        meta["traceparent"] = request.traceparent
        if request.tracestate:
            meta["tracestate"] = request.tracestate
    if progress is not None:
        meta["progressToken"] = progress
    return meta


def params_of(message: Object) -> Object:
    """The parameters of a request or notification."""
    params = message.get("params")
    return params if isinstance(params, dict) else EMPTY
