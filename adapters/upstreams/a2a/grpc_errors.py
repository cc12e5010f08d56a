"""What an agent's gRPC status becomes: an error object of JSON-RPC, or one of ours where the agent was not heard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # has no types

from adapters.upstreams.a2a.answers import failed, reason_in
from gateway import codec
from gateway.a2a.errors import FAULTS
from gateway.codec import JsonValue
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Result

DETAILS_KEY: Final = "grpc-status-details-bin"
_TOO_LARGE: Final = "larger than max"
_KNOWN: Final = error_details_pb2.DESCRIPTOR.package  # loading the module is what lets `Any` be read as JSON
_CODE_OF_REASON: Final = {fault.reason: code for code, fault in FAULTS.items()}
_CODES: Final[Mapping[grpc.StatusCode, int]] = {
    grpc.StatusCode.NOT_FOUND: -32001,
    grpc.StatusCode.INVALID_ARGUMENT: -32602,
    grpc.StatusCode.OUT_OF_RANGE: -32602,
    grpc.StatusCode.UNIMPLEMENTED: -32004,
    grpc.StatusCode.FAILED_PRECONDITION: -32004,
}
"""Where no `ErrorInfo` says more (section 5.4)."""
_INTERNAL: Final = -32603
_GONE: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED})
_REFUSED: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})


def failure_of(label: str, error: grpc.aio.AioRpcError) -> Result:
    """The agent's error. Raises the `Upstream*` errors for a call that did not reach it, or came to no end."""
    details = _details_in(error)
    reason = reason_in(details)
    fault = _fault(label, error)
    if fault is not None and not reason:
        raise fault from error
    code = _CODE_OF_REASON.get(reason, _CODES.get(error.code(), _INTERNAL))
    shaped: dict[str, object] = {"code": code, "message": error.details() or error.code().name}
    if details:
        shaped["data"] = details
    return failed(codec.dumps(shaped), {})


def _fault(label: str, error: grpc.aio.AioRpcError) -> InterlockError | None:
    code = error.code()
    if code in _REFUSED:
        return UpstreamUnavailable(f"agent {label!r} refused the gateway's own credential ({code.name})")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UpstreamTimeout(f"agent {label!r} did not answer in time")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if _TOO_LARGE in (error.details() or ""):
            return UpstreamProtocolError(f"agent {label!r} answered with more than is taken from it")
        return UpstreamUnavailable(f"agent {label!r} is busy ({code.name})")
    if code in _GONE:
        return UpstreamUnavailable(f"agent {label!r} cannot be reached, or went away during the call ({code.name})")
    return None


def _details_in(error: grpc.aio.AioRpcError) -> JsonValue:
    """The details of `google.rpc.Status` in the trailers, as JSON; those of types that are not known stay behind."""
    trailers: Any = error.trailing_metadata() or ()
    raw = next((value for name, value in trailers if name == DETAILS_KEY), b"")
    try:
        status = status_pb2.Status.FromString(raw)
    except (DecodeError, TypeError):
        return []
    found: list[JsonValue] = []
    for packed in status.details:
        try:
            found.append(json_format.MessageToDict(packed))
        except (json_format.Error, TypeError, ValueError):
            continue
    return found
