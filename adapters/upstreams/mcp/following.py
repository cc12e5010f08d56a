"""Keeps one stream of changes open to an upstream, and replaces it without a gap when other resources are watched."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from anyio.abc import TaskGroup

from adapters.upstreams.mcp.http import NoStream
from adapters.upstreams.mcp.lease import Server
from adapters.upstreams.mcp.link import News, Object
from adapters.upstreams.mcp.subscriptions import Subscriptions
from gateway.errors import InterlockError
from gateway.types import Era

log = logging.getLogger("interlock.upstreams")

ACKNOWLEDGED_WITHIN_S: Final = 5.0
REOPEN_S: Final = 1.0
MAX_REOPEN_S: Final = 60.0
STEADY_S: Final = 30.0
"""A stream that lasted this long is opened again without much ado."""
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"


class Following:
    """The streams of one connection: one at a time, two while one takes over from the other."""

    def __init__(self, server: Server, era: Era, subscriptions: Subscriptions, news: News) -> None:
        self._server = server
        self._era = era
        self._subscriptions = subscriptions
        self._news = news
        self._delay_s = REOPEN_S

    async def run(self, missed: Callable[[], Awaitable[None]]) -> None:
        """Follow until cancelled. A stream that ends, however it does, is opened again.

        After each gap `missed` is awaited. It shows whether the server is still there: what it raises is raised.
        """
        failure: InterlockError | None = None
        async with anyio.create_task_group() as group:
            try:
                await self._follow(group, missed)
            except InterlockError as exc:  # carried out of the group, which would wrap it
                failure = exc
            group.cancel_scope.cancel()
        self._subscriptions.lost()
        if failure is not None:
            raise failure

    async def _follow(self, group: TaskGroup, missed: Callable[[], Awaitable[None]]) -> None:
        current: _Stream | None = None
        while True:
            stirred = self._subscriptions.calm()
            if current is None or self._era is Era.MODERN:
                current = await self._opened(group, current)
            await self._subscriptions.tell_dropped(self._server, self._era)
            await stirred.wait()
            if not current.over:
                continue
            if current.offered:
                log.info("the stream of changes ended: %s", current.failure or "in good order")
                await self._pause(current)
                await missed()
                current = None
            else:
                await self._without()

    async def _opened(self, group: TaskGroup, former: _Stream | None) -> _Stream:
        """A stream for what is watched now; the former one ends only when it stands."""
        stream = _Stream(self._server, self._subscriptions, self._news)
        group.start_soon(stream.run, self._era)
        with anyio.move_on_after(ACKNOWLEDGED_WITHIN_S):
            await stream.settled.wait()
        if former is not None:
            former.scope.cancel()
        return stream

    async def _pause(self, ended: _Stream) -> None:
        self._subscriptions.lost()
        steady = anyio.current_time() - ended.began >= STEADY_S
        self._delay_s = REOPEN_S if steady else self._delay_s
        await anyio.sleep(self._delay_s)
        self._delay_s = min(self._delay_s * 2, MAX_REOPEN_S)

    async def _without(self) -> None:
        """The server has no stream: there is only what is dropped to be told, in an era that has words for it."""
        if self._era is Era.MODERN:
            self._subscriptions.refuse_all()
        while True:
            stirred = self._subscriptions.calm()
            await self._subscriptions.tell_dropped(self._server, self._era)
            await stirred.wait()


class _Stream:
    """One stream. Its end, or the time to replace it, stirs the subscriptions."""

    def __init__(self, server: Server, subscriptions: Subscriptions, news: News) -> None:
        self._server = server
        self._subscriptions = subscriptions
        self._news = news
        self.scope = anyio.CancelScope()
        self.settled = anyio.Event()
        """It stands, as far as can be known, or is over."""
        self.over = False
        self.offered = True
        self.failure: InterlockError | None = None
        self.began = anyio.current_time()

    async def run(self, era: Era) -> None:
        """Follow to the end, which is told by attributes."""
        if era is Era.LEGACY:
            self.settled.set()
        with self.scope:
            try:
                await self._server.changes(self._subscriptions.uris, self._take)
            except NoStream:
                self.offered = False
            except InterlockError as exc:
                self.failure = exc
            self.over = True
        self.settled.set()
        if self.over:
            self._subscriptions.stirred.set()

    def _take(self, method: str, params: Object) -> None:
        if method == _ACKNOWLEDGED:
            self._subscriptions.acknowledged(params)
            self.settled.set()
        else:
            self._news(method, params)
