"""The messages of `lf.a2a.v1.A2AService` as the JSON that the rest of the gateway knows, and back (ProtoJSON)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from a2a.types import a2a_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from gateway import codec
from gateway.a2a.operations import OPERATIONS, Operation
from gateway.errors import InvalidCall, UpstreamProtocolError

SERVICE: Final = "lf.a2a.v1.A2AService"
_EXACT: Final = 2**53
"""Whole numbers below this are the same in a double, which is all that protobuf's JSON values can hold."""
_MAX_DEPTH: Final = 64
_UNFIT: Final = (json_format.Error, ValueError, TypeError, AttributeError, OverflowError, RecursionError)
"""What the library raises for JSON that does not fit a message."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method of the service: what it takes, and what it answers (each event of it, when it streams)."""

    operation: Operation
    request: Callable[[], Message]
    answer: Callable[[], Message]

    def params(self, request: bytes) -> dict[str, object]:
        """The request as JSON, `tenant` included. Raises `InvalidCall` for bytes that are not such a message.

        Fields that the specification does not know have no name in JSON, so they go no further.
        """
        message = self.request()
        try:
            message.ParseFromString(request)
            value = json_format.MessageToDict(message)
        except (DecodeError, json_format.Error, ValueError, RecursionError) as exc:
            raise InvalidCall(f"the request is not a valid {self.operation.message} message") from exc
        whole: dict[str, object] = {name: _whole(member, 1) for name, member in value.items()}
        return whole

    def encoded(self, payload: bytes) -> bytes:
        """An answer or event as protobuf. Raises `UpstreamProtocolError` for JSON that is not one.

        Members that protobuf has no field for are left out: this binding cannot carry them.
        """
        message = self.answer()
        try:
            value = codec.loads(payload)
            if not isinstance(value, dict):
                raise TypeError("not an object")
            json_format.ParseDict(value, message, ignore_unknown_fields=True, max_recursion_depth=_MAX_DEPTH)
            return message.SerializeToString()
        except _UNFIT as exc:
            words = f"the agent's answer to {self.operation.name} does not fit its protobuf message"
            raise UpstreamProtocolError(words) from exc


_METHODS: Final = a2a_pb2.DESCRIPTOR.services_by_name["A2AService"].methods_by_name


def _rpc(operation: Operation) -> Rpc:
    method = _METHODS[operation.name]
    return Rpc(operation, GetMessageClass(method.input_type), GetMessageClass(method.output_type))


RPCS: Final[Mapping[str, Rpc]] = {name: _rpc(operation) for name, operation in OPERATIONS.items()}


def _whole(value: Any, depth: int) -> object:  # what protobuf's JSON is made of
    """The value with whole numbers as integers: a JSON client that sent 42 must not find 42.0."""
    if depth > _MAX_DEPTH:
        raise InvalidCall(f"the request is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _EXACT else value
    if isinstance(value, dict):
        return {name: _whole(member, depth + 1) for name, member in value.items()}
    if isinstance(value, list):
        return [_whole(member, depth + 1) for member in value]
    return value
