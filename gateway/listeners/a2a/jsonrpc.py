"""The JSON-RPC binding: one POST is one call (specification, section 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, TypeAlias

from gateway import codec
from gateway.a2a.errors import A2aError
from gateway.a2a.malformed import Malformed
from gateway.a2a.operations import LEGACY_VERSION, OPERATIONS, VERSION, Operation
from gateway.a2a.strict import parse_json
from gateway.a2a.v03 import METHODS
from gateway.errors import InterlockError
from gateway.listeners.a2a.answering import Answers, send_reply
from gateway.listeners.a2a.framing import Framed, last_event
from gateway.listeners.a2a.inbound import Inbound, Trace, peer_of, version_of
from gateway.listeners.a2a.legacy import asked_in_03, error_in_03, event_in_03, result_in_03
from gateway.listeners.a2a.refusals import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Refusal,
    Refused,
    invalid,
    refusal_of,
    rpc_error,
)
from gateway.listeners.http import JSON, EventStream, Header, Reply
from gateway.types import Result

RequestId: TypeAlias = "str | int | None"

_EVENTS: Final[Header] = (b"content-type", b"text/event-stream")
_MEMBERS: Final = frozenset({"jsonrpc", "id", "method", "params"})
_MAX_ID: Final = 256
_ID: Final = f"id must be an integer, null or a string of at most {_MAX_ID} characters"
_NO_PARAMS: Final[Mapping[str, object]] = {}
_EMPTY: Final = frozenset({"DeleteTaskPushNotificationConfig"})
"""The operations whose result is nothing: `null` here."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: what is to be done, and the id that its answer bears."""

    id: RequestId
    method: str
    params: Mapping[str, object]


class RpcForm:
    """The answer to one JSON-RPC request."""

    def __init__(self, request_id: RequestId, version: str, operation: Operation | None = None) -> None:
        self._head = b'{"jsonrpc":"2.0","id":' + codec.dumps(request_id)
        self._operation = operation
        self._legacy = version == LEGACY_VERSION
        self._version = version.encode()

    @property
    def headers(self) -> tuple[Header, ...]:
        return ((b"a2a-version", self._version),)

    def success(self, result: Result) -> Reply:
        payload = result.payload
        if self._operation is not None and self._operation.name in _EMPTY:
            payload = b"null"
        elif self._operation is not None and self._legacy:
            payload = result_in_03(self._operation, payload)
        return Reply(200, self._head + b',"result":' + payload + b"}", (JSON, *result.headers))

    def failure(self, refusal: Refusal) -> Reply:
        if self._legacy and self._operation is not None and self._operation.streams and not refusal.of_transport:
            # In 0.3, all that a stream answers is events, and its clients read nothing else.
            return Reply(200, self.last(refusal), (_EVENTS, *refusal.headers))
        return Reply(refusal.rpc_status, self._failed(refusal), (JSON, *refusal.headers))

    def sink(self, stream: EventStream) -> Framed:
        return Framed(stream, self._head + b',"result":', b"}", event_in_03 if self._legacy else None)

    def last(self, refusal: Refusal) -> bytes:
        return last_event(self._failed(refusal))

    def _failed(self, refusal: Refusal) -> bytes:
        error = rpc_error(refusal)
        if self._legacy:
            error = error_in_03(error)
        return self._head + b',"error":' + error + b"}"


class JsonRpc:
    """Serves the POSTs to an agent's base."""

    def __init__(self, *, answers: Answers, trace: Trace, max_body_bytes: int) -> None:
        self._answers = answers
        self._trace = trace
        self._max_body_bytes = max_body_bytes

    async def serve(self, inbound: Inbound) -> None:
        """Answer one POST."""
        version, request_id = VERSION, None
        try:
            body = parse_json(await inbound.body(self._max_body_bytes, "application/json"))
            request_id = id_in(body)
            version = version_of(inbound)
            request = request_in(body)
            operation, params = _asked(request, version)
            _require_id(body)
        except (InterlockError, A2aError, Malformed, Refused) as error:
            form = RpcForm(request_id, version)
            await send_reply(inbound, form.failure(refusal_of(error)), form)
            return
        form = RpcForm(request_id, version, operation)
        await self._answers.answer(inbound, operation, params, peer_of(inbound, self._trace, version), form)


def id_in(body: Mapping[str, object]) -> RequestId:
    """The id, if the request has one that an answer may bear; `None` otherwise, as JSON-RPC wants it told."""
    value = body.get("id")
    if isinstance(value, str):
        return value if len(value) <= _MAX_ID else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def request_in(body: Mapping[str, object]) -> Request:
    """The request that a body is. Raises `Refused` for an envelope that is not exactly one of JSON-RPC 2.0."""
    if not body.keys() <= _MEMBERS:
        raise invalid(INVALID_REQUEST, "the request has members besides jsonrpc, id, method and params")
    if body.get("jsonrpc") != "2.0":
        raise invalid(INVALID_REQUEST, 'jsonrpc must be "2.0"')
    request_id = id_in(body)
    if request_id is None and body.get("id") is not None:
        raise invalid(INVALID_REQUEST, _ID)
    method = body.get("method")
    if not isinstance(method, str) or not method:
        raise invalid(INVALID_REQUEST, "method must be a string")
    params = body.get("params", _NO_PARAMS)
    if not isinstance(params, dict):
        raise invalid(INVALID_PARAMS, "params must be an object")
    return Request(request_id, method, params)


def _require_id(body: Mapping[str, object]) -> None:
    """A2A has no notifications. What else is wrong with a request without an id is told first."""
    if "id" not in body:
        raise invalid(INVALID_REQUEST, _ID)


def _asked(request: Request, version: str) -> tuple[Operation, Mapping[str, object]]:
    """The operation and its parameters in the form of 1.0."""
    if version == LEGACY_VERSION:
        return asked_in_03(request.method, request.params)
    operation = OPERATIONS.get(request.method)
    if operation is None:
        raise invalid(METHOD_NOT_FOUND, f"Method not found: {request.method[:100]}{_meant(request.method)}")
    return operation, request.params


def _meant(method: str) -> str:
    """What somebody who asks for that may have meant: a method of 0.3, or one that is spelled almost so."""
    if method in METHODS:
        return f" in A2A {VERSION}; it is of {LEGACY_VERSION}: send A2A-Version: {LEGACY_VERSION}"
    near = get_close_matches(method[:100], OPERATIONS, 1, 0.8)
    return f"; did you mean {near[0]}?" if near else ""
