"""The legacy era over HTTP: a session per client, so that nobody's questions or messages reach another's client."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import anyio

from adapters.upstreams.mcp.discovery import Description, handshaken
from adapters.upstreams.mcp.http import (
    ACCEPT,
    Headers,
    NoStream,
    Post,
    SessionLost,
    Site,
    is_event_stream,
    json_reply,
    notify,
    post_of,
    trace_headers,
)
from adapters.upstreams.mcp.link import (
    CLIENT_INFO,
    LEGACY_VERSION,
    METHOD_NOT_FOUND,
    Asked,
    News,
    Object,
    Reply,
    Request,
    Told,
    asked_nobody,
    legacy_params,
    params_of,
    told_nobody,
)
from adapters.upstreams.mcp.streams import AnswerStream, events
from adapters.upstreams.wire.http import StreamingResponse
from adapters.upstreams.wire.sse import SseParser
from gateway.errors import InterlockError, QuotaExceeded, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Era

HANDSHAKE_S: Final = 10.0
GOODBYE_S: Final = 2.0
CANCEL_S: Final = 1.0
MAX_SESSIONS: Final = 1_000
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


class Agreed:
    """What the handshake settled: what the server said, and what every later request carries."""

    __slots__ = ("description", "headers", "session_id")

    def __init__(self, session_id: str, description: Description) -> None:
        self.session_id = session_id
        self.description = description
        version = description.version
        headers = [(b"mcp-protocol-version", version.encode())] if version >= "2025-06-18" else []
        if session_id:
            headers.append((b"mcp-session-id", session_id.encode("latin-1", "replace")))
        self.headers: Headers = headers


class LegacySession:
    """A session with a legacy server at a URL, opened by the first request and again after the server lost it."""

    era = Era.LEGACY
    box = None

    def __init__(self, site: Site, capabilities: Object, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._site = site
        self._capabilities = capabilities
        self._monotonic = monotonic
        self._agreed: Agreed | None = None
        self._opening = anyio.Lock()
        self._level = ""
        self.used_at = monotonic()
        self.running = 0

    async def open(self) -> Agreed:
        """The handshake, once. Raises the `Upstream*` errors."""
        if self._agreed is not None:
            return self._agreed
        async with self._opening:
            if self._agreed is None:
                self._agreed = await self._handshake()
                self._level = ""
            return self._agreed

    def forget(self, agreed: Agreed) -> None:
        """The server lost this session; one that was opened since then stays."""
        if self._agreed is agreed:
            self._agreed = None

    async def request(self, request: Request, told: Told = told_nobody, asked: Asked = asked_nobody) -> Reply:
        """Send a request; a session that the server lost is opened anew once, for the lost one was not served."""
        self.running += 1
        try:
            for _ in range(2):
                agreed = await self.open()
                try:
                    await self._set_level(agreed, request)
                    return await self._request(agreed, request, told, asked)
                except SessionLost:
                    self.forget(agreed)
            raise UpstreamUnavailable(f"upstream {self._site.label!r} loses every session it opens")
        finally:
            self.running -= 1
            self.used_at = self._monotonic()

    async def _request(self, agreed: Agreed, request: Request, told: Told, asked: Asked) -> Reply:
        number = next(self._site.ids)
        params = legacy_params(request, number if request.progress else None)
        headers = [*agreed.headers, *trace_headers(request)]
        post = post_of(number, params, request, headers, Era.LEGACY, session=bool(agreed.session_id))
        try:
            return await _exchange(self._site, post, told, asked)
        except (UpstreamTimeout, UpstreamProtocolError):
            await self._cancelled(agreed, number, "no usable answer in time")
            raise
        except anyio.get_cancelled_exc_class():
            await self._cancelled(agreed, number, "the client went away")
            raise

    async def _set_level(self, agreed: Agreed, request: Request) -> None:
        """Have the server send what this call wants to hear, and no less to those who want more."""
        level = request.log_level
        if level not in LEVELS or "logging" not in agreed.description.capabilities:
            return
        if self._level and LEVELS.index(self._level) <= LEVELS.index(level):
            return
        self._level = level
        wish = Request("logging/setLevel", {"level": level}, timeout_s=HANDSHAKE_S)
        headers, session = agreed.headers, bool(agreed.session_id)
        post = post_of(next(self._site.ids), wish.params, wish, headers, Era.LEGACY, session=session)
        await _exchange(self._site, post, told_nobody, asked_nobody)

    async def _cancelled(self, agreed: Agreed, number: int, reason: str) -> None:
        """To leave is no cancellation in this era (2025-11-25, basic/transports): the server has to be told."""
        params = {"requestId": number, "reason": reason}
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        with anyio.move_on_after(CANCEL_S, shield=True):
            try:
                await notify(self._site, message, agreed.headers, CANCEL_S)
            except InterlockError:  # then it cannot be told
                return

    async def _handshake(self) -> Agreed:
        site, seen = self._site, list[str]()
        params = {"protocolVersion": LEGACY_VERSION, "capabilities": self._capabilities, "clientInfo": CLIENT_INFO}
        request = Request("initialize", params, timeout_s=HANDSHAKE_S, max_bytes=4 * 1024 * 1024)
        post = post_of(next(site.ids), params, request, (), Era.LEGACY)
        reply = await _exchange(site, post, told_nobody, asked_nobody, seen.append)
        agreed = Agreed(seen[0] if seen else "", handshaken(reply, site.label))
        await notify(site, {"jsonrpc": "2.0", "method": "notifications/initialized"}, agreed.headers, HANDSHAKE_S)
        return agreed

    async def follow(self, take: News, opening_s: float, max_bytes: int) -> None:
        """Pass on what the server tells the session outside of any request, until the stream ends.

        It is the GET stream (2025-11-25, basic/transports, "Listening for Messages"). Raises `NoStream` when the
        server has none, and the `Upstream*` errors.
        """
        site, agreed = self._site, await self.open()
        headers = [ACCEPT[1], *agreed.headers, *site.credentials]
        async with await site.pool.open("GET", site.target, headers, None, deadline_s=opening_s) as answer:
            self._check_stream(answer, agreed)
            answer.expect_within(None)
            async with aclosing(events(site, answer, SseParser(max_event_bytes=max_bytes))) as stream:
                async for message, _ in stream:
                    method = message.get("method")
                    if isinstance(method, str) and "id" not in message:
                        take(method, params_of(message))
                    elif isinstance(method, str):
                        await self._refuse(agreed, message, method)

    def _check_stream(self, answer: StreamingResponse, agreed: Agreed) -> None:
        if is_event_stream(answer):
            return
        if answer.status == 404 and agreed.session_id:
            self.forget(agreed)
            raise UpstreamUnavailable(f"upstream {self._site.label!r} ended the session")
        if answer.status >= 500 or answer.status == 429:
            raise UpstreamUnavailable(f"upstream {self._site.label!r} answered HTTP {answer.status} to GET")
        raise NoStream

    async def _refuse(self, agreed: Agreed, question: Object, method: str) -> None:
        """Nobody stands behind this session who could be asked; but that it lives can be said."""
        error = {"code": METHOD_NOT_FOUND, "message": f"{method} belongs to no request of this session"}
        answer: dict[str, object] = {"result": {}} if method == "ping" else {"error": error}
        await notify(self._site, {"jsonrpc": "2.0", "id": question["id"], **answer}, agreed.headers, HANDSHAKE_S)

    async def close(self) -> None:
        """Tell the server that the session is over; best effort."""
        agreed, self._agreed = self._agreed, None
        if agreed is None or not agreed.session_id:
            return
        headers = [*agreed.headers, *self._site.credentials]
        pool, target = self._site.pool, self._site.target
        try:
            async with await pool.open("DELETE", target, headers, None, deadline_s=GOODBYE_S):
                return
        except InterlockError:
            return


async def _exchange(
    site: Site, post: Post, told: Told, asked: Asked, opened: Callable[[str], None] = lambda _: None
) -> Reply:
    """Send one request. `opened` is given the `Mcp-Session-Id` that the answer carries, if any."""
    headers = [*ACCEPT, *post.headers, *site.credentials]
    async with await site.pool.open("POST", site.target, headers, post.body, deadline_s=post.timeout_s) as answer:
        session_id = answer.headers.get(b"mcp-session-id")
        if session_id:
            opened(session_id.decode("latin-1"))
        if is_event_stream(answer):
            return await AnswerStream(site, post, told, asked).reply(answer)
        return await json_reply(site, post, answer)


class LegacySessions:
    """The sessions with one legacy server: one per client that needs one of its own, one for all others."""

    def __init__(self, site: Site, *, idle_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._site = site
        self._idle_s = idle_s
        self._monotonic = monotonic
        self._sessions: dict[tuple[str, bytes], LegacySession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def session(self, owner: str, capabilities: Object, key: bytes) -> LegacySession:
        """The session of one owner with these capabilities (`key` identifies them).

        Raises `QuotaExceeded` when there are too many at a time.
        """
        found = self._sessions.get((owner, key))
        if found is None:
            if len(self._sessions) >= MAX_SESSIONS:
                words = f"upstream {self._site.label!r} has {MAX_SESSIONS} sessions; try again when some are idle"
                raise QuotaExceeded(words, retry_after_s=int(self._idle_s) + 1)
            found = LegacySession(self._site, capabilities, monotonic=self._monotonic)
            self._sessions[owner, key] = found
        found.used_at = self._monotonic()
        return found

    async def close_idle(self) -> None:
        """End the sessions that nobody has used for a while."""
        limit = self._monotonic() - self._idle_s
        idle = [key for key, session in self._sessions.items() if not session.running and session.used_at < limit]
        await _close_all([self._sessions.pop(key) for key in idle])

    async def aclose(self) -> None:
        """End all of them."""
        sessions, self._sessions = list(self._sessions.values()), {}
        await _close_all(sessions)


async def _close_all(sessions: list[LegacySession]) -> None:
    async with anyio.create_task_group() as group:
        for session in sessions:
            group.start_soon(session.close)
