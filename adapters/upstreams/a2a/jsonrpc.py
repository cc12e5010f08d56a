"""Calls an agent over JSON-RPC: results and events go on as the bytes that the agent wrote."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from adapters.upstreams.a2a.answers import failed, is_error, kept, refusal
from adapters.upstreams.a2a.caller import Ask, Caller, Heard, Refused, Reply
from adapters.upstreams.a2a.dialect import Dialect
from adapters.upstreams.a2a.envelope import Opened, one_line, opened
from adapters.upstreams.a2a.site import Site, is_event_stream
from adapters.upstreams.wire.http import Response, StreamingResponse
from gateway import codec
from gateway.errors import UpstreamProtocolError
from gateway.types import Result

_UNARY: Final = ((b"content-type", b"application/json"), (b"accept", b"application/json"))
_STREAM: Final = ((b"content-type", b"application/json"), (b"accept", b"text/event-stream"))


class JsonRpcCaller:
    """Speaks JSON-RPC (section 9), in the dialect of the interface's version."""

    def __init__(self, site: Site, dialect: Dialect) -> None:
        self._site = site
        self._dialect = dialect
        self._ids = itertools.count(1)

    async def unary(self, ask: Ask) -> Reply:
        """One POST, whatever happens."""
        number, body = self._body(ask)
        headers = [*_UNARY, *self._site.headers_for(ask)]
        answer = await self._site.fetch("POST", self._site.base, ask, headers, body)
        return self._reply(ask, number, answer)

    async def stream(self, ask: Ask) -> AsyncGenerator[Heard, None]:
        """The events of one POST."""
        site = self._site
        number, body = self._body(ask)
        headers = [*_STREAM, *site.headers_for(ask)]
        async with await site.pool.open("POST", site.base, headers, body, deadline_s=site.terms.timeout_s) as answer:
            if not is_event_stream(answer):
                raise await self._not_a_stream(ask, number, answer)
            async with aclosing(site.events(answer)) as events:
                async for data in events:
                    yield self._event(data, number)

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Close all connections, once what runs has ended or that many seconds are over."""
        await self._site.aclose(grace_s)

    def _body(self, ask: Ask) -> tuple[int, bytes]:
        number = next(self._ids)
        method, params = self._dialect.request(ask.operation, ask.params)
        if self._site.interface.tenant:
            params = {"tenant": self._site.interface.tenant, **params}
        return number, codec.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})

    def _reply(self, ask: Ask, number: int, answer: Response) -> Reply:
        found = self._opened(answer.body, number, answer.status)
        if found.failed:
            return Reply(failed(self._error(found), answer.headers), None)
        heard = self._dialect.result(ask.operation, found)
        if heard is None:
            raise UpstreamProtocolError(f"agent {self._site.label!r} answered with a result that is no JSON object")
        return Reply(Result(heard.raw, headers=tuple(kept(answer.headers))), heard.value)

    def _event(self, data: bytes, number: int) -> Heard:
        found = opened(data, number, self._site.label)
        if found.failed:
            raise Refused(failed(one_line(self._error(found)), {}))
        heard = self._dialect.event(found)
        if heard is None:
            raise UpstreamProtocolError(f"agent {self._site.label!r} sent an event that is no JSON object")
        return heard

    def _opened(self, body: bytes, number: int, status: int) -> Opened:
        if status in (401, 403):
            raise refusal(self._site.label, status)
        try:
            found = opened(body, number, self._site.label)
        except UpstreamProtocolError as exc:
            raise (exc if status == 200 else refusal(self._site.label, status)) from exc
        if status != 200 and not found.failed:
            raise refusal(self._site.label, status)
        return found

    def _error(self, found: Opened) -> bytes:
        if not is_error(found.value):
            raise UpstreamProtocolError(f"agent {self._site.label!r} answered with an error that is none of JSON-RPC")
        return self._dialect.error(found)

    async def _not_a_stream(self, ask: Ask, number: int, answer: StreamingResponse) -> Exception:
        body = await answer.read(self._site.terms.max_bytes)
        found = self._opened(body, number, answer.status)
        if found.failed:
            return Refused(failed(self._error(found), answer.headers))
        return UpstreamProtocolError(f"agent {self._site.label!r} answered {ask.operation.name} without a stream")


_: type[Caller] = JsonRpcCaller
