"""Errors of 0.3's HTTP+JSON: an HTTP status with `{"type": .., "code": .., "message": ..}`.

The Python library tells them by `type`, the one for JavaScript by `code`, that of JSON-RPC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.a2a.errors import FAULTS
from gateway.a2a.v03_results import error_from_03, error_to_03
from gateway.a2a.v03_shapes import entries

_INTERNAL: Final = -32603
_TYPES: Final = {
    -32001: "TaskNotFoundError",
    -32002: "TaskNotCancelableError",
    -32003: "PushNotificationNotSupportedError",
    -32004: "UnsupportedOperationError",
    -32005: "ContentTypeNotSupportedError",
    -32006: "InvalidAgentResponseError",
    -32007: "AuthenticatedExtendedCardNotConfiguredError",
    -32600: "InvalidRequestError",
    -32601: "MethodNotFoundError",
    -32602: "InvalidParamsError",
    -32700: "JSONParseError",
}
_CODES: Final = {
    **{name: code for code, name in _TYPES.items()},
    "ExtendedAgentCardNotConfiguredError": -32007,
    "InternalError": _INTERNAL,
}
_REASONS: Final = {fault.reason: fault.code for fault in FAULTS.values()}


def rest_error_to_03(error: object) -> dict[str, object]:
    """The body for an error object of 1.0 (`code`, `message`, `data`); its HTTP status is the one of 1.0."""
    old = error_to_03(error)
    code = old["code"] if isinstance(old["code"], int) else _INTERNAL
    body: dict[str, object] = {
        "type": _TYPES.get(code, "InternalError"),
        "code": code,
        "message": old["message"],
    }
    return {**body, "data": old["data"]} if "data" in old else body


def rest_error_from_03(status: int, body: object) -> dict[str, object]:
    """The error object of 1.0 for what an agent of 0.3 answered. Any body will do: the status says enough."""
    source = entries(body, "") if isinstance(body, Mapping) else {}
    nested = source.get("error")
    found = nested if isinstance(nested, Mapping) else source
    message = found.get("message")
    error: dict[str, object] = {"code": _code(status, found), "message": message if isinstance(message, str) else ""}
    details = found.get("details", found.get("data"))
    return error_from_03(error if details is None else {**error, "data": details})


def _code(status: int, found: Mapping[str, object]) -> int:
    kind = found.get("type")
    if isinstance(kind, str) and kind in _CODES:
        return _CODES[kind]
    code = found.get("code")
    if isinstance(code, int) and not isinstance(code, bool) and code in _TYPES:
        return code
    details = found.get("details")
    for detail in details if isinstance(details, (list, tuple)) else ():
        reason = detail.get("reason") if isinstance(detail, Mapping) else None
        if isinstance(reason, str) and reason in _REASONS:
            return _REASONS[reason]
    return {400: -32600, 404: -32601, 405: -32601}.get(status, _INTERNAL)
