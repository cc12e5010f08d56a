"""Calls an agent over HTTP+JSON: bodies and events go on as the bytes that the agent wrote."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from adapters.upstreams.a2a.answers import failed, kept, status_error
from adapters.upstreams.a2a.caller import Ask, Caller, Heard, Refused, Reply
from adapters.upstreams.a2a.envelope import one_line
from adapters.upstreams.a2a.site import Site, is_event_stream
from adapters.upstreams.wire.http import Response, StreamingResponse
from gateway import codec
from gateway.a2a.operations import Operation
from gateway.codec import JsonObject
from gateway.errors import InvalidCall, UpstreamProtocolError
from gateway.types import Result

_PLACE: Final = re.compile(r"\{(\w+)\}")
_ACCEPT: Final = (b"accept", b"application/a2a+json, application/json")
_STREAM: Final = (b"accept", b"text/event-stream, application/a2a+json")
# Servers that take the media type of A2A only are not known; ones that take nothing but this are.
_CONTENT: Final = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class _Sent:
    """One request as it goes out."""

    verb: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes | None


class HttpJsonCaller:
    """Speaks HTTP+JSON (section 11)."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def unary(self, ask: Ask) -> Reply:
        """One request, whatever happens."""
        sent = self._request(ask, ask.operation.routes[0], _ACCEPT)
        answer = await self._site.fetch(sent.verb, sent.target, ask, sent.headers, sent.body)
        if answer.status >= 300:
            return Reply(status_error(self._site.label, answer.status, answer.body, answer.headers), None)
        heard = self._object(answer)
        return Reply(Result(heard.raw, headers=tuple(kept(answer.headers))), heard.value)

    async def stream(self, ask: Ask) -> AsyncGenerator[Heard, None]:
        """The events of one request."""
        async with await self._opened(ask) as answer:
            if not is_event_stream(answer):
                raise await self._not_a_stream(ask, answer)
            async with aclosing(self._site.events(answer)) as events:
                async for data in events:
                    yield self._event(data)

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Close all connections, once what runs has ended or that many seconds are over."""
        await self._site.aclose(grace_s)

    async def _opened(self, ask: Ask) -> StreamingResponse:
        """The answer to the first route that is served: prose and proto name different verbs for subscribing."""
        routes = ask.operation.routes
        for route in routes[:-1]:
            answer = await self._open(ask, route)
            if answer.status != 405:
                return answer
            answer.close()
        return await self._open(ask, routes[-1])

    async def _open(self, ask: Ask, route: tuple[str, str]) -> StreamingResponse:
        sent = self._request(ask, route, _STREAM)
        deadline_s = self._site.terms.timeout_s
        return await self._site.pool.open(sent.verb, sent.target, sent.headers, sent.body, deadline_s=deadline_s)

    def _request(self, ask: Ask, route: tuple[str, str], accept: tuple[bytes, bytes]) -> _Sent:
        verb, template = route
        path, rest = _path(ask.operation, template, ask.params)
        tenant = self._site.interface.tenant
        target = self._site.base.rstrip("/") + (f"/{quote(tenant, safe='')}" if tenant else "") + path
        headers = [accept, *self._site.headers_for(ask)]
        if verb == "POST":
            return _Sent(verb, target, [_CONTENT, *headers], codec.dumps(rest))
        query = urlencode([(name, _text(name, value)) for name, value in rest.items()], quote_via=quote)
        return _Sent(verb, f"{target}?{query}" if query else target, headers, None)

    def _object(self, answer: Response) -> Heard:
        if not answer.body.strip():
            return Heard(b"{}", {})  # deleting has nothing to say (section 11.3)
        return self._heard(answer.body, "answered")

    def _event(self, data: bytes) -> Heard:
        heard = self._heard(one_line(data), "sent an event")
        if "error" in heard.value:
            error = heard.value["error"]
            status = error.get("code") if isinstance(error, dict) else None
            raise Refused(status_error(self._site.label, status if type(status) is int else 500, data, {}))
        return heard

    def _heard(self, raw: bytes, how: str) -> Heard:
        try:
            value = codec.loads(raw)
        except ValueError as exc:
            raise UpstreamProtocolError(f"agent {self._site.label!r} {how} with what is not JSON") from exc
        if not isinstance(value, dict):
            raise UpstreamProtocolError(f"agent {self._site.label!r} {how} with what is no JSON object")
        return Heard(raw, value)

    async def _not_a_stream(self, ask: Ask, answer: StreamingResponse) -> Exception:
        body = await answer.read(self._site.terms.max_bytes)
        if answer.status < 300:
            return UpstreamProtocolError(f"agent {self._site.label!r} answered {ask.operation.name} without a stream")
        error = status_error(self._site.label, answer.status, body, answer.headers)
        return Refused(failed(error.payload, answer.headers))


def _path(operation: Operation, template: str, params: Mapping[str, object]) -> tuple[str, JsonObject]:
    """The path with its places filled, and the parameters that are not in it."""
    rest: JsonObject = dict(params)  # type: ignore[arg-type]  # the parameters of a call are JSON

    def filled(match: re.Match[str]) -> str:
        value = rest.pop(match.group(1), None)
        # A dot segment would be another path to whoever normalises it (RFC 3986 section 5.2.4).
        if not isinstance(value, str) or value in ("", ".", ".."):
            raise InvalidCall(f"{operation.name}: {match.group(1)!r} must be an id that can stand in a path")
        return quote(value, safe="")

    return _PLACE.sub(filled, template), rest


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise InvalidCall(f"{name!r} cannot stand in a query (A2A 1.0, section 11.5)")


_: type[Caller] = HttpJsonCaller
