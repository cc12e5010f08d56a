"""How a refusal or a failure of an A2A call is told, in the error form of each binding (sections 5.4, 9.5 and 11.6)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway import codec
from gateway.a2a.catalogue import PATH as CATALOGUE
from gateway.a2a.errors import DOMAIN, FAULTS, INVALID_AGENT_RESPONSE, A2aError, Fault
from gateway.a2a.malformed import Malformed
from gateway.codec import JsonObject
from gateway.errors import (
    ApprovalPending,
    InterlockError,
    InvalidCall,
    PolicyDenied,
    QuotaExceeded,
    Unauthenticated,
    UpstreamProtocolError,
)
from gateway.listeners.http import Header

OUR_DOMAIN: Final = "interlock"
"""The `domain` of reasons that are the gateway's own."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

_TYPE: Final = "type.googleapis.com/google.rpc."
_NOT_IN_A_REASON: Final = re.compile(r"[^A-Z0-9_]+")

_STATUS_NAMES: Final[Mapping[int, str]] = {
    202: "FAILED_PRECONDITION",
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    421: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""The `google.rpc.Code` of an HTTP status, where no fault of A2A says it."""

_REASONS: Final[Mapping[int, str]] = {
    PARSE_ERROR: "JSON_PARSE_ERROR",
    INVALID_REQUEST: "INVALID_REQUEST",
    METHOD_NOT_FOUND: "METHOD_NOT_FOUND",
    INVALID_PARAMS: "INVALID_PARAMS",
}
"""What clients of HTTP+JSON tell the errors of JSON-RPC itself by: section 5.4 names reasons for A2A's only."""

_STATUS_OF_CODE: Final[Mapping[int, int]] = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    METHOD_NOT_FOUND: 404,
    INVALID_PARAMS: 400,
    -31202: 202,
    -31401: 401,
    -31403: 403,
    -31429: 429,
    -31502: 502,
    -31503: 503,
    -31504: 504,
}
"""The HTTP status of an upstream's JSON-RPC code that is none of A2A's own; 500 for any other."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One error, ready for any binding."""

    code: int
    """Of JSON-RPC."""
    message: str
    http: int
    grpc: str
    details: tuple[Mapping[str, object], ...] = ()
    headers: tuple[Header, ...] = ()
    of_transport: bool = False
    """Its HTTP status is that of a JSON-RPC response too. The rest travels under 200, or clients miss the code."""
    error: bytes = b""
    """The JSON-RPC error object as the upstream wrote it."""

    @property
    def rpc_status(self) -> int:
        """The HTTP status of the JSON-RPC response that tells it."""
        return self.http if self.of_transport else 200


class Refused(Exception):
    """A request that is refused before it is a call."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def invalid(code: int, message: str, *, status: int = 0) -> Refused:
    """A fault of the request as HTTP or JSON-RPC has it. With a status, that one is the response's in any binding."""
    http = status or _STATUS_OF_CODE.get(code, 500)
    return Refused(Refusal(code, message, http, _STATUS_NAMES[http], (_standard(code),), of_transport=bool(status)))


def invalid_params(field: str, message: str) -> Refused:
    """A fault of one member of the parameters, which is named."""
    violation = {"field": field, "description": message}
    details = (_standard(INVALID_PARAMS), {"@type": _TYPE + "BadRequest", "fieldViolations": [violation]})
    return Refused(Refusal(INVALID_PARAMS, f"{field}: {message}", 400, "INVALID_ARGUMENT", details))


def nothing_here() -> Refused:
    """A path that is not served."""
    return invalid(METHOD_NOT_FOUND, "there is nothing at this path", status=404)


def no_agent() -> Refused:
    """A name below `/agents/` that no agent has."""
    words = f"no agent of this name is served here: {CATALOGUE} lists those that you may use"
    return invalid(METHOD_NOT_FOUND, words, status=404)


def not_allowed(verbs: tuple[str, ...]) -> Refused:
    """A path that is served, and asked in another way."""
    allow = ", ".join(verbs)
    refusal = invalid(INVALID_REQUEST, f"this path takes {allow}", status=405).refusal
    return Refused(replace(refusal, headers=((b"allow", allow.encode()),)))


INTERNAL: Final = Refusal(INTERNAL_ERROR, "Internal error", 500, "INTERNAL")


def refusal_of(error: InterlockError | A2aError | Malformed | Refused) -> Refusal:
    """What the caller is told of an error."""
    if isinstance(error, Refused):
        return error.refusal
    if isinstance(error, Malformed):
        return _of_malformed(error)
    if isinstance(error, A2aError):
        return _of_fault(error.fault, str(error), error.metadata)
    if isinstance(error, UpstreamProtocolError):
        return _of_fault(INVALID_AGENT_RESPONSE, str(error), {})
    return Refusal(
        error.rpc_code,
        str(error),
        error.http_status,
        _STATUS_NAMES[error.http_status],
        tuple(_details_of(error)),
        _headers_of(error),
        of_transport=type(error) is not InvalidCall,
    )


def refusal_of_upstream(error: bytes, headers: tuple[Header, ...] = ()) -> Refusal:
    """What the caller is told of an error object of the upstream: all that stands in it."""
    value = _error_object(error)
    code, data = value.get("code"), value.get("data")
    if not isinstance(code, int) or isinstance(code, bool) or not isinstance(value.get("message"), str):
        raise UpstreamProtocolError("the agent answered with an error that has no code or no message")
    fault = FAULTS.get(code)
    http = fault.http if fault else _STATUS_OF_CODE.get(code, 500)
    grpc = fault.grpc if fault else _STATUS_NAMES[http]
    details = tuple(_details_in(code, data))
    return Refusal(code, str(value["message"]), http, grpc, details, headers, error=error)


def _error_object(error: bytes) -> JsonObject:
    try:
        value = codec.loads(error)
    except ValueError as exc:
        raise UpstreamProtocolError("the agent answered with an error that is not JSON") from exc
    if not isinstance(value, dict):
        raise UpstreamProtocolError("the agent answered with an error that is not an object")
    return value


def rpc_error(refusal: Refusal) -> bytes:
    """The `error` of a JSON-RPC response."""
    if refusal.error:
        return refusal.error
    body: dict[str, object] = {"code": refusal.code, "message": refusal.message}
    if refusal.details:
        body["data"] = refusal.details
    return codec.dumps(body)


def http_error(refusal: Refusal) -> bytes:
    """The body of an HTTP+JSON error: a `google.rpc.Status` (section 11.6)."""
    status: dict[str, object] = {"code": refusal.http, "status": refusal.grpc, "message": refusal.message}
    if refusal.details:
        status["details"] = refusal.details
    return codec.dumps({"error": status})


def error_info(reason: str, domain: str, metadata: Mapping[str, str]) -> Mapping[str, object]:
    """A `google.rpc.ErrorInfo`; metadata without a value is left out."""
    info: dict[str, object] = {
        "@type": _TYPE + "ErrorInfo",
        "reason": _NOT_IN_A_REASON.sub("_", reason.upper()),
        "domain": domain,
    }
    known = {key: value for key, value in metadata.items() if value}
    if known:
        info["metadata"] = known
    return info


def _standard(code: int) -> Mapping[str, object]:
    return error_info(_REASONS[code], DOMAIN, {})


def _of_fault(fault: Fault, message: str, metadata: Mapping[str, str]) -> Refusal:
    info = error_info(fault.reason, DOMAIN, metadata)
    return Refusal(fault.code, message, fault.http, fault.grpc, (info,))


def _of_malformed(error: Malformed) -> Refusal:
    field, colon, words = str(error).partition(": ")
    if error.kind == "invalid" and colon:
        return invalid_params(field, words).refusal
    return invalid(error.rpc_code, str(error)).refusal


def _details_of(error: InterlockError) -> Iterable[Mapping[str, object]]:
    """Why, for a program: our code first, then each reason that policy wants shown."""
    if type(error) is InvalidCall:
        yield _standard(INVALID_PARAMS)
        return
    known = {"decisionId": str(getattr(error, "decision_id", ""))}
    if isinstance(error, ApprovalPending):
        known |= {"ticket": error.ticket_id, "url": error.url}
    yield error_info(error.code, OUR_DOMAIN, known)
    if isinstance(error, PolicyDenied):
        for reason in error.reasons:
            if reason.public:
                shown = {"message": reason.message, "rule": reason.rule, "remedy": reason.remedy}
                yield error_info(reason.code, OUR_DOMAIN, shown)
    if isinstance(error, QuotaExceeded | ApprovalPending) and error.retry_after_s:
        yield {"@type": _TYPE + "RetryInfo", "retryDelay": f"{error.retry_after_s}s"}


def _headers_of(error: InterlockError) -> tuple[Header, ...]:
    if isinstance(error, QuotaExceeded | ApprovalPending) and error.retry_after_s:
        return ((b"retry-after", str(error.retry_after_s).encode()),)
    if isinstance(error, Unauthenticated) and error.challenge:
        return ((b"www-authenticate", error.challenge.encode("latin-1", "replace")),)
    return ()


def _details_in(code: int, data: object) -> Iterable[Mapping[str, object]]:
    """The upstream's `data` as details; what is not a typed message becomes a `google.protobuf.Value`."""
    given = data if isinstance(data, list) else [] if data is None else [data]
    fault = FAULTS.get(code)
    typed = [item for item in given if isinstance(item, dict) and isinstance(item.get("@type"), str)]
    if fault is not None and not any(item.get("domain") == DOMAIN for item in typed):
        yield error_info(fault.reason, DOMAIN, {})
    if fault is None and code not in _STATUS_OF_CODE and code != INTERNAL_ERROR:
        yield error_info("UPSTREAM_ERROR", OUR_DOMAIN, {"code": str(code)})
    for item in given:
        if isinstance(item, dict) and isinstance(item.get("@type"), str):
            yield item
        else:
            yield {"@type": "type.googleapis.com/google.protobuf.Value", "value": item}
