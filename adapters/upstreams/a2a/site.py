"""One HTTP interface of an agent: where it is, how it is entered, and how answers are fetched from it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from adapters.upstreams.a2a.caller import READS, Ask, Headers, Terms
from adapters.upstreams.wire.http import HttpPool, Response, StreamingResponse, split_url
from adapters.upstreams.wire.sse import SseParser
from gateway.a2a.directory import Interface
from gateway.a2a.operations import LEGACY_VERSION
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable

MAX_CONNECTIONS: Final = 512
"""Streams hold theirs for as long as they last."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where one interface is. `base` is the path of its URL."""

    label: str
    interface: Interface
    pool: HttpPool
    base: str
    terms: Terms
    credentials: Headers

    def headers_for(self, ask: Ask) -> list[tuple[bytes, bytes]]:
        """The headers of one request: version, extensions, this hop's own, and the credentials."""
        legacy = self.interface.version == LEGACY_VERSION
        lines = [(b"a2a-version", self.interface.version.encode()), *ask.headers, *self.credentials]
        if ask.extensions:
            name = b"x-a2a-extensions" if legacy else b"a2a-extensions"
            lines.append((name, ", ".join(ask.extensions).encode("latin-1", "replace")))
        return lines

    async def fetch(self, verb: str, target: str, ask: Ask, headers: Headers, body: bytes | None) -> Response:
        """The whole answer. A read is asked once more when the connection was lost."""
        try:
            return await self._fetch(verb, target, headers, body)
        except UpstreamUnavailable:
            if ask.operation.name not in READS:
                raise
            return await self._fetch(verb, target, headers, body)

    async def _fetch(self, verb: str, target: str, headers: Headers, body: bytes | None) -> Response:
        terms = self.terms
        if verb == "POST" and body is not None:
            return await self.pool.post(target, headers, body, deadline_s=terms.timeout_s, max_bytes=terms.max_bytes)
        async with await self.pool.open(verb, target, headers, body, deadline_s=terms.timeout_s) as answer:
            return Response(answer.status, answer.headers, await answer.read(terms.max_bytes))

    async def events(self, answer: StreamingResponse) -> AsyncGenerator[bytes, None]:
        """The data of the events of a stream, until its end. An event that the end cuts off is dropped."""
        idle_s = self.terms.stream_idle_s
        parser = SseParser(max_event_bytes=self.terms.max_bytes)
        answer.expect_within(idle_s)
        async for chunk in answer.chunks():
            if idle_s is not None:
                answer.expect_within(idle_s)
            for event in parser.feed(chunk):
                if event.data:
                    yield event.data

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Close all connections, once what runs has ended or that many seconds are over."""
        await self.pool.aclose(grace_s=grace_s)


def is_event_stream(answer: StreamingResponse) -> bool:
    """Whether the answer is a stream of events; it is used as one only then."""
    return answer.status == 200 and answer.headers.get(b"content-type", b"").lower().startswith(b"text/event-stream")


def site_of(label: str, interface: Interface, terms: Terms) -> Site:
    """The site of an interface. Raises `UpstreamProtocolError` for an address that cannot be used."""
    try:
        origin, target = split_url(interface.url)
        home = split_url(terms.home)[0] if terms.home else origin
    except ValueError as exc:
        raise UpstreamProtocolError(f"agent {label!r}: the card names an address that cannot be used: {exc}") from exc
    # A card must not be able to send the credentials elsewhere, or in the clear.
    at_home = origin.host == home.host and (origin.scheme == "https" or home.scheme == "http")
    pool = HttpPool(origin, label=label, max_connections=MAX_CONNECTIONS)
    pool.reach = terms.reach if origin.host != home.host else None
    return Site(label, interface, pool, target, terms, terms.headers if at_home else ())
