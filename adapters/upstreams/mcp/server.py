"""How one MCP server is reached: over HTTP, or as processes of ours. Both offer the same few things to the adapter."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from adapters.upstreams.mcp.fetch import Description
from adapters.upstreams.mcp.http import ACCEPT, NoStream, Site, is_event_stream, messages, params_of
from adapters.upstreams.mcp.legacy import LegacySession, LegacySessions
from adapters.upstreams.mcp.link import Link, Object, Request
from adapters.upstreams.mcp.modern import ModernHttp
from adapters.upstreams.mcp.stdio import StdioLink
from adapters.upstreams.wire.process import ProcessSpec
from adapters.upstreams.wire.sse import SseParser
from gateway import codec
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamUnavailable
from gateway.ports import Relay
from gateway.types import EMPTY, Era

CALLBACKS: Final[Object] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
"""What the gateway's own connection declares, so that the upstream shows all it has."""
ALL_LISTS: Final[Object] = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
PROBE_S: Final = 10.0
MAX_EVENT_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Lease:
    """A link for one call. `may_ask`: a question that comes over it can only belong to that call's client."""

    link: Link
    may_ask: bool


class Server(Protocol):
    """One MCP server, whatever carries the messages."""

    keep_awake: bool
    """Somebody subscribed to what it announces, so it must not be stopped for idleness."""

    @property
    def resting(self) -> bool:
        """Stopped for idleness; the next call wakes it."""

    @property
    def stderr(self) -> str:
        """The last words of its process, if it is one."""

    async def connect(self) -> Description:
        """Reach the server and agree on the era. Raises the `Upstream*` errors."""

    @property
    def main(self) -> Link:
        """The gateway's own link, once connected."""

    async def lease(self, relay: Relay) -> Lease:
        """A link for a call of this client's. Raises `UpstreamUnavailable`."""

    def changes(self, watched: list[str]) -> AsyncGenerator[tuple[str, Object], None]:
        """Notifications that belong to no call.

        Ends when the stream is to be opened again; raises an `Upstream*` error when the connection is over, `NoStream`
        when there is nothing to follow.
        """

    async def tidy(self) -> None:
        """Give up what nobody uses."""

    async def aclose(self) -> None: ...


def callbacks_of(relay: Relay) -> dict[str, object]:
    """The part of a client's capabilities that lets an upstream ask it something."""
    return {name: value for name, value in relay.capabilities.items() if name in CALLBACKS}


class HttpServer:
    """A server at a URL."""

    def __init__(self, site: Site, *, era: Era | None, idle_s: float) -> None:
        self._site = site
        self._wanted_era = era
        self._modern = ModernHttp(site)
        self._sessions = LegacySessions(site, idle_s=idle_s)
        self._main: LegacySession | None = None
        self.keep_awake = False
        self.resting = False
        self.stderr = ""

    async def connect(self) -> Description:
        if self._wanted_era is not Era.LEGACY:
            description = await self._discovered()
            if description is not None:
                self._main = None
                return description
        if self._wanted_era is Era.MODERN:
            raise UpstreamProtocolError(f"upstream {self._site.label!r} does not speak MCP 2026-07-28 (era = modern)")
        session = LegacySession(self._site, CALLBACKS)
        agreed = await session.open()
        self._main = session
        return Description(Era.LEGACY, agreed.result)

    async def _discovered(self) -> Description | None:
        """What `server/discover` says, or `None` for a server of the handshake era (2026-07-28, basic/versioning)."""
        request = Request("server/discover", EMPTY, capabilities=CALLBACKS, timeout_s=PROBE_S)
        try:
            message = await self._modern.request(request)
        except UpstreamProtocolError:
            return None
        result = message.get("result")
        return Description(Era.MODERN, result) if isinstance(result, Mapping) else None

    @property
    def main(self) -> Link:
        return self._main if self._main is not None else self._modern

    async def lease(self, relay: Relay) -> Lease:
        if self._main is None:
            return Lease(self._modern, may_ask=True)
        callbacks = callbacks_of(relay)
        if not callbacks and relay.era is Era.MODERN:
            return Lease(self._sessions.session("", EMPTY, b""), may_ask=False)
        return Lease(self._sessions.session(relay.owner, callbacks, codec.canonical(callbacks)), may_ask=True)

    async def changes(self, watched: list[str]) -> AsyncGenerator[tuple[str, Object], None]:
        if self._main is None:
            wanted = {**ALL_LISTS, "resourceSubscriptions": watched}
            stream = self._modern.listen(wanted, PROBE_S, MAX_EVENT_BYTES)
        else:
            stream = self._standing_stream(self._main)
        async for message in stream:
            if "method" in message:
                yield str(message["method"]), params_of(message)

    async def _standing_stream(self, session: LegacySession) -> AsyncGenerator[Object, None]:
        """The GET stream of a legacy session (2025-11-25, basic/transports, "Listening for Messages")."""
        agreed = await session.open()
        site = self._site
        headers = [*ACCEPT[1:], *agreed.headers, *site.credentials]
        async with await site.pool.open("GET", site.target, headers, None, deadline_s=PROBE_S) as answer:
            if not is_event_stream(answer):
                if answer.status == 404:
                    raise UpstreamUnavailable(f"upstream {site.label!r} ended the session")
                raise NoStream
            parser = SseParser(max_event_bytes=MAX_EVENT_BYTES)
            async for message in messages(site, answer, parser, None):
                yield message

    async def tidy(self) -> None:
        await self._sessions.close_idle()

    async def aclose(self) -> None:
        await self._sessions.aclose()
        if self._main is not None:
            await self._main.close()
        await self._site.pool.aclose()


class StdioServer:
    """A server that we run: one process for everybody, and some of their own for clients that can be asked.

    A process on a pipe does not say which call its question belongs to. So a call whose client can be asked runs on a
    process that only this client uses; when there are no more of those to be had, it runs on the common one, where
    questions are refused.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        era: Era | None,
        group: TaskGroup,
        idle_s: float,
        max_processes: int,
        news: Callable[[str, Object], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._era = era
        self._group = group
        self._idle_s = idle_s
        self._max_processes = max_processes
        self._news = news
        self._monotonic = monotonic
        self._main: StdioLink | None = None
        self._own: dict[tuple[str, bytes], StdioLink] = {}
        self._starting = anyio.Lock()
        self._woken = anyio.Event()
        self.resting = False
        self.keep_awake = False
        self.stderr = ""
        self.starts = 0

    async def connect(self) -> Description:
        return (await self._common()).description

    @property
    def main(self) -> Link:
        if self._main is None:
            raise UpstreamUnavailable(f"upstream {self._spec.label!r} is not running")
        return self._main

    @property
    def processes(self) -> int:
        """Processes that run now."""
        links = [*self._own.values(), *([self._main] if self._main else [])]
        return sum(link.alive for link in links)

    async def _common(self) -> StdioLink:
        async with self._starting:
            if self._main is None or not self._main.alive:
                self._main = await self._start(CALLBACKS)
                self.resting = False
                self._woken.set()
            return self._main

    async def _start(self, capabilities: Object) -> StdioLink:
        link = StdioLink(self._spec, capabilities=capabilities, era=self._era, news=self._news)
        self.starts += 1
        try:
            await self._group.start(link.run)
        except InterlockError:
            self.stderr = link.stderr
            raise
        self._era = link.era
        return link

    async def lease(self, relay: Relay) -> Lease:
        common = await self._common()
        if common.era is Era.MODERN:
            return Lease(common, may_ask=True)
        callbacks = callbacks_of(relay)
        if not callbacks:
            return Lease(common, may_ask=False)
        own = await self._own_process(relay.owner, callbacks)
        return Lease(common, may_ask=False) if own is None else Lease(own, may_ask=True)

    async def _own_process(self, owner: str, callbacks: Object) -> StdioLink | None:
        """A process that only this owner uses, or `None` when all are in use by others."""
        key = (owner, codec.canonical(callbacks))
        async with self._starting:
            link = self._own.get(key)
            if link is not None and link.alive:
                return link
            self._own.pop(key, None)
            if len(self._own) >= self._max_processes - 1 and not self._make_room():
                return None
            link = self._own[key] = await self._start(callbacks)
            return link

    def _make_room(self) -> bool:
        idle = [(link.used_at, key) for key, link in self._own.items() if link.running == 0]
        if not idle:
            return False
        _, key = min(idle)
        self._own.pop(key).stop()
        return True

    async def changes(self, watched: list[str]) -> AsyncGenerator[tuple[str, Object], None]:
        """A pipe brings its news by itself; this waits for the process to end, and while it rests, to be wanted."""
        main = self._main
        if main is None or await main.listen({**ALL_LISTS, "resourceSubscriptions": watched}):
            return
        await main.ended.wait()
        self.stderr = main.stderr
        if not self.resting:
            raise UpstreamUnavailable(f"the process of upstream {self._spec.label!r} ended by itself")
        self._woken = anyio.Event()
        if not main.alive and self._main is main:
            await self._woken.wait()
        none_of_its_own: tuple[tuple[str, Object], ...] = ()
        for change in none_of_its_own:
            yield change

    async def tidy(self) -> None:
        limit = self._monotonic() - self._idle_s
        for key, link in list(self._own.items()):
            if not link.alive or (link.running == 0 and link.used_at < limit):
                del self._own[key]
                link.stop()
        main = self._main
        if main is not None and main.alive and not main.running and main.used_at < limit and not self.keep_awake:
            self.resting = True
            main.stop()

    async def aclose(self) -> None:
        for link in [*self._own.values(), *([self._main] if self._main else [])]:
            link.stop()
