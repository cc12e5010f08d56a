"""A keep-alive HTTP/1.1 connection pool for one upstream: a call costs one request, one write and one wake-up.

Redirects are not followed, answers are not decompressed and environment variables (proxies) are not read.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from adapters.upstreams.wire.answer import Answer
from adapters.upstreams.wire.connection import Connection, NotSent, Until
from adapters.upstreams.wire.head import Headers, RequestHead
from adapters.upstreams.wire.origin import Origin, shared_tls_context, split_url
from adapters.upstreams.wire.response import Response, StreamingResponse
from adapters.upstreams.wire.tcpfacts import Probe, probe
from gateway.errors import UpstreamTimeout, UpstreamUnavailable

__all__ = ["Headers", "HttpPool", "Origin", "PoolStats", "Response", "StreamingResponse", "split_url"]

_TLS_GOODBYE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Counts since the pool was made, and what it holds now."""

    opened: int
    reused: int
    resent: int
    """Requests sent again because the first connection turned out to have been closed before."""
    in_use: int
    idle: int
    waiting: int


class HttpPool:
    """Connections to one origin. Belongs to the event loop it is first used in.

    Raises `UpstreamUnavailable` (refused, reset, cut off), `UpstreamTimeout` (the deadline, waiting for a free
    connection included), `UpstreamProtocolError` (not HTTP/1.x, too large) and `InvalidCall` (a header or target
    that HTTP does not allow). Cancelling the awaiting task closes its connection at once.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        label: str = "",
        max_connections: int = 64,
        connect_timeout_s: float = 5.0,
        idle_s: float = 60.0,
        max_header_bytes: int = 64 * 1024,
        tls: ssl.SSLContext | None = None,
        probe: Probe = probe,
    ) -> None:
        self._origin = origin
        self._label = repr(label) if label else str(origin)
        self._head = RequestHead(origin)
        self._max_connections = max_connections
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._max_header_bytes = max_header_bytes
        self._tls = (tls or shared_tls_context()) if origin.scheme == "https" else None
        self._probe = probe
        self.reach: Callable[[str], bool] | None = None
        """Says which addresses may be spoken to; `None`: any."""
        self.peer = ""
        """The address that was connected to last."""
        self._idle: deque[Connection] = deque()
        self._queue: deque[asyncio.Future[Connection | None]] = deque()
        self._connections: set[Connection] = set()
        self._connecting = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._drained: asyncio.Future[None] | None = None
        self._opened = 0
        self._reused = 0
        self._resent = 0

    async def post(self, target: str, headers: Headers, body: bytes, *, deadline_s: float, max_bytes: int) -> Response:
        """Send `body` and return the whole answer."""
        answer, connection = await self._begin("POST", target, headers, body, deadline_s, max_bytes)
        self._release(connection)
        return Response(answer.status, answer.headers, answer.take())

    async def open(
        self, method: str, target: str, headers: Headers, body: bytes | None, *, deadline_s: float
    ) -> StreamingResponse:
        """Send a request and return once the answer's head is in; with it its body, if that is announced as small.

        The answer decides how it is read: `read(max_bytes)` or `chunks()`. Use it as an async context manager.
        """
        answer, connection = await self._begin(method, target, headers, body, deadline_s, None)
        return StreamingResponse(connection, answer, self._release, asyncio.get_running_loop().time)

    @property
    def max_connections(self) -> int:
        """How many exchanges may run at a time."""
        return self._max_connections

    def stats(self) -> PoolStats:
        """What the pool has done and holds."""
        idle = len(self._idle)
        in_use = len(self._connections) - idle
        return PoolStats(self._opened, self._reused, self._resent, in_use, idle, len(self._queue))

    async def aclose(self, *, grace_s: float = 0.0) -> None:
        """Refuse new calls, let running ones end for `grace_s` seconds, then close every connection."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for waiter in self._queue:
            if not waiter.done():
                waiter.set_exception(self._closing())
        for connection in tuple(self._idle):
            connection.abort()
        try:
            if grace_s > 0:
                await self._until_drained(grace_s)
        finally:
            for connection in tuple(self._connections):
                connection.fail(self._closing())
        await self._until_drained(_TLS_GOODBYE_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # One exchange

    async def _begin(
        self, method: str, target: str, headers: Headers, body: bytes | None, deadline_s: float, max_bytes: int | None
    ) -> tuple[Answer, Connection]:
        """Send the request; return when its answer is whole (`max_bytes` given) or begun. The caller releases."""
        head = self._head.write(method, target, headers, None if body is None else len(body))
        when = asyncio.get_running_loop().time() + deadline_s
        connection = self._reusable() or await self._acquire(when)
        try:
            return await self._exchange(connection, head, body or b"", when, max_bytes), connection
        except NotSent:
            # The peer closed an idle connection before it received any of this. A fresh one cannot be stale.
            self._resent += 1
            connection = await self._acquire(when, fresh=True)
            return await self._exchange(connection, head, body or b"", when, max_bytes), connection

    async def _exchange(
        self, connection: Connection, head: bytes, body: bytes, when: float, max_bytes: int | None
    ) -> Answer:
        answer = Answer(self._label, max_head_bytes=self._max_header_bytes, max_bytes=max_bytes)
        try:
            connection.send(head, body, answer, when)
            await connection.wait(Until.HEAD if max_bytes is None else Until.END)
        except BaseException:
            connection.finish()
            raise
        return answer

    # Connections

    def _reusable(self) -> Connection | None:
        """The idle connection used last, so that the others can age and go."""
        while self._idle:
            connection = self._idle.pop()
            if connection.fit_for_reuse():
                self._reused += 1
                return connection
            connection.abort()
        return None

    async def _acquire(self, when: float, *, fresh: bool = False) -> Connection:
        if self._closed:
            raise self._closing()
        if len(self._connections) + self._connecting < self._max_connections and not self._waiting():
            return await self._connect(when)
        handed_over = await self._wait_in_line(when)
        if handed_over is None:
            return await self._connect(when, reserved=True)
        if not fresh and handed_over.fit_for_reuse():
            self._reused += 1
            return handed_over
        handed_over.abort()
        return await self._replace(handed_over, when)

    async def _replace(self, closed: Connection, when: float) -> Connection:
        if closed not in self._connections:  # lost on the way here, and its place given to another
            return await self._acquire(when)
        self._connections.discard(closed)
        self._connecting += 1
        return await self._connect(when, reserved=True)

    async def _connect(self, when: float, *, reserved: bool = False) -> Connection:
        if not reserved:
            self._connecting += 1
        try:
            connection = await self._dial(when)
        except BaseException:
            self._connecting -= 1
            self._serve_next()
            raise
        self._connecting -= 1
        self._opened += 1
        if self._closed:
            connection.abort()
            raise self._closing()
        self._connections.add(connection)
        return connection

    async def _dial(self, when: float) -> Connection:
        loop = asyncio.get_running_loop()
        timeout_s = min(self._connect_timeout_s, when - loop.time())
        tls_name = self._origin.host if self._tls is not None else None
        goodbye_s = _TLS_GOODBYE_S if self._tls is not None else None
        try:
            async with asyncio.timeout(timeout_s):
                transport, connection = await loop.create_connection(
                    lambda: Connection(self._label, self._probe, self._lost),
                    self._origin.address or self._origin.host,
                    self._origin.port,
                    ssl=self._tls,
                    server_hostname=tls_name,
                    ssl_shutdown_timeout=goodbye_s,
                )
        except TimeoutError as exc:
            raise UpstreamTimeout(f"upstream {self._label} did not accept a connection in {timeout_s:.3g} s") from exc
        except ssl.SSLError as exc:
            reason = getattr(exc, "verify_message", "") or exc.reason or "handshake failed"
            raise UpstreamUnavailable(f"upstream {self._label}: no TLS connection: {reason}") from exc
        except OSError as exc:
            raise UpstreamUnavailable(f"upstream {self._label} cannot be reached: {_why(exc)}") from exc
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])
        if self.reach is not None and not self.reach(self.peer):  # before a word of a request is sent
            connection.abort()
            words = f"upstream {self._label} names a host whose address is not one that it may have us connect to"
            raise UpstreamUnavailable(words)
        return connection

    def _release(self, connection: Connection) -> None:
        if not connection.finish():
            return
        if self._closed:
            connection.abort()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(connection)
            return
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_s, self._close_aged)

    def _lost(self, connection: Connection) -> None:
        """A connection is gone: its place goes to whoever waits longest."""
        if connection in self._idle:
            self._idle.remove(connection)
        if connection in self._connections:
            self._connections.discard(connection)
            self._serve_next()
        if self._drained is not None and not self._connections and not self._drained.done():
            self._drained.set_result(None)

    def _close_aged(self) -> None:
        self._sweep = None
        now = asyncio.get_running_loop().time()
        while self._idle and self._idle[0].idle_since + self._idle_s <= now:
            self._idle.popleft().abort()
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_at(self._idle[0].idle_since + self._idle_s, self._close_aged)

    async def _until_drained(self, within_s: float) -> None:
        if not self._connections:
            return
        self._drained = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._drained], timeout=within_s)

    # The line of those who wait for a connection

    async def _wait_in_line(self, when: float) -> Connection | None:
        """A connection that became free, or `None`: a place for one, already counted in `_connecting`."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        timer = loop.call_at(when, self._expire, waiter)
        self._queue.append(waiter)
        try:
            return await waiter
        except BaseException:
            if waiter in self._queue:
                self._queue.remove(waiter)
            self._hand_back(waiter)
            raise
        finally:
            timer.cancel()

    def _hand_back(self, waiter: asyncio.Future[Connection | None]) -> None:
        """Cancelled after being served: pass it on."""
        if waiter.cancelled() or waiter.exception() is not None:
            return
        connection = waiter.result()
        if connection is None:
            self._connecting -= 1
            self._serve_next()
            return
        connection.abort()

    def _serve_next(self) -> None:
        if self._closed or len(self._connections) + self._connecting >= self._max_connections:
            return
        waiter = self._next_waiter()
        if waiter is not None:
            self._connecting += 1
            waiter.set_result(None)

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                return waiter
        return None

    def _waiting(self) -> bool:
        return any(not waiter.done() for waiter in self._queue)

    def _expire(self, waiter: asyncio.Future[Connection | None]) -> None:
        if not waiter.done():
            busy = f"all {self._max_connections} connections are in use"
            waiter.set_exception(UpstreamTimeout(f"upstream {self._label} did not answer in time: {busy}"))

    def _closing(self) -> UpstreamUnavailable:
        return UpstreamUnavailable(f"upstream {self._label} is being disconnected")


def _why(exc: OSError) -> str:
    """The operating system's words, without the addresses that asyncio adds."""
    if isinstance(exc, socket.gaierror):
        return "its host name has no address"
    return os.strerror(exc.errno).lower() if exc.errno else "none of its addresses accepts a connection"
