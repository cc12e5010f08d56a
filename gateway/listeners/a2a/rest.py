"""The HTTP+JSON binding: a verb and a path are an operation (specification, section 11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.a2a.errors import A2aError
from gateway.a2a.malformed import Malformed
from gateway.a2a.operations import LEGACY_VERSION, VERSION, Operation
from gateway.a2a.rest import allowed_verbs, rest_params, route_of
from gateway.a2a.strict import parse_json
from gateway.errors import InterlockError
from gateway.listeners.a2a.answering import Answers, send_reply
from gateway.listeners.a2a.framing import Framed, last_event
from gateway.listeners.a2a.inbound import Inbound, Trace, parameters_in, peer_of, version_of
from gateway.listeners.a2a.legacy import (
    asked_over_http_in_03,
    http_error_in_03,
    http_event_in_03,
    http_result_in_03,
    routed_in_03,
)
from gateway.listeners.a2a.refusals import (
    Refusal,
    Refused,
    http_error,
    not_allowed,
    nothing_here,
    refusal_of,
    rpc_error,
)
from gateway.listeners.http import EventStream, Header, Reply
from gateway.types import Result

A2A_JSON: Final = "application/a2a+json"
PLAIN_JSON: Final = "application/json"


class RestForm:
    """The answer to one HTTP+JSON request.

    Clients that name either media type get that one. To the others a result is `application/a2a+json`, as section
    11.1 has it, and an error `application/json`: that is what `google.rpc.Status` travels as everywhere else.
    """

    def __init__(self, inbound: Inbound, version: str, operation: Operation | None = None) -> None:
        self._legacy = version == LEGACY_VERSION
        self._operation = operation
        self._version = version.encode()
        self._named = PLAIN_JSON if self._legacy else _named_type(inbound)

    @property
    def headers(self) -> tuple[Header, ...]:
        return ((b"a2a-version", self._version),)

    def success(self, result: Result) -> Reply:
        payload = result.payload
        if self._legacy and self._operation is not None:
            payload = http_result_in_03(self._operation, payload)
        return Reply(200, payload, (_content_type(self._named or A2A_JSON), *result.headers))

    def failure(self, refusal: Refusal) -> Reply:
        head = _content_type(self._named or PLAIN_JSON)
        return Reply(refusal.http, self._failed(refusal), (head, *refusal.headers))

    def sink(self, stream: EventStream) -> Framed:
        return Framed(stream, b"", b"", http_event_in_03 if self._legacy else None)

    def last(self, refusal: Refusal) -> bytes:
        return last_event(self._failed(refusal), kind=b"error")

    def _failed(self, refusal: Refusal) -> bytes:
        return http_error_in_03(rpc_error(refusal)) if self._legacy else http_error(refusal)


class Rest:
    """Serves the paths below an agent's base."""

    def __init__(self, *, answers: Answers, trace: Trace, max_body_bytes: int) -> None:
        self._answers = answers
        self._trace = trace
        self._max_body_bytes = max_body_bytes

    async def serve(self, inbound: Inbound) -> None:
        """Answer one request."""
        version = VERSION
        try:
            version = version_of(inbound)
            asked = self._asked_in_03 if version == LEGACY_VERSION else self._asked
            operation, params = await asked(inbound)
        except (InterlockError, A2aError, Malformed, Refused) as error:
            form = RestForm(inbound, version)
            await send_reply(inbound, form.failure(refusal_of(error)), form)
            return
        form = RestForm(inbound, version, operation)
        await self._answers.answer(inbound, operation, params, peer_of(inbound, self._trace, version), form)

    async def _asked(self, inbound: Inbound) -> tuple[Operation, Mapping[str, object]]:
        """The operation and its parameters."""
        path = inbound.path.removesuffix("/")
        route = route_of(inbound.verb, path)
        if route is None:
            verbs = allowed_verbs(path)
            raise not_allowed(verbs) if verbs else nothing_here()
        return route.operation, rest_params(route, inbound.query, await self._body(inbound))

    async def _asked_in_03(self, inbound: Inbound) -> tuple[Operation, Mapping[str, object]]:
        method, ids = routed_in_03(inbound.verb, inbound.path.removesuffix("/"))
        return asked_over_http_in_03(method, ids, parameters_in(inbound.query), await self._body(inbound))

    async def _body(self, inbound: Inbound) -> Mapping[str, object] | None:
        """The object in the body. Operations that are all in the path may come without one."""
        if inbound.verb != "POST":
            return None
        body = await inbound.body(self._max_body_bytes, A2A_JSON, PLAIN_JSON)
        return parse_json(body) if body else None


def _named_type(inbound: Inbound) -> str:
    """The media type of JSON that the client names; empty when it takes what it gets."""
    accepted = b",".join(inbound.headers.get(b"accept", ())).lower()
    for media_type in (A2A_JSON, PLAIN_JSON):
        if media_type.encode() in accepted:
            return media_type
    sent = inbound.media_type(b"content-type")
    return sent if sent in (A2A_JSON, PLAIN_JSON) else ""


def _content_type(media_type: str) -> Header:
    return (b"content-type", media_type.encode())
