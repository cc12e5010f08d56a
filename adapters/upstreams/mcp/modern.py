"""The modern era over HTTP: every request stands alone, so there is nothing to set up (MCP 2026-07-28)."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from adapters.upstreams.mcp.http import (
    ACCEPT,
    Headers,
    NoStream,
    Post,
    Site,
    is_event_stream,
    json_reply,
    post_of,
    trace_headers,
)
from adapters.upstreams.mcp.link import (
    MODERN_VERSION,
    Asked,
    News,
    Object,
    Reply,
    Request,
    Told,
    asked_nobody,
    modern_params,
    params_of,
    told_nobody,
)
from adapters.upstreams.mcp.streams import AnswerStream, events
from adapters.upstreams.wire.http import StreamingResponse
from adapters.upstreams.wire.sse import SseParser
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable
from gateway.headers import encode_value, param_headers
from gateway.types import EMPTY, Era

_VERSION: Final = (b"mcp-protocol-version", MODERN_VERSION.encode())


class ModernHttp:
    """A modern MCP server at a URL."""

    era = Era.MODERN
    box = None

    def __init__(self, site: Site) -> None:
        self._site = site
        self._fixed = [*ACCEPT, _VERSION, *site.credentials]

    async def request(self, request: Request, told: Told = told_nobody, asked: Asked = asked_nobody) -> Reply:
        """One POST, whatever happens."""
        site = self._site
        post = self._post(request)
        async with await site.pool.open(
            "POST", site.target, [*self._fixed, *post.headers], post.body, deadline_s=post.timeout_s
        ) as answer:
            if is_event_stream(answer):
                return await AnswerStream(site, post, told, asked_nobody).reply(answer)
            return await json_reply(site, post, answer)

    def _post(self, request: Request) -> Post:
        number = next(self._site.ids)
        params = modern_params(request, number if request.progress else None)
        return post_of(number, params, request, _headers(request), Era.MODERN)

    async def listen(self, wanted: Object, take: News, opening_s: float, max_bytes: int) -> None:
        """Pass on the notifications of one `subscriptions/listen` stream, the acknowledgement first, until it ends.

        Raises `NoStream` when the server offers none, and the `Upstream*` errors.
        """
        site = self._site
        request = Request("subscriptions/listen", {"notifications": wanted}, timeout_s=opening_s, max_bytes=max_bytes)
        post = self._post(request)
        headers = [*self._fixed, *post.headers]
        async with await site.pool.open("POST", site.target, headers, post.body, deadline_s=opening_s) as answer:
            if not is_event_stream(answer):
                raise await _not_offered(site, post, answer)
            answer.expect_within(None)
            async with aclosing(events(site, answer, SseParser(max_event_bytes=max_bytes))) as stream:
                async for message, _ in stream:
                    method = message.get("method")
                    if isinstance(method, str) and "id" not in message:
                        take(method, params_of(message))
                    elif isinstance(message.get("error"), dict):
                        raise NoStream
                    elif message.get("id") == post.number:
                        return  # ended in good order (patterns/subscriptions, "Graceful Closure")


async def _not_offered(site: Site, post: Post, answer: StreamingResponse) -> Exception:
    """Why there is no stream: a server that has no such method need not be asked again, one that is unwell must."""
    try:
        reply = await json_reply(site, post, answer)
    except UpstreamProtocolError:
        return NoStream()
    if reply.status >= 500:
        return UpstreamUnavailable(f"upstream {site.label!r} answered subscriptions/listen with HTTP {reply.status}")
    return NoStream()


def _headers(request: Request) -> Headers:
    """The headers of this one request (basic/transports/streamable-http, "Request Metadata")."""
    headers = [(b"mcp-method", request.method.encode())]
    if request.name:
        headers.append((b"mcp-name", encode_value(request.name).encode()))
    if request.param_headers:
        arguments = request.params.get("arguments")
        headers += param_headers(request.param_headers, arguments if isinstance(arguments, dict) else EMPTY)
    return headers + trace_headers(request) if request.traceparent else headers
