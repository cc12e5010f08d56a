"""What an upstream agent's errors become: objects of JSON-RPC, whichever binding they came by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from adapters.upstreams.a2a.caller import KEPT_HEADERS, Headers
from gateway import codec
from gateway.a2a.errors import DOMAIN, FAULTS, A2aError
from gateway.codec import JsonObject, JsonValue
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamUnavailable
from gateway.types import Result

ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
_CODE_OF_REASON: Final = {fault.reason: code for code, fault in FAULTS.items()}
_CODE_OF_STATUS: Final[Mapping[int, int]] = {
    400: -32602,
    404: -32001,  # on these paths it is a task, or what belongs to one, that may be missing
    405: -32601,
    409: -32002,
    415: -32005,
    422: -32602,
    501: -32004,
}
"""Where no `ErrorInfo` says more (section 5.4, and what 0.3 had there)."""
_INTERNAL: Final = -32603
_BUSY: Final = frozenset({429, 502, 503, 504})


def kept(headers: Mapping[bytes, bytes]) -> Headers:
    """The headers of an answer that go on to the client."""
    return tuple([(name, headers[name]) for name in KEPT_HEADERS if name in headers])


def is_error(value: JsonValue) -> bool:
    """Whether it is an error object (JSON-RPC 2.0, section 5.1)."""
    return isinstance(value, dict) and type(value.get("code")) is int and isinstance(value.get("message"), str)


def failed(raw: bytes, headers: Mapping[bytes, bytes]) -> Result:
    """An error of the agent, as it wrote it."""
    return Result(raw, "rpc_error", headers=tuple(kept(headers)))


def error_of(fault: A2aError) -> Result:
    """An error of A2A that the gateway finds itself."""
    info = {"@type": ERROR_INFO, "reason": fault.fault.reason, "domain": DOMAIN, "metadata": fault.metadata}
    return Result(codec.dumps({"code": fault.fault.code, "message": str(fault), "data": [info]}), "rpc_error")


def status_error(label: str, status: int, body: bytes, headers: Mapping[bytes, bytes]) -> Result:
    """The error in an answer of HTTP+JSON (`google.rpc.Status`, section 11.6). Raises the `Upstream*` errors."""
    if status in (401, 403):
        raise refusal(label, status)
    error = _status_in(body)
    if error is None:
        raise refusal(label, status)
    details = error.get("details")
    code = _code_in(details, status)
    shaped: JsonObject = {"code": code, "message": str(error.get("message") or f"HTTP {status}")}
    if isinstance(details, list) and details:
        shaped["data"] = details
    return failed(codec.dumps(shaped), headers)


def refusal(label: str, status: int) -> InterlockError:
    """What an HTTP status means that came without an error of A2A."""
    if status in (401, 403):
        words = f"agent {label!r} refused the gateway's own credential (HTTP {status}); check its `headers`"
        return UpstreamUnavailable(words)
    if status in _BUSY:
        return UpstreamUnavailable(f"agent {label!r} answered HTTP {status}")
    return UpstreamProtocolError(f"agent {label!r} answered HTTP {status} without an error of A2A")


def reason_in(details: JsonValue) -> str:
    """The reason that `ErrorInfo` gives, if it is one of A2A's own."""
    for item in details if isinstance(details, list) else ():
        if isinstance(item, dict) and item.get("domain") == DOMAIN and isinstance(item.get("reason"), str):
            return str(item["reason"])
    return ""


def _code_in(details: JsonValue, status: int) -> int:
    known = _CODE_OF_REASON.get(reason_in(details))
    return known if known is not None else _CODE_OF_STATUS.get(status, _INTERNAL)


def _status_in(body: bytes) -> JsonObject | None:
    try:
        value = codec.loads(body)
    except ValueError:
        return None
    error = value.get("error") if isinstance(value, dict) else None
    return error if isinstance(error, dict) else None
