"""What egress tests stand between: a gate that permits a list, a resolver with a list, and servers of their own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Final, TypeAlias

import anyio
from anyio.abc import SocketAttribute, SocketStream

from gateway.errors import PolicyDenied
from sandboxes.egress.gate import Carry, Destination, Gate, Terms, Traffic
from sandboxes.egress.limits import EgressLimits
from sandboxes.egress.proxy import EgressProxy
from sandboxes.egress.route import Dial
from sandboxes.egress.sockets import connect

LOOPBACK: Final = Terms(ranges=(ip_network("127.0.0.1"),))
Handler: TypeAlias = Callable[[SocketStream], Awaitable[None]]


@dataclass
class ListGate:
    """Permits the destinations it was given, as `host:port`, and remembers what it was asked and what was carried."""

    permits: Mapping[str, Terms] = field(default_factory=dict)
    asked: list[tuple[str, Destination]] = field(default_factory=list)
    carried: list[Traffic] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    scopes: list[anyio.CancelScope] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    async def connect(self, box_id: str, destination: Destination, carry: Carry) -> None:
        self.asked.append((box_id, destination))
        terms = self.permits.get(destination.authority)
        if terms is None:
            raise PolicyDenied("no rule permits it; ask for a rule")
        try:
            with anyio.CancelScope() as scope:
                self.scopes.append(scope)
                await carry(terms)
        except Exception as exc:
            self.errors.append(exc)
            raise
        finally:
            self.carried.append(carry.traffic)
            self.changed.set()
            self.changed = anyio.Event()
        if scope.cancelled_caught:
            raise PolicyDenied("the call that it was for has ended")

    async def until_carried(self, count: int = 1) -> list[Traffic]:
        """What was carried, once that many connections are over."""
        with anyio.fail_after(10):
            while len(self.carried) < count:
                await self.changed.wait()
        return self.carried


class Names:
    """A resolver that knows its list only, and counts what it is asked."""

    def __init__(self, known: Mapping[str, Sequence[str]] | None = None) -> None:
        self.known = dict(known or {})
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Iterable[str]:
        self.asked.append(host)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return self.known[host]


@dataclass
class Dialled:
    """Dials for real, and remembers which addresses."""

    redirect: Mapping[str, str] = field(default_factory=dict)
    addresses: list[str] = field(default_factory=list)

    async def __call__(self, address: str, port: int) -> socket.socket:
        self.addresses.append(address)
        return await connect(self.redirect.get(address, address), port)


@asynccontextmanager
async def serving(
    directory: Path,
    gate: Gate,
    *,
    names: Callable[[str, int], Iterable[str]] | None = None,
    dial: Dial = connect,
    limits: EgressLimits | None = None,
    own: Callable[[str], bool] = lambda _address: False,
    uid: int | None = None,
    box_id: str = "box-1",
) -> AsyncIterator[Path]:
    """A proxy for one box; gives its socket."""
    path = directory / "egress.sock"
    proxy = EgressProxy(gate, resolve=names or Names(), dial=dial, limits=limits or EgressLimits(), own=own)
    async with proxy.serving(box_id, path, uid):
        yield path


@asynccontextmanager
async def origin(handler: Handler) -> AsyncIterator[int]:
    """A server on 127.0.0.1; gives its port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, _contained(handler))
        yield listener.extra(SocketAttribute.local_port)
        group.cancel_scope.cancel()


def _contained(handler: Handler) -> Handler:
    async def handle(stream: SocketStream) -> None:
        async with stream:
            try:
                await handler(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                return

    return handle


async def echo(stream: SocketStream) -> None:
    """Says back whatever it hears, and ends when the other has."""
    async for data in stream:
        await stream.send(data)
    await stream.send_eof()


def answering(body: bytes, seen: list[bytes] | None = None) -> Handler:
    """An HTTP origin that answers each connection once, and keeps what it was sent."""

    async def handle(stream: SocketStream) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += await stream.receive()
        if seen is not None:
            seen.append(received)
        await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    return handle


async def ask(path: Path, request: bytes) -> bytes:
    """All that comes back for these bytes on a connection of their own."""
    with anyio.fail_after(10):
        async with await anyio.connect_unix(path) as stream:
            await stream.send(request)
            return await all_of(stream)


async def all_of(stream: anyio.abc.ByteReceiveStream) -> bytes:
    """What comes until the other side ends, however it ends."""
    pieces = bytearray()
    try:
        async for piece in stream:
            pieces += piece
    except anyio.BrokenResourceError:
        pass
    return bytes(pieces)


async def send_until_refused(stream: anyio.abc.ByteSendStream, piece: bytes) -> None:
    """Send again and again, until the other side does not take it any more."""
    with anyio.fail_after(10):
        try:
            while True:
                await stream.send(piece)
        except anyio.BrokenResourceError:
            return


@contextmanager
def nothing_left() -> Iterator[None]:
    """Neither a descriptor nor a task is there afterwards that was not there before."""
    descriptors, tasks = _descriptors(), asyncio.all_tasks()
    yield
    running = {task for task in asyncio.all_tasks() if not task.done()}
    left = [*(_descriptors() - descriptors), *(running - tasks)]
    assert not left, left


def _descriptors() -> set[str]:
    """Number and target of each, but for the one that lists them and the event loop's own spare one."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return {entry for entry in found if not entry.endswith(" /dev/null")}


def status_of(answer: bytes) -> int:
    """The status of an HTTP answer."""
    return int(answer.split(b" ", 2)[1])


@asynccontextmanager
async def tunnel(path: Path, where: str) -> AsyncIterator[anyio.abc.ByteStream]:
    """An established tunnel."""
    async with await anyio.connect_unix(path) as stream:
        await stream.send(f"CONNECT {where} HTTP/1.1\r\n\r\n".encode())
        got = b""
        with anyio.fail_after(10):
            while not got.endswith(b"\r\n\r\n"):
                got += await stream.receive(1)
        assert status_of(got) == 200, got
        yield stream
