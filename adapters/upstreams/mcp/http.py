"""MCP over Streamable HTTP: one POST, answered with JSON or with an event stream."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import anyio

from adapters.upstreams.mcp.link import Asked, Object, Told, response_in
from adapters.upstreams.wire.http import HttpPool, StreamingResponse
from adapters.upstreams.wire.sse import SseParser
from gateway import codec
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable
from gateway.types import Era

Headers = Sequence[tuple[bytes, bytes]]

ACCEPT: Final = (
    (b"content-type", b"application/json"),
    (b"accept", b"application/json, text/event-stream"),
)
MAX_RESUMES: Final = 8
MAX_RETRY_S: Final = 10.0


class SessionLost(Exception):
    """The upstream no longer knows the legacy session."""


class NoStream(Exception):
    """The server offers no stream of changes: it has to be asked."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where one HTTP upstream is and how it is entered. `credentials` are its own, from configuration."""

    label: str
    pool: HttpPool
    target: str
    credentials: Headers = ()
    ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


@dataclass(frozen=True, slots=True)
class Post:
    """One POST and how its answer is treated."""

    message: Object
    headers: Headers
    timeout_s: float
    max_bytes: int
    era: Era = Era.MODERN


async def exchange(
    site: Site, post: Post, told: Told, asked: Asked, opened: Callable[[str], None] = lambda _: None
) -> Object:
    """Send one request and return its JSON-RPC response; what else the stream brings goes to `told` and `asked`.

    `opened` is given the `Mcp-Session-Id` that the answer carries, if any. Raises the `Upstream*` errors, and
    `SessionLost` for a 404 on a legacy session.
    """
    body = codec.dumps(post.message)
    headers = [*ACCEPT, *post.headers, *site.credentials]
    async with await site.pool.open("POST", site.target, headers, body, deadline_s=post.timeout_s) as answer:
        session_id = answer.headers.get(b"mcp-session-id")
        if session_id is not None:
            opened(session_id.decode("latin-1"))
        if is_event_stream(answer):
            return await _streamed(site, post, answer, told, asked)
        return response_in(await _json(site, post, answer), site.label)


async def notify(site: Site, post: Post) -> None:
    """Send a notification or a response: nothing comes back but an acknowledgement."""
    headers = [*ACCEPT, *post.headers, *site.credentials]
    body = codec.dumps(post.message)
    answer = await site.pool.post(site.target, headers, body, deadline_s=post.timeout_s, max_bytes=post.max_bytes)
    if answer.status >= 400:
        raise UpstreamUnavailable(f"upstream {site.label!r} refused a message with HTTP {answer.status}")


def is_event_stream(answer: StreamingResponse) -> bool:
    return answer.status == 200 and answer.headers.get(b"content-type", b"").lower().startswith(b"text/event-stream")


async def _json(site: Site, post: Post, answer: StreamingResponse) -> Object:
    data = await answer.read(post.max_bytes)
    message = _decoded(data)
    if answer.status != 200 and (message is None or "error" not in message):
        raise _refusal(site, post, answer.status)
    if message is None:
        raise UpstreamProtocolError(f"upstream {site.label!r} answered something that is not a JSON object")
    if answer.status == 404 and _in_session(post):
        raise SessionLost
    return message


def _in_session(post: Post) -> bool:
    return any(name == b"mcp-session-id" for name, _ in post.headers)


def _decoded(data: bytes) -> dict[str, object] | None:
    try:
        message = codec.loads(data)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None  # type: ignore[return-value]  # a JSON object


def _refusal(site: Site, post: Post, status: int) -> Exception:
    if status == 404 and _in_session(post):
        return SessionLost()
    if status in (401, 403):
        words = f"upstream {site.label!r} refused the gateway's own credential (HTTP {status}); check its `headers`"
        return UpstreamUnavailable(words)
    if status >= 500 or status == 429:
        return UpstreamUnavailable(f"upstream {site.label!r} answered HTTP {status}")
    return UpstreamProtocolError(f"upstream {site.label!r} answered HTTP {status} without a JSON-RPC message")


async def _streamed(site: Site, post: Post, answer: StreamingResponse, told: Told, asked: Asked) -> Object:
    """Follow the stream to the response, over reconnects where the (legacy) server allows them."""
    parser = SseParser(max_event_bytes=post.max_bytes)
    response = await _followed(site, post, answer, parser, told, asked)
    tries = 0
    while response is None:
        if post.era is Era.MODERN or not parser.last_id or tries >= MAX_RESUMES:
            raise UpstreamUnavailable(f"upstream {site.label!r} ended its stream before the answer")
        tries += 1
        # 2025-11-25, basic/transports, "Resumability and Redelivery": wait as long as the server asked, then go on.
        await anyio.sleep(min((parser.retry_ms or 1_000) / 1_000, MAX_RETRY_S))
        headers = [*ACCEPT[1:], *post.headers, *site.credentials, (b"last-event-id", parser.last_id.encode())]
        async with await site.pool.open("GET", site.target, headers, None, deadline_s=post.timeout_s) as again:
            if not is_event_stream(again):
                raise UpstreamUnavailable(f"upstream {site.label!r} would not go on with its stream")
            response = await _followed(site, post, again, parser, told, asked)
    return response


async def _followed(
    site: Site, post: Post, answer: StreamingResponse, parser: SseParser, told: Told, asked: Asked
) -> Object | None:
    async with aclosing(messages(site, answer, parser, post.timeout_s)) as stream:
        async for message in stream:
            method = message.get("method")
            if method is None:
                if message.get("id") == post.message.get("id"):
                    return response_in(message, site.label)
            elif "id" not in message:
                await told(str(method), params_of(message))
            else:
                answer.expect_within(None)  # a person may be thinking: the upstream is not the one that is slow
                await _answer(site, post, message, asked)
    return None


async def _answer(site: Site, post: Post, question: Object, asked: Asked) -> None:
    answer = await asked(str(question["method"]), params_of(question))
    reply = {"jsonrpc": "2.0", "id": question["id"], **answer}
    await notify(site, Post(reply, post.headers, post.timeout_s, post.max_bytes, post.era))


def params_of(message: Object) -> Object:
    """The parameters of a request or notification."""
    params = message.get("params")
    return params if isinstance(params, Mapping) else {}


async def messages(
    site: Site, answer: StreamingResponse, parser: SseParser, timeout_s: float | None
) -> AsyncGenerator[Object, None]:
    """The JSON-RPC messages of a stream; each piece of it restarts the clock."""
    answer.expect_within(timeout_s)
    async for chunk in answer.chunks():
        for event in parser.feed(chunk):
            if not event.data:
                continue
            message = _decoded(event.data)
            if message is None:
                raise UpstreamProtocolError(f"upstream {site.label!r} sent an event that is not a JSON object")
            yield message
        answer.expect_within(timeout_s)
