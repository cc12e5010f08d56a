"""Bytes out: JSON-RPC replies, errors and Server-Sent Events, with the status each travels under."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from gateway import codec
from gateway.errors import (
    ApprovalPending,
    InputTooLarge,
    InterlockError,
    PolicyDenied,
    QuotaExceeded,
    SandboxFailure,
    Unauthenticated,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.listeners.http import Header, Reply
from gateway.types import Result

RequestId: TypeAlias = "str | int | float | None"

AUTHORIZATION_META: Final = "io.modelcontextprotocol/authorization"

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022

STATUS_OF_CODE: Final = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}
"""HTTP status of a protocol error on the modern leg (2026-07-28, basic/transports/streamable-http)."""


class RpcError(Exception):
    """A protocol error with the code, message and data that the client is to see."""

    def __init__(self, code: int, message: str, data: object = None, *, status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.status = status or STATUS_OF_CODE.get(code, 200)


def success(request_id: RequestId, result: bytes) -> bytes:
    """A JSON-RPC response round an already encoded result."""
    return b'{"jsonrpc":"2.0","id":' + codec.dumps(request_id) + b',"result":' + result + b"}"


def failure(request_id: RequestId, error: bytes) -> bytes:
    """A JSON-RPC error response round an already encoded error object."""
    return b'{"jsonrpc":"2.0","id":' + codec.dumps(request_id) + b',"error":' + error + b"}"


def notification(method: str, params: Mapping[str, object]) -> bytes:
    """A JSON-RPC notification."""
    return codec.dumps({"jsonrpc": "2.0", "method": method, "params": params})


def event(message: bytes, event_id: str = "") -> bytes:
    """One Server-Sent Event that carries a JSON-RPC message."""
    head = f"id: {event_id}\n".encode() if event_id else b""
    return head + b"event: message\ndata: " + message + b"\n\n"


def reply_of(request_id: RequestId, result: Result, statuses: Mapping[int, int]) -> Reply:
    """What a completed call looks like to its client. `statuses` gives the HTTP status by error code, else 200."""
    if result.outcome == "rpc_error":
        error = codec.loads(result.payload)
        code = error.get("code") if isinstance(error, dict) else None
        status = statuses.get(code, 200) if isinstance(code, int) else 200
        return Reply(status, failure(request_id, result.payload))
    return Reply(200, success(request_id, result.payload))


def reply_of_rpc_error(request_id: RequestId, error: RpcError) -> Reply:
    """A protocol error, under the status that the transport prescribes for it."""
    body: dict[str, object] = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return Reply(error.status, failure(request_id, codec.dumps(body)))


def reply_of_error(request_id: RequestId, method: str, error: InterlockError) -> Reply:
    """How a refusal or failure is told (architecture, "Errors").

    A `tools/call` that was denied, held, or failed upstream or for want of a box answers with a tool result whose
    `isError` is true, because a model can act on that and a bare protocol error it cannot. Everything else is the
    JSON-RPC error.
    """
    if method == "tools/call" and isinstance(error, _TOLD_TO_THE_MODEL):
        return Reply(200, success(request_id, codec.dumps(_tool_result(error))))
    data = {"code": error.code, **_authorization_of(error)}
    body = {"code": error.rpc_code, "message": str(error), "data": data}
    # 202 would say that a notification was taken (basic/transports): clients wait for no answer then.
    status = 200 if isinstance(error, ApprovalPending) else error.http_status
    return Reply(status, failure(request_id, codec.dumps(body)), _headers_of(error))


_TOLD_TO_THE_MODEL: Final = (
    PolicyDenied,
    InputTooLarge,
    ApprovalPending,
    QuotaExceeded,
    SandboxFailure,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)


def _tool_result(error: InterlockError) -> dict[str, object]:
    return {
        "resultType": "complete",
        "content": [{"type": "text", "text": _words_of(error)}],
        "isError": True,
        "_meta": {AUTHORIZATION_META: _authorization_of(error)} if isinstance(error, _REFUSED_BY_POLICY) else {},
    }


_REFUSED_BY_POLICY: Final = (PolicyDenied, InputTooLarge, ApprovalPending, QuotaExceeded)


def _words_of(error: InterlockError) -> str:
    if not isinstance(error, PolicyDenied):
        return f"{error.code}: {error}"
    public = [reason for reason in error.reasons if reason.public]
    if not public:
        return f"Denied by policy (decision {error.decision_id or 'none'}): {error}"
    lines = [f"Denied by policy (decision {error.decision_id or 'none'})."]
    for reason in public:
        lines.append(f"- rule {reason.rule or 'library'}, {reason.code}: {reason.message}".rstrip(": "))
        if reason.remedy:
            lines.append(f"  What would help: {reason.remedy}")
    return "\n".join(lines)


def _authorization_of(error: InterlockError) -> dict[str, object]:
    """The structured denial of SEP-2643: why, and whether anything would help."""
    if isinstance(error, PolicyDenied):
        public = [reason for reason in error.reasons if reason.public]
        return {
            "reason": error.code,
            "decision_id": error.decision_id,
            "reasons": [{"code": r.code, "message": r.message, "rule": r.rule, "remedy": r.remedy} for r in public],
            "remediation": "available" if any(reason.remedy for reason in public) else "undisclosed",
        }
    if isinstance(error, InputTooLarge):
        return {"reason": error.code, "remediation": "available"}
    if isinstance(error, ApprovalPending):
        return _held(error)
    if isinstance(error, QuotaExceeded):
        return {"reason": error.code, "retry_after_s": error.retry_after_s, "remediation": "available"}
    return {}


def _held(error: ApprovalPending) -> dict[str, object]:
    """A refusal that people can lift: where, until when, and when to look again."""
    if not error.ticket_id:
        return {"reason": error.code, "decision_id": error.decision_id, "remediation": "undisclosed"}
    return {
        "reason": error.code,
        "decision_id": error.decision_id,
        "remediation": "available",
        "hints": [{"type": "url", "url": error.url}],
        "ticket": error.ticket_id,
        "expires_ms": error.expires_ms,
        "retry_after_s": error.retry_after_s,
    }


def _headers_of(error: InterlockError) -> tuple[Header, ...]:
    if isinstance(error, QuotaExceeded):
        return ((b"retry-after", str(error.retry_after_s).encode()),)
    if isinstance(error, ApprovalPending) and error.retry_after_s:
        return ((b"retry-after", str(error.retry_after_s).encode()), (b"location", error.url.encode()))
    if isinstance(error, Unauthenticated) and error.challenge:
        return ((b"www-authenticate", error.challenge.encode("latin-1", "replace")),)
    return ()
