"""HTTP/1.1 to one OPA server over kept connections, and nothing that the path of a call does not need.

A request is sent again only if a kept connection turned out to be closed before a byte of the answer came: the
server had let go of it before it saw the request.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import unquote, urlsplit

import httptools

CONNECT_TIMEOUT_S: Final = 0.05
MAX_REPLY_BYTES: Final = 4 << 20
MAX_CONNECTIONS: Final = 256


class OpaUnreachable(Exception):
    """No connection, or it broke before the answer was complete. Retryable only if `before_first_byte`."""

    def __init__(self, message: str, *, before_first_byte: bool = False) -> None:
        super().__init__(message)
        self.before_first_byte = before_first_byte


class NotHttp(Exception):
    """What came back is not an HTTP answer, or is larger than is allowed."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server listens: `http://host:port/prefix`, `https://...` or `unix:///path/to/socket`."""

    host: str
    port: int = 8181
    prefix: str = ""
    tls: bool = False
    socket_path: str = ""

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Raises `ValueError` for any other kind of address."""
        parts = urlsplit(url)
        if parts.scheme == "unix" and parts.path:
            return cls("localhost", socket_path=unquote(parts.path))
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
            raise ValueError(f"OPA address {parts.scheme}://{parts.hostname or ''}: use http, https or unix:///path")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), parts.path.rstrip("/"), tls)

    @property
    def authority(self) -> str:
        """The value of the `Host` header (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.socket_path else f"{host}:{self.port}"


class OpaHttp:
    """Sends requests to `endpoint`. `headers` go with each (a bearer token, for example)."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        tls: ssl.SSLContext | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        if any("\r" in part or "\n" in part for header in headers for part in header):
            raise ValueError("a header for OPA has a line break in it")
        self._endpoint = endpoint
        self._tls = (tls or ssl.create_default_context()) if endpoint.tls else None
        self._connect_timeout_s = connect_timeout_s
        self._max_reply_bytes = max_reply_bytes
        lines = [f"Host: {endpoint.authority}", "Content-Type: application/json", "Accept: application/json"]
        lines += [f"{name}: {value}" for name, value in headers]
        self._head = ("\r\n".join(lines) + "\r\nContent-Length: ").encode()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def post(self, target: str, body: bytes) -> Reply:
        """One answer. Raises `OpaUnreachable` or `NotHttp`; the deadline is the caller's."""
        head = b"POST %s%s HTTP/1.1\r\n%s%d\r\n\r\n" % (
            self._endpoint.prefix.encode(),
            target.encode(),
            self._head,
            len(body),
        )
        kept = self._kept()
        if kept is not None:
            try:
                return await self._exchange(kept, head + body)
            except OpaUnreachable as exc:
                if not exc.before_first_byte:
                    raise
        return await self._exchange(await self._connect(), head + body)

    def close(self) -> None:
        """Close every connection; requests under way fail."""
        for connection in tuple(self._open):
            connection.abort()
        self._idle.clear()

    async def _exchange(self, connection: _Connection, message: bytes) -> Reply:
        try:
            reply = await connection.ask(message)
        except BaseException:  # cancelled by a deadline too: what is under way cannot be told from the next answer
            connection.abort()
            raise
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.abort()
        return reply

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def _connect(self) -> _Connection:
        if len(self._open) >= MAX_CONNECTIONS:
            raise OpaUnreachable(f"all {MAX_CONNECTIONS} connections to OPA are in use")
        loop = asyncio.get_running_loop()
        connection = _Connection(self._max_reply_bytes, self._open)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if self._endpoint.socket_path:
                    await loop.create_unix_connection(lambda: connection, self._endpoint.socket_path)
                else:
                    await loop.create_connection(
                        lambda: connection, self._endpoint.host, self._endpoint.port, ssl=self._tls
                    )
        except TimeoutError as exc:
            raise OpaUnreachable(f"no connection to OPA within {self._connect_timeout_s:g} s") from exc
        except OSError as exc:
            raise OpaUnreachable("no connection to OPA") from exc
        return connection


class _Connection(asyncio.Protocol):
    """One connection, with at most one request on it."""

    def __init__(self, max_bytes: int, registry: set[_Connection]) -> None:
        self._max_bytes = max_bytes
        self._registry = registry
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reply: asyncio.Future[Reply] | None = None
        self._body: list[bytes] = []
        self._received = 0
        self._keep = True

    @property
    def reusable(self) -> bool:
        return self._keep and self._reply is None and self._transport is not None and not self._transport.is_closing()

    async def ask(self, message: bytes) -> Reply:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise OpaUnreachable("the connection to OPA was closed", before_first_byte=True)
        self._reply = asyncio.get_running_loop().create_future()
        self._body = []
        self._received = 0
        transport.write(message)
        try:
            return await self._reply
        finally:
            self._reply = None

    def abort(self) -> None:
        self._keep = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its ancestry
        self._registry.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep = False
        self._registry.discard(self)
        self._fail(OpaUnreachable("the connection to OPA broke", before_first_byte=self._received == 0))

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._reply is None:  # nothing was asked: whoever is there does not speak HTTP
            self.abort()
        elif self._received > self._max_bytes:
            self._fail(NotHttp(f"OPA's answer is larger than {self._max_bytes} bytes"))
            self.abort()
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            failure = NotHttp("OPA's answer is not HTTP")
            failure.__cause__ = exc
            self._fail(failure)
            self.abort()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer (RFC 9110 section 15.2)
            self._body = []
            return
        self._keep = self._keep and self._parser.should_keep_alive()
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(Reply(status, b"".join(self._body)))

    def _fail(self, exc: Exception) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(exc)
