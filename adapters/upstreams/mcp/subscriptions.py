"""Which resources of an upstream are watched, and how it is told: one subscription, however many clients watch."""

from __future__ import annotations

from typing import Final

import anyio

from adapters.upstreams.mcp.answers import result_of
from adapters.upstreams.mcp.lease import Server
from adapters.upstreams.mcp.link import Object, Request
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamTimeout
from gateway.types import Call, Era, Result

ACKNOWLEDGED_WITHIN_S: Final = 5.0
MAX_WATCHED: Final = 10_000
_DONE: Final = Result(b'{"resultType":"complete"}')


class Subscriptions:
    """The watched resources of one upstream."""

    def __init__(self, label: str, *, timeout_s: float) -> None:
        self._label = label
        self._timeout_s = timeout_s
        self._uris: dict[str, None] = {}
        self._dropped: dict[str, None] = {}
        self._covered: frozenset[str] = frozenset()
        self._acknowledged = anyio.Event()
        self._turn = anyio.Lock()
        self.stirred = anyio.Event()
        """Set when the stream of changes is not the one that is wanted (any more). Replaced by `calm`."""
        self.unsupported = False
        """The server offers no stream on which it could tell of updates."""

    @property
    def uris(self) -> list[str]:
        """What is watched now."""
        return list(self._uris)

    def calm(self) -> anyio.Event:
        """A fresh `stirred`: what was wanted until now is being seen to."""
        self.stirred = anyio.Event()
        return self.stirred

    def acknowledged(self, params: Object) -> None:
        """The server confirmed a stream, and what of it it honours (2026-07-28, patterns/subscriptions)."""
        honoured = params.get("notifications")
        uris = honoured.get("resourceSubscriptions") if isinstance(honoured, dict) else None
        self._covered = (
            frozenset(uri for uri in uris if isinstance(uri, str)) if isinstance(uris, list) else frozenset()
        )
        self._acknowledged.set()
        self._acknowledged = anyio.Event()

    def lost(self) -> None:
        """The stream is gone, and with it what it covered."""
        self._covered = frozenset()

    async def subscribe(self, server: Server, era: Era, call: Call) -> Result:
        """Watch the resource of a call from now on. The answer comes once no update can be missed."""
        uri = call.resource.name
        async with self._turn:
            if uri in self._uris:
                return _DONE
            if len(self._uris) >= MAX_WATCHED:
                raise UpstreamProtocolError(f"upstream {self._label!r} is watched for {MAX_WATCHED} resources already")
            if era is Era.LEGACY:
                return await self._ask_legacy(server, call, uri)
            await self._widen(uri)
            return _DONE

    async def _ask_legacy(self, server: Server, call: Call, uri: str) -> Result:
        reply = await (await server.main()).request(self._request("resources/subscribe", uri))
        result = result_of(call, reply, self._label)
        if result.outcome == "ok":
            self._uris[uri] = None
            server.keep_awake = True
        return result

    def _request(self, method: str, uri: str) -> Request:
        return Request(method, {"uri": uri}, timeout_s=self._timeout_s)

    async def _widen(self, uri: str) -> None:
        """A modern server is told by a stream with one resource more."""
        if self.unsupported:
            raise UpstreamProtocolError(f"upstream {self._label!r} offers no subscriptions")
        self._uris[uri] = None
        self.stirred.set()
        try:
            with anyio.fail_after(ACKNOWLEDGED_WITHIN_S):
                while uri not in self._covered:
                    await self._acknowledged.wait()
                    if self.unsupported:
                        raise UpstreamProtocolError(f"upstream {self._label!r} offers no subscriptions")
        except BaseException as exc:
            self._uris.pop(uri, None)
            self.stirred.set()
            if isinstance(exc, TimeoutError):
                words = f"upstream {self._label!r} did not acknowledge the subscription"
                raise UpstreamTimeout(words) from None
            raise

    def refuse_all(self) -> None:
        """The server offers no stream: whoever waits for one learns it now."""
        self.unsupported = True
        self._acknowledged.set()

    async def renew(self, server: Server, era: Era) -> None:
        """Subscribe again after a reconnect: the server has forgotten. A modern one is told by the next stream."""
        self.unsupported = False
        self._dropped.clear()
        if era is Era.LEGACY and self._uris:
            link = await server.main()
            for uri in self.uris:
                await link.request(self._request("resources/subscribe", uri))

    def drop(self, uri: str) -> None:
        """Nobody watches this resource any more: the server is told by `tell_dropped`."""
        if uri in self._uris:
            del self._uris[uri]
            self._dropped[uri] = None
            self.stirred.set()

    async def tell_dropped(self, server: Server, era: Era) -> None:
        """Unsubscribe from what was dropped. A modern server is told by the next stream."""
        if not self._dropped or era is Era.MODERN or server.resting:
            self._dropped.clear()
            return
        async with self._turn:
            dropped, self._dropped = self._dropped, {}
            link = await server.main()
            for uri in [uri for uri in dropped if uri not in self._uris]:  # somebody may have come back to it
                try:
                    await link.request(self._request("resources/unsubscribe", uri))
                except InterlockError:  # then it tells of more than is wanted, and nobody is told of that
                    return
