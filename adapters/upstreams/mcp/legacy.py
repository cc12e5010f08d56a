"""The legacy era over HTTP: a session per client, so that nobody's questions or messages reach another's client."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import anyio

from adapters.upstreams.mcp.http import Headers, Post, SessionLost, Site, exchange, notify
from adapters.upstreams.mcp.link import (
    CLIENT_INFO,
    LEGACY_VERSION,
    LEGACY_VERSIONS,
    Asked,
    Object,
    Request,
    Told,
    asked_nobody,
    legacy_params,
    told_nobody,
    with_progress,
)
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable
from gateway.types import Era

HANDSHAKE_TIMEOUT_S = 10.0


@dataclass(slots=True)
class Agreed:
    """What the handshake settled."""

    session_id: str
    result: Object

    @property
    def version(self) -> str:
        return str(self.result.get("protocolVersion"))

    @property
    def headers(self) -> Headers:
        lines = [(b"mcp-protocol-version", self.version.encode())] if self.version >= "2025-06-18" else []
        if self.session_id:
            lines.append((b"mcp-session-id", self.session_id.encode("latin-1", "replace")))
        return lines


@dataclass(slots=True)
class LegacySession:
    """A session with a legacy server at a URL, opened by the first request and again after the server lost it."""

    site: Site
    capabilities: Object
    era: Era = Era.LEGACY
    agreed: Agreed | None = None
    used_at: float = field(default_factory=time.monotonic)
    running: int = 0
    _level: str = ""
    _opening: anyio.Lock = field(default_factory=anyio.Lock)

    async def open(self) -> Agreed:
        """The handshake, once."""
        async with self._opening:
            if self.agreed is None:
                self.agreed = await self._handshake()
                self._level = ""
            return self.agreed

    async def request(self, request: Request, told: Told = told_nobody, asked: Asked = asked_nobody) -> Object:
        """Send a request; a session that the server lost is opened anew once, for the lost one was not served."""
        self.running += 1
        try:
            try:
                return await self._request(request, told, asked)
            except SessionLost:
                self.agreed = None
            try:
                return await self._request(request, told, asked)
            except SessionLost as exc:
                raise UpstreamUnavailable(f"upstream {self.site.label!r} loses every session it opens") from exc
        finally:
            self.running -= 1
            self.used_at = time.monotonic()

    async def _request(self, request: Request, told: Told, asked: Asked) -> Object:
        agreed = await self.open()
        await self._set_level(agreed, request)
        number = next(self.site.ids)
        params = legacy_params(request)
        if told is not told_nobody:
            params = with_progress(params, number)
        message = {"jsonrpc": "2.0", "id": number, "method": request.method, "params": params}
        post = Post(message, agreed.headers, request.timeout_s, request.max_bytes, Era.LEGACY)
        try:
            return await exchange(self.site, post, told, asked)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(1.0, shield=True):
                await self._cancelled(agreed, number)
            raise

    async def _set_level(self, agreed: Agreed, request: Request) -> None:
        if not request.log_level or request.log_level == self._level:
            return
        self._level = request.log_level
        params = {"level": request.log_level}
        message = {"jsonrpc": "2.0", "id": next(self.site.ids), "method": "logging/setLevel", "params": params}
        post = Post(message, agreed.headers, HANDSHAKE_TIMEOUT_S, request.max_bytes, Era.LEGACY)
        await exchange(self.site, post, told_nobody, asked_nobody)

    async def _cancelled(self, agreed: Agreed, number: int) -> None:
        params = {"requestId": number, "reason": "the client went away"}
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        try:
            await notify(self.site, Post(message, agreed.headers, 1.0, 65_536, Era.LEGACY))
        except (UpstreamUnavailable, UpstreamProtocolError):
            return

    async def _handshake(self) -> Agreed:
        params = {"protocolVersion": LEGACY_VERSION, "capabilities": self.capabilities, "clientInfo": CLIENT_INFO}
        agreed = await initialize(self.site, params)
        done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await notify(self.site, Post(done, agreed.headers, HANDSHAKE_TIMEOUT_S, 65_536, Era.LEGACY))
        return agreed

    async def close(self) -> None:
        """Tell the server that the session is over; best effort."""
        agreed, self.agreed = self.agreed, None
        if agreed is None or not agreed.session_id:
            return
        headers = [*agreed.headers, *self.site.credentials]
        try:
            async with await self.site.pool.open("DELETE", self.site.target, headers, None, deadline_s=2.0):
                return
        except (UpstreamUnavailable, UpstreamProtocolError, TimeoutError):
            return


async def initialize(site: Site, params: Object) -> Agreed:
    """Send `initialize` and read the session id from the answer's headers."""
    message = {"jsonrpc": "2.0", "id": next(site.ids), "method": "initialize", "params": params}
    seen: list[str] = []
    post = Post(message, (), HANDSHAKE_TIMEOUT_S, 4 * 1024 * 1024, Era.LEGACY)
    response = await exchange(site, post, told_nobody, asked_nobody, seen.append)
    result = response.get("result")
    if not isinstance(result, Mapping) or result.get("protocolVersion") not in LEGACY_VERSIONS:
        raise UpstreamProtocolError(f"upstream {site.label!r} did not answer initialize with a version we speak")
    return Agreed(seen[-1] if seen else "", result)


class LegacySessions:
    """The sessions with one legacy server: one per client that needs one of its own, one for all others."""

    def __init__(self, site: Site, *, idle_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._site = site
        self._idle_s = idle_s
        self._monotonic = monotonic
        self._sessions: dict[tuple[str, bytes], LegacySession] = {}

    def session(self, owner: str, capabilities: Object, key: bytes) -> LegacySession:
        """The session of one owner with these capabilities (`key` identifies them)."""
        found = self._sessions.get((owner, key))
        if found is None:
            found = self._sessions[owner, key] = LegacySession(self._site, capabilities)
        found.used_at = self._monotonic()
        return found

    async def close_idle(self) -> None:
        """End the sessions that nobody has used for a while."""
        limit = self._monotonic() - self._idle_s
        for key, session in list(self._sessions.items()):
            if session.running == 0 and session.used_at < limit:
                del self._sessions[key]
                await session.close()

    async def aclose(self) -> None:
        """End all of them."""
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()
