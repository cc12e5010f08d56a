"""Which resources of an upstream are watched, and how it is told: one subscription, however many clients watch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from adapters.upstreams.mcp.answers import result_of
from adapters.upstreams.mcp.link import Request
from adapters.upstreams.mcp.server import Server
from gateway.errors import UpstreamProtocolError, UpstreamTimeout
from gateway.types import Call, Era, Result

ACKNOWLEDGED_WITHIN_S: Final = 5.0


class Subscriptions:
    """The watched resources of one upstream."""

    def __init__(self, label: str, *, timeout_s: float) -> None:
        self._label = label
        self._timeout_s = timeout_s
        self._uris: dict[str, None] = {}
        self._stream: anyio.CancelScope | None = None
        self._acknowledged = anyio.Event()
        self.unsupported = False
        """The server offers no stream on which it could tell of updates."""

    @property
    def uris(self) -> list[str]:
        """What is watched now."""
        return list(self._uris)

    @contextmanager
    def listening(self) -> Iterator[anyio.CancelScope]:
        """The time in which a stream is open that was opened for `uris`; another resource interrupts it."""
        with anyio.CancelScope() as scope:
            self._stream = scope
            try:
                yield scope
            finally:
                self._stream = None

    def acknowledged(self) -> None:
        """The server confirmed the stream (2026-07-28, patterns/subscriptions, "Acknowledgment")."""
        self._acknowledged.set()

    async def subscribe(self, server: Server, era: Era, call: Call) -> Result:
        """Watch the resource of a call from now on. The answer comes once no update can be missed."""
        uri = call.resource.name
        done = Result(b'{"resultType":"complete"}')
        if uri in self._uris:
            return done
        if era is Era.LEGACY:
            request = Request("resources/subscribe", {"uri": uri}, timeout_s=self._timeout_s)
            result = result_of(call, await server.main.request(request), self._label)
            if result.outcome == "ok":
                self._uris[uri] = None
            return result
        await self._reopen(uri)
        return done

    async def _reopen(self, uri: str) -> None:
        """A modern server is told by opening the stream anew, with one resource more."""
        if self.unsupported:
            raise UpstreamProtocolError(f"upstream {self._label!r} offers no subscriptions")
        self._uris[uri] = None
        acknowledged = self._acknowledged = anyio.Event()
        if self._stream is not None:
            self._stream.cancel()
        with anyio.move_on_after(ACKNOWLEDGED_WITHIN_S):
            await acknowledged.wait()
            return
        self._uris.pop(uri, None)
        raise UpstreamTimeout(f"upstream {self._label!r} did not acknowledge the subscription")

    async def renew(self, server: Server, era: Era) -> None:
        """Subscribe again after a reconnect: a legacy server has forgotten."""
        for uri in self.uris if era is Era.LEGACY else ():
            await server.main.request(Request("resources/subscribe", {"uri": uri}, timeout_s=self._timeout_s))

    def drop(self, uri: str) -> None:
        """Nobody watches this resource any more; what the server still tells of it is told to nobody."""
        self._uris.pop(uri, None)
