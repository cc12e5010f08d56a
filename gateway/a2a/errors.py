"""The errors that A2A itself defines (specification, section 5.4), as one table for its three bindings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

DOMAIN: Final = "a2a-protocol.org"


@dataclass(frozen=True, slots=True)
class Fault:
    """One error: its JSON-RPC code, HTTP status, gRPC status name and `google.rpc.ErrorInfo` reason."""

    code: int
    http: int
    grpc: str
    reason: str


TASK_NOT_FOUND: Final = Fault(-32001, 404, "NOT_FOUND", "TASK_NOT_FOUND")
TASK_NOT_CANCELABLE: Final = Fault(-32002, 400, "FAILED_PRECONDITION", "TASK_NOT_CANCELABLE")
PUSH_NOT_SUPPORTED: Final = Fault(-32003, 400, "FAILED_PRECONDITION", "PUSH_NOTIFICATION_NOT_SUPPORTED")
UNSUPPORTED_OPERATION: Final = Fault(-32004, 400, "FAILED_PRECONDITION", "UNSUPPORTED_OPERATION")
CONTENT_TYPE_NOT_SUPPORTED: Final = Fault(-32005, 400, "INVALID_ARGUMENT", "CONTENT_TYPE_NOT_SUPPORTED")
INVALID_AGENT_RESPONSE: Final = Fault(-32006, 500, "INTERNAL", "INVALID_AGENT_RESPONSE")
EXTENDED_CARD_NOT_CONFIGURED: Final = Fault(-32007, 400, "FAILED_PRECONDITION", "EXTENDED_AGENT_CARD_NOT_CONFIGURED")
EXTENSION_SUPPORT_REQUIRED: Final = Fault(-32008, 400, "FAILED_PRECONDITION", "EXTENSION_SUPPORT_REQUIRED")
VERSION_NOT_SUPPORTED: Final = Fault(-32009, 400, "FAILED_PRECONDITION", "VERSION_NOT_SUPPORTED")

FAULTS: Final[Mapping[int, Fault]] = {
    fault.code: fault
    for fault in (
        TASK_NOT_FOUND,
        TASK_NOT_CANCELABLE,
        PUSH_NOT_SUPPORTED,
        UNSUPPORTED_OPERATION,
        CONTENT_TYPE_NOT_SUPPORTED,
        INVALID_AGENT_RESPONSE,
        EXTENDED_CARD_NOT_CONFIGURED,
        EXTENSION_SUPPORT_REQUIRED,
        VERSION_NOT_SUPPORTED,
    )
}


class A2aError(Exception):
    """A request that A2A answers with one of its own errors, instead of a call. The message is for the peer."""

    def __init__(self, fault: Fault, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.metadata = dict(metadata or {})
