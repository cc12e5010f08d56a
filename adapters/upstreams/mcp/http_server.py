"""A server at a URL."""

from __future__ import annotations

from typing import Final

import anyio

from adapters.upstreams.mcp.discovery import Description, discovered
from adapters.upstreams.mcp.http import Site
from adapters.upstreams.mcp.lease import ALL_LISTS, CALLBACKS, Lease, Server, callbacks_of
from adapters.upstreams.mcp.legacy import LegacySession, LegacySessions
from adapters.upstreams.mcp.link import Link, News, Request
from adapters.upstreams.mcp.modern import ModernHttp
from gateway import codec
from gateway.errors import UpstreamProtocolError, UpstreamTimeout
from gateway.ports import Relay
from gateway.types import EMPTY, Era

PROBE_S: Final = 10.0
MAX_EVENT_BYTES: Final = 1024 * 1024


class HttpServer:
    """A server at a URL, in the era that it speaks."""

    def __init__(self, site: Site, *, era: Era | None, idle_s: float) -> None:
        self._site = site
        self._wanted_era = era
        self._modern = ModernHttp(site)
        self._sessions = LegacySessions(site, idle_s=idle_s)
        self._main: LegacySession | None = None
        self._modern_lease = Lease(self._modern, may_ask=True)
        self.keep_awake = False
        self.resting = False
        self.stderr = ""
        self.max_parked = max(1, site.pool.max_connections // 2)  # each holds a connection while its client thinks

    async def connect(self) -> Description:
        """Probe for the era anew: a server may have changed it while it was away."""
        former, self._main = self._main, None
        if former is not None:
            await former.close()
        if self._wanted_era is not Era.LEGACY:
            description = await self._discovered()
            if description is not None:
                return description
        if self._wanted_era is Era.MODERN:
            raise UpstreamProtocolError(f"upstream {self._site.label!r} does not speak MCP 2026-07-28 (era = modern)")
        session = LegacySession(self._site, CALLBACKS)
        agreed = await session.open()
        self._main = session
        return agreed.description

    async def _discovered(self) -> Description | None:
        """What `server/discover` says, or `None` for a server of the handshake era (2026-07-28, basic/versioning)."""
        request = Request("server/discover", EMPTY, capabilities=CALLBACKS, timeout_s=PROBE_S)
        try:
            reply = await self._modern.request(request)
        except UpstreamProtocolError:
            return None
        except UpstreamTimeout:
            if self._wanted_era is Era.MODERN:
                raise
            return None  # silent about what it does not know; were it silent about all, the handshake would tell
        return discovered(reply, self._site.label)

    async def main(self) -> Link:
        """The gateway's own link."""
        return self._main if self._main is not None else self._modern

    async def lease(self, relay: Relay, *, alone: bool = False) -> Lease:
        """The one modern link; or a session of the client's own where it can be asked, or has a session with us."""
        if self._main is None:
            return self._modern_lease
        callbacks = callbacks_of(relay)
        if not callbacks and relay.era is Era.MODERN:
            return Lease(self._sessions.session("", EMPTY, b""), may_ask=False)
        return Lease(self._sessions.session(relay.owner, callbacks, codec.canonical(callbacks)), may_ask=True)

    async def changes(self, watched: list[str], take: News) -> None:
        """Follow the server's one stream of changes."""
        if self._main is not None:
            await self._main.follow(take, PROBE_S, MAX_EVENT_BYTES)
            return
        await self._modern.listen({**ALL_LISTS, "resourceSubscriptions": watched}, take, PROBE_S, MAX_EVENT_BYTES)

    async def over(self) -> None:
        """There is no connection that could end: whether the server is there shows in what is asked of it."""
        await anyio.sleep_forever()

    async def tidy(self) -> None:
        """End the sessions that nobody has used for a while."""
        await self._sessions.close_idle()

    async def aclose(self) -> None:
        """End all sessions and close all connections."""
        try:
            await self._sessions.aclose()
            if self._main is not None:
                await self._main.close()
        finally:
            await self._site.pool.aclose()


_: type[Server] = HttpServer
