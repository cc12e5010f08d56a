"""MCP over Streamable HTTP: one POST, answered with JSON or with an event stream."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from adapters.upstreams.mcp.body import messages_in, quick_reply
from adapters.upstreams.mcp.link import Object, Reply, Request, reply_in
from adapters.upstreams.wire.http import HttpPool, StreamingResponse
from gateway import codec
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable
from gateway.types import Era

Headers = Sequence[tuple[bytes, bytes]]

ACCEPT: Final = (
    (b"content-type", b"application/json"),
    (b"accept", b"application/json, text/event-stream"),
)
_BUSY: Final = frozenset({429, 502, 503, 504})
MAX_NOTE_BYTES: Final = 64 * 1024
"""The largest acknowledgement of a notification."""


class SessionLost(Exception):
    """The upstream no longer knows the legacy session. It has not served the request."""


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
    """One request as it is sent, and how its answer is treated."""

    number: int
    body: bytes
    headers: Headers
    """Everything but the upstream's own credentials."""
    timeout_s: float
    max_bytes: int
    era: Era = Era.MODERN
    session: bool = False


def post_of(
    number: int, params: Object, request: Request, headers: Headers, era: Era, *, session: bool = False
) -> Post:
    """A request, encoded."""
    message = {"jsonrpc": "2.0", "id": number, "method": request.method, "params": params}
    return Post(number, codec.dumps(message), headers, request.timeout_s, request.max_bytes, era, session)


def trace_headers(request: Request) -> list[tuple[bytes, bytes]]:
    """W3C Trace Context, for what stands between us and the server."""
    if not request.traceparent:
        return []
    lines = [(b"traceparent", request.traceparent.encode("latin-1", "replace"))]
    if request.tracestate:
        lines.append((b"tracestate", request.tracestate.encode("latin-1", "replace")))
    return lines


async def notify(site: Site, message: Object, headers: Headers, timeout_s: float) -> None:
    """Send a notification or a response: nothing comes back but an acknowledgement.

    Raises the `Upstream*` errors, and `UpstreamUnavailable` when the server refuses it.
    """
    lines = [*ACCEPT, *headers, *site.credentials]
    answer = await site.pool.post(
        site.target, lines, codec.dumps(message), deadline_s=timeout_s, max_bytes=MAX_NOTE_BYTES
    )
    if answer.status >= 400:
        raise UpstreamUnavailable(f"upstream {site.label!r} refused a message with HTTP {answer.status}")


def is_event_stream(answer: StreamingResponse) -> bool:
    """Whether the answer is a stream of events; it is used as one only then."""
    return answer.status == 200 and answer.headers.get(b"content-type", b"").lower().startswith(b"text/event-stream")


async def json_reply(site: Site, post: Post, answer: StreamingResponse) -> Reply:
    """The reply in an answer that is not a stream.

    Raises `UpstreamProtocolError` or `UpstreamUnavailable`, and `SessionLost` when a legacy session is.
    """
    data = await answer.read(post.max_bytes)
    status = answer.status
    if status == 200:
        reply = quick_reply(data, post.number)
        if reply is not None:
            return reply
    elif status in (401, 403):
        words = f"upstream {site.label!r} refused the gateway's own credential (HTTP {status}); check its `headers`"
        raise UpstreamUnavailable(words)
    elif status == 404 and post.session:
        raise SessionLost
    message = _only(messages_in(data), post.number)
    if message is not None and (status == 200 or isinstance(message.get("error"), dict)):
        if status == 400 and post.session and _lost_session(message):
            raise SessionLost
        return reply_in(message, post.number, site.label, status)
    raise _refusal(site, status)


def _only(messages: list[Object], number: int) -> Object | None:
    """The message that answers, out of a batch as well."""
    fitting = [message for message in messages if message.get("id") == number]
    return next(iter(fitting or messages), None)


def _lost_session(message: Object) -> bool:
    """Some servers say 400 where 404 is due; they have not served the request either."""
    error = message.get("error")
    words = error.get("message") if isinstance(error, dict) else None
    return isinstance(words, str) and "session" in words.lower()


def _refusal(site: Site, status: int) -> Exception:
    if status in _BUSY:
        return UpstreamUnavailable(f"upstream {site.label!r} answered HTTP {status}")
    return UpstreamProtocolError(f"upstream {site.label!r} answered HTTP {status} without a JSON-RPC message")
