"""A load generator on bare sockets: kept-alive HTTP/1.1 connections that repeat one request when it is answered."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import orjson

MODERN: Final = "2026-07-28"
STALL_S: Final = 30.0


class LoadFailed(Exception):
    """The target stopped answering, or no answer was what was asked for."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One HTTP request, ready to be written, and what its answer must contain."""

    host: str
    port: int
    data: bytes
    expect: bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run measured. `latencies_ns` holds one entry a call, in the order of the answers."""

    calls: int
    seconds: float
    latencies_ns: array[int]
    received_bytes: int
    errors: int = 0
    """Answers among the calls that were not what was asked for."""
    error: str = ""
    """The beginning of the first of them."""

    @property
    def per_second(self) -> float:
        return self.calls / self.seconds

    def quantile_ms(self, share: float) -> float:
        """The latency that `share` of the calls stayed below."""
        ordered = sorted(self.latencies_ns)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e6


def shot(
    url: str, method: str, params: Mapping[str, object], *, expect: bytes, token: str = "", last: bool = False
) -> Shot:
    """A modern (2026-07-28) request with its envelope and routing headers; `last` asks to close the connection."""
    parts = urlsplit(url)
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
        **_mapping(params.get("_meta")),
    }
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}})
    headers = {
        "Host": f"localhost:{parts.port}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": method,
        **({"Mcp-Name": str(params["name"])} if "name" in params else {}),
        **({"Connection": "close"} if last else {}),
        **({"Authorization": f"Bearer {token}"} if token else {}),
        "Content-Length": str(len(body)),
    }
    head = f"POST {parts.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return Shot("127.0.0.1", parts.port or 80, head.encode() + b"\r\n" + body, expect)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


class _Run:
    """What the connections of one run share: when to stop, and what was measured."""

    def __init__(self, what: Shot, until: float, calls: int) -> None:
        self.shot = what
        self.latencies_ns: array[int] = array("Q")
        self.received = 0
        self.errors = 0
        self.error = ""
        self._until, self._left = until, calls

    def another(self) -> bool:
        """Whether a connection may start one more call."""
        if self._left <= 0 or time.perf_counter() >= self._until:
            return False
        self._left -= 1
        return True


class _Connection(asyncio.Protocol):
    """One connection with one call under way at a time."""

    def __init__(self, run: _Run, done: asyncio.Future[None]) -> None:
        self._run, self._done = run, done
        self._buffer = bytearray()
        self._started = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without inheriting from it
        self._next()

    def _next(self) -> None:
        if self._done.done():
            return
        if not self._run.another():
            self._done.set_result(None)
            self._transport.close()
            return
        self._started = time.perf_counter_ns()
        self._transport.write(self._run.shot.data)

    def data_received(self, data: bytes) -> None:
        self._run.received += len(data)
        self._buffer += data
        if not _whole(self._buffer):
            return
        self._run.latencies_ns.append(time.perf_counter_ns() - self._started)
        if not self._buffer.startswith(b"HTTP/1.1 200") or self._run.shot.expect not in self._buffer:
            self._run.errors += 1
            self._run.error = self._run.error or bytes(self._buffer[:600]).decode(errors="replace")
        self._buffer.clear()
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(LoadFailed(f"the connection was closed during a call: {exc}"))

    def _fail(self, fault: LoadFailed) -> None:
        if not self._done.done():
            self._done.set_exception(fault)
            self._transport.close()


def _whole(answer: bytearray) -> bool:
    """Whether the answer is here in full. Copies the head only: streams are looked at with each piece."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    _, found, length = answer[:end].lower().partition(b"content-length:")
    if found:
        return len(answer) >= end + 4 + int(length.split(b"\r\n", 1)[0])
    return answer.endswith(b"0\r\n\r\n")


async def fire(what: Shot, *, connections: int, seconds: float = 60, calls: int = 2**62) -> Sample:
    """Repeat the shot over that many connections until the time or the calls are used up. Raises `LoadFailed`."""
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    run = _Run(what, start + seconds, calls)
    finished: list[asyncio.Future[None]] = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        finished.append(done)
        await loop.create_connection(lambda done=done: _Connection(run, done), what.host, what.port)  # type: ignore[misc]  # mypy does not infer defaults of lambdas
    async with asyncio.timeout(seconds + STALL_S):
        await asyncio.gather(*finished)
    took = time.perf_counter() - start
    if run.errors == len(run.latencies_ns):
        raise LoadFailed(f"no call succeeded; the first answer was: {run.error}")
    return Sample(len(run.latencies_ns), took, run.latencies_ns, run.received, run.errors, run.error)


class _Swallow(asyncio.Protocol):
    """Reads until the connection is closed and throws it away: for answers that are too large to keep."""

    def __init__(self, what: Shot, done: asyncio.Future[int]) -> None:
        self._shot, self._done = what, done
        self._received = 0
        self._last = b""
        self.found = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._shot.data)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        self._last = (self._last + data)[-4096:]
        self.found = self.found or self._shot.expect in self._last

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(self._received)


async def swallow(what: Shot) -> tuple[int, bool]:
    """Make one call with a large answer: how many bytes came, and whether what was expected was among them."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()
    _, protocol = await loop.create_connection(lambda: _Swallow(what, done), what.host, what.port)
    async with asyncio.timeout(10 * STALL_S):
        return await done, protocol.found
