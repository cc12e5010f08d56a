"""The modern era over HTTP: every request stands alone, so there is nothing to set up (MCP 2026-07-28)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from adapters.upstreams.mcp.http import ACCEPT, Headers, NoStream, Post, Site, exchange, is_event_stream, messages
from adapters.upstreams.mcp.link import (
    MODERN_VERSION,
    Asked,
    Object,
    Request,
    Told,
    asked_nobody,
    modern_params,
    told_nobody,
    with_progress,
)
from adapters.upstreams.wire.sse import SseParser
from gateway import codec
from gateway.headers import encode_value, param_headers
from gateway.types import EMPTY, Era


class ModernHttp:
    """A modern MCP server at a URL."""

    era = Era.MODERN

    def __init__(self, site: Site) -> None:
        self._site = site

    async def request(self, request: Request, told: Told = told_nobody, asked: Asked = asked_nobody) -> Object:
        """One POST, whatever happens."""
        number = next(self._site.ids)
        params = modern_params(request)
        if told is not told_nobody:
            params = with_progress(params, number)
        message = {"jsonrpc": "2.0", "id": number, "method": request.method, "params": params}
        post = Post(message, _headers(request), request.timeout_s, request.max_bytes)
        return await exchange(self._site, post, told, asked_nobody)

    async def listen(self, wanted: Object, timeout_s: float, max_bytes: int) -> AsyncGenerator[Object, None]:
        """The notifications of one `subscriptions/listen` stream, the acknowledgement first, until it ends.

        Raises `NoStream` when the upstream offers none.
        """
        request = Request("subscriptions/listen", {"notifications": wanted}, timeout_s=timeout_s)
        message = {
            "jsonrpc": "2.0",
            "id": next(self._site.ids),
            "method": request.method,
            "params": modern_params(request),
        }
        headers = [*ACCEPT, *_headers(request), *self._site.credentials]
        body = codec.dumps(message)
        site = self._site
        async with await site.pool.open("POST", site.target, headers, body, deadline_s=timeout_s) as answer:
            if not is_event_stream(answer):
                raise NoStream
            async with aclosing(messages(site, answer, SseParser(max_event_bytes=max_bytes), None)) as stream:
                async for event in stream:
                    yield event


def _headers(request: Request) -> Headers:
    headers: list[tuple[bytes, bytes]] = [
        (b"mcp-protocol-version", MODERN_VERSION.encode()),
        (b"mcp-method", request.method.encode()),
    ]
    if request.name:
        headers.append((b"mcp-name", encode_value(request.name).encode()))
    if request.param_headers:
        arguments = request.params.get("arguments")
        headers += param_headers(request.param_headers, arguments if isinstance(arguments, dict) else EMPTY)
    if request.traceparent:
        headers.append((b"traceparent", request.traceparent.encode()))
    return headers
