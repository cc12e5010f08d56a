"""The same operations for clients that speak A2A 0.3: their requests brought up, our answers brought down."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway import codec
from gateway.a2a.errors import VERSION_NOT_SUPPORTED, A2aError
from gateway.a2a.malformed import Malformed
from gateway.a2a.operations import LEGACY_VERSION, OPERATIONS, Operation
from gateway.a2a.rest import allowed_verbs
from gateway.a2a.v03 import (
    METHODS,
    NotConvertible,
    error_to_03,
    event_to_03,
    request_from_03,
    result_to_03,
)
from gateway.a2a.v03_rest import (
    rest_event_to_03,
    rest_request_from_03,
    rest_result_to_03,
    route_of_03,
    verbs_of_03,
)
from gateway.a2a.v03_rest_errors import rest_error_to_03
from gateway.errors import UpstreamProtocolError
from gateway.listeners.a2a.refusals import METHOD_NOT_FOUND, invalid, not_allowed, nothing_here


def asked_in_03(method: str, params: Mapping[str, object]) -> tuple[Operation, Mapping[str, object]]:
    """The operation of a JSON-RPC method of 0.3, and its parameters in the form of 1.0."""
    if method in OPERATIONS:
        words = f"{method} is of A2A 1.0: send the header A2A-Version: 1.0 (without it, {LEGACY_VERSION} is meant)"
        raise A2aError(VERSION_NOT_SUPPORTED, words)
    if method not in METHODS:
        raise invalid(METHOD_NOT_FOUND, f"Method not found: {method[:100]}")
    try:
        name, converted = request_from_03(method, params)
    except NotConvertible as exc:
        raise Malformed(str(exc)) from exc
    return OPERATIONS[name], converted


def result_in_03(operation: Operation, payload: bytes) -> bytes:
    """A result as 0.3 has it. An extended card is both versions' already, and signed."""
    if operation.name == "GetExtendedAgentCard":
        return payload
    return _brought_down(lambda value: result_to_03(operation.name, value), payload)


def event_in_03(payload: bytes) -> bytes:
    """An event as 0.3 has it."""
    return _brought_down(event_to_03, payload)


def error_in_03(payload: bytes) -> bytes:
    """A JSON-RPC error object as 0.3 has it."""
    return _brought_down(error_to_03, payload)


def routed_in_03(verb: str, path: str) -> tuple[str, Mapping[str, str]]:
    """The JSON-RPC method of 0.3 that a verb and a path are, with what the path names."""
    route = route_of_03(verb, path)
    if route is not None:
        return route
    verbs = verbs_of_03(path)
    if verbs:
        raise not_allowed(verbs)
    if allowed_verbs(path):
        words = f"this path is of A2A 1.0: send the header A2A-Version: 1.0 (without it, {LEGACY_VERSION} is meant)"
        raise A2aError(VERSION_NOT_SUPPORTED, words)
    raise nothing_here()


def asked_over_http_in_03(
    method: str, ids: Mapping[str, str], query: Mapping[str, str], body: Mapping[str, object] | None
) -> tuple[Operation, Mapping[str, object]]:
    """The operation of an HTTP+JSON request of 0.3, and its parameters in the form of 1.0."""
    try:
        name, converted = rest_request_from_03(method, ids, query, body)
    except NotConvertible as exc:
        raise Malformed(str(exc)) from exc
    return OPERATIONS[name], converted


def http_result_in_03(operation: Operation, payload: bytes) -> bytes:
    """A result as HTTP+JSON of 0.3 has it."""
    if operation.name == "GetExtendedAgentCard":
        return payload
    return _brought_down(lambda value: rest_result_to_03(operation.name, value), payload)


def http_event_in_03(payload: bytes) -> bytes:
    """An event as HTTP+JSON of 0.3 has it."""
    return _brought_down(rest_event_to_03, payload)


def http_error_in_03(payload: bytes) -> bytes:
    """The body that HTTP+JSON of 0.3 has for a JSON-RPC error object."""
    return _brought_down(rest_error_to_03, payload)


def _brought_down(convert: Callable[[object], object], payload: bytes) -> bytes:
    try:
        return codec.dumps(convert(codec.loads(payload)))
    except (NotConvertible, ValueError) as exc:
        raise UpstreamProtocolError(f"the agent's answer cannot be told in A2A {LEGACY_VERSION}: {exc}") from exc
