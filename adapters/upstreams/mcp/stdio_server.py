"""A server that we run: one process for everybody, and some of their own for clients that need one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskGroup

from adapters.upstreams.mcp.discovery import Description
from adapters.upstreams.mcp.http import NoStream
from adapters.upstreams.mcp.lease import ALL_LISTS, CALLBACKS, Lease, Server, callbacks_of
from adapters.upstreams.mcp.link import Link, News, Object
from adapters.upstreams.mcp.stdio import Manner, Pipe, StdioLink
from gateway import codec
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamUnavailable
from gateway.ports import Relay
from gateway.types import Era

MAX_PARKED: Final = 1_024
MAX_PROCESSES: Final = 8
"""Of one upstream, the common one among them. Beyond that, clients share the common one."""

_Key: TypeAlias = "tuple[str, bytes]"
"""A client, and what it can be asked."""


class StdioServer:
    """One process for everybody, and some of their own.

    A process on a pipe does not say which call its question or its log message belongs to. So the calls of a client
    that can be asked or wants to hear log messages run on a process that only this client uses, and as far as there is
    room each on one of its own. When there are no more of those to be had, they run on the common one, where questions
    are refused and log messages dropped.
    """

    def __init__(
        self,
        pipe: Pipe,
        *,
        era: Era | None,
        group: TaskGroup,
        idle_s: float,
        max_processes: int = MAX_PROCESSES,
        news: News,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipe = pipe
        self._wanted_era = era
        self._known_era: Era | None = None
        self._group = group
        self._idle_s = idle_s
        self._max_processes = max_processes
        self._news = news
        self._monotonic = monotonic
        self._main: StdioLink | None = None
        self._own: dict[_Key, list[StdioLink]] = {}
        self._starting_main = anyio.Lock()
        self._starting: dict[_Key, anyio.Lock] = {}
        self._replaced = anyio.Event()
        self.resting = False
        self.keep_awake = False
        self._last_words = ""
        self.max_parked = MAX_PARKED
        self.starts = 0
        """Processes started so far."""

    @property
    def stderr(self) -> str:
        """What the common process said on standard error; while it says nothing, what the one before it did."""
        return (self._main.stderr if self._main is not None else "") or self._last_words

    @property
    def processes(self) -> int:
        """Processes that run now."""
        return sum(link.alive for link in self._links())

    def _links(self) -> list[StdioLink]:
        own = [link for links in self._own.values() for link in links]
        return [*own, self._main] if self._main is not None else own

    async def connect(self) -> Description:
        """Start the common process. One that still runs is of no use any more, or this would not be asked for."""
        if self._main is not None and self._main.alive:
            self._main.stop()
            await self._main.ended.wait()
        return (await self._common(revive=True)).description

    async def main(self) -> Link:
        """The common process, woken if it rests."""
        return await self._common()

    async def _common(self, *, revive: bool = False) -> StdioLink:
        """The common process. One that ended by itself is started again by `connect` alone, which backs off."""
        main = self._main
        if main is not None and main.alive:
            return main
        async with self._starting_main:
            main = self._main
            if main is not None and not main.alive and not main.stopped and not revive:
                raise UpstreamUnavailable(main.reason or f"the process of upstream {self._pipe.label!r} ended")
            if main is None or not main.alive:
                self._last_words = self.stderr
                main = self._main = await self._start(CALLBACKS, self._news)
                self.resting = False
                self._replaced.set()
                self._replaced = anyio.Event()
            return main

    async def _start(self, capabilities: Object, news: News, *, private: bool = False) -> StdioLink:
        """Start a process in the era known from the last one (basic/versioning: cached, probed again on failure)."""
        era = self._wanted_era or self._known_era
        link = StdioLink(self._pipe, Manner(capabilities, era, private), news=news, monotonic=self._monotonic)
        self.starts += 1
        try:
            await self._group.start(link.run)
        except InterlockError as exc:
            self._last_words = link.stderr
            if isinstance(exc, UpstreamProtocolError) and self._known_era is not None:
                self._known_era = None
                return await self._start(capabilities, news, private=private)
            raise
        self._known_era = link.era
        return link

    async def lease(self, relay: Relay, *, alone: bool = False) -> Lease:
        """The common process or, where it matters who is spoken to, one of the client's own."""
        common = await self._common()
        callbacks = {} if common.era is Era.MODERN else callbacks_of(relay)
        private = bool(callbacks or relay.log_level or alone)
        own = await self._own_process(relay.owner, callbacks) if private else None
        if own is not None:
            return Lease(own, may_ask=True)
        return Lease(common, may_ask=common.era is Era.MODERN)

    async def _own_process(self, owner: str, callbacks: Object) -> StdioLink | None:
        """A process that only this owner uses, one that serves no other call if there is room for that.

        `None` when all are in use by others.
        """
        key = (owner, codec.canonical(callbacks))
        link = self._free(key)
        if link is not None:
            return link
        lock = self._starting.setdefault(key, anyio.Lock())
        try:
            async with lock:
                return self._free(key) or await self._another(key, callbacks) or self._shared(key)
        finally:
            if not lock.locked():
                self._starting.pop(key, None)

    def _free(self, key: _Key) -> StdioLink | None:
        """The first idle process of an owner: it sees always the same one while it makes one call after the other."""
        for link in self._own.get(key, ()):
            if link.alive and not link.busy:
                link.claim()
                return link
        return None

    def _shared(self, key: _Key) -> StdioLink | None:
        """A busy process of the owner: on it, a question that could belong to either call is refused."""
        return next((link for link in self._own.get(key, ()) if link.alive), None)

    async def _another(self, key: _Key, callbacks: Object) -> StdioLink | None:
        self._forget_ended()
        starting = sum(lock.locked() for other, lock in self._starting.items() if other != key)
        if sum(map(len, self._own.values())) + starting >= self._max_processes - 1 and not self._make_room():
            return None
        link = await self._start(callbacks, _ignored, private=True)
        link.claim()
        self._own.setdefault(key, []).append(link)
        return link

    def _forget_ended(self) -> None:
        living = {key: [link for link in links if link.alive] for key, links in self._own.items()}
        self._own = {key: links for key, links in living.items() if links}

    def _make_room(self) -> bool:
        """Stop the process that has been idle for longest, if one is."""
        idle = [link for links in self._own.values() for link in links if not link.busy]
        if not idle:
            return False
        min(idle, key=lambda link: link.used_at).stop()
        self._forget_ended()
        return True

    async def changes(self, watched: list[str], take: News) -> None:
        """Follow the common process. After it rested, what it announced meanwhile has to be asked for."""
        main = self._main
        if main is None:
            raise UpstreamUnavailable(f"upstream {self._pipe.label!r} is not running")
        replaced = self._replaced
        if main.alive and main.era is Era.MODERN:
            try:
                await main.listen({**ALL_LISTS, "resourceSubscriptions": watched}, take)
            except UpstreamUnavailable:
                if not main.stopped:
                    raise
            except NoStream:
                if main.alive:
                    raise
        if main.alive and main.era is Era.MODERN:
            return
        if self._main is main:
            await replaced.wait()

    async def over(self) -> None:
        """Wait for the end of the common process that we did not ask for."""
        while True:
            main, replaced = self._main, self._replaced
            if main is None:
                raise UpstreamUnavailable(f"upstream {self._pipe.label!r} is not running")
            await main.ended.wait()
            if not main.stopped:
                raise UpstreamUnavailable(main.reason or f"the process of upstream {self._pipe.label!r} ended")
            if self._main is main:
                await replaced.wait()

    async def tidy(self) -> None:
        """Stop the processes that nobody has used for a while; the common one then rests."""
        limit = self._monotonic() - self._idle_s
        for links in self._own.values():
            for link in links:
                if not link.busy and link.used_at < limit:
                    link.stop()
        self._forget_ended()
        main = self._main
        if main is not None and main.alive and not main.busy and main.used_at < limit and not self.keep_awake:
            self.resting = True
            main.stop()

    async def aclose(self) -> None:
        """End every process, in good order."""
        links = self._links()
        for link in links:
            link.stop()
        for link in links:
            await link.ended.wait()


def _ignored(_method: str, _params: Object) -> None:
    """What a private process announces, the common one announces as well."""


_: type[Server] = StdioServer
