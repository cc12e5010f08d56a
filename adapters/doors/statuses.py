"""A refusal as a gRPC status with the details of `google.rpc` in its trailers (specification, section 10.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import grpc
from google.protobuf import any_pb2, json_format, struct_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # has no types

Metadata: TypeAlias = "tuple[tuple[str, str | bytes], ...]"

DETAILS_KEY: Final = "grpc-status-details-bin"
_MAX_DETAILS: Final = 4_096
"""Bytes of details in the trailers: many peers take no more than 8 KiB of header lines."""
_MAX_MESSAGE: Final = 1_024
_TYPE: Final = "@type"

_DETAILS: Final[Mapping[str, type[Message]]] = {
    f"type.googleapis.com/{kind.DESCRIPTOR.full_name}": kind
    for kind in (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
        error_details_pb2.QuotaFailure,
        error_details_pb2.PreconditionFailure,
        error_details_pb2.RequestInfo,
        error_details_pb2.ResourceInfo,
        error_details_pb2.Help,
        error_details_pb2.LocalizedMessage,
        error_details_pb2.DebugInfo,
    )
}
_WRAPPED: Final[Mapping[str, type[Message]]] = {
    "type.googleapis.com/google.protobuf.Value": struct_pb2.Value,
    "type.googleapis.com/google.protobuf.Struct": struct_pb2.Struct,
}
"""Types whose JSON in an `Any` stands in a member `value` (ProtoJSON, "Any")."""


class Refusal(Protocol):
    """One error, ready for any binding: `details` are the JSON of typed messages, with `@type`."""

    @property
    def message(self) -> str: ...

    @property
    def grpc(self) -> str:
        """The name of its `google.rpc.Code`."""

    @property
    def details(self) -> Sequence[Mapping[str, object]]: ...

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]: ...


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends that has no answer."""

    code: grpc.StatusCode
    message: str
    trailers: Metadata


def status_of(refusal: Refusal) -> Status:
    """The status that tells a client of it. Details that gRPC has no type for, or no room, stay behind."""
    code = _code(refusal.grpc)
    message = _clean(refusal.message)
    rich = status_pb2.Status(code=code.value[0], message=message)
    for detail in refusal.details:
        packed = _packed(detail)
        if packed is not None and rich.ByteSize() + packed.ByteSize() <= _MAX_DETAILS:
            rich.details.append(packed)
    return Status(code, message, (*metadata_of(refusal.headers), (DETAILS_KEY, rich.SerializeToString())))


def metadata_of(headers: Sequence[tuple[bytes, bytes]]) -> Metadata:
    """HTTP headers as metadata: lower-case names, and no value that gRPC could not send."""
    decoded = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]
    return tuple([(name, value) for name, value in decoded if value.isascii() and value.isprintable()])


def _code(name: str) -> grpc.StatusCode:
    code: grpc.StatusCode = getattr(grpc.StatusCode, name, grpc.StatusCode.UNKNOWN)
    return code


def _clean(message: str) -> str:
    """Words of an upstream reach a client's terminal: no control characters, and not without end."""
    return "".join(letter if letter.isprintable() else " " for letter in message[:_MAX_MESSAGE])


def _packed(detail: Mapping[str, object]) -> any_pb2.Any | None:
    name = str(detail.get(_TYPE))
    value: Any = {key: member for key, member in detail.items() if key != _TYPE}
    kind = _DETAILS.get(name)
    if name in _WRAPPED:
        kind, value = _WRAPPED[name], detail.get("value")
    if kind is None:
        return None
    message = kind()
    try:
        json_format.ParseDict(value, message, ignore_unknown_fields=True, max_recursion_depth=32)
    except (json_format.Error, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None  # what is not the type that it says it is tells nobody anything
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
