"""What the kernel knows of a TCP connection: whether the peer has closed it, and how much the peer has received.

A request that reached the upstream must not be sent twice, since a tool call may have effects. Whether it did reach
it cannot be told from the connection having dropped; the kernel's count of acknowledged bytes can tell.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from asyncio import BaseTransport
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, TypeAlias

_TCP_ESTABLISHED: Final = 1
_ACKED_AT: Final = 120
"""Offset of `tcpi_bytes_acked` in Linux's `struct tcp_info` (4.1 and newer)."""


_KEEP_ALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""Seconds until the first question, between questions, and how many of them may stay unanswered."""


class TcpFacts(NamedTuple):
    """`open`: the peer has not closed its side. `acked_bytes`: what it acknowledged so far; 0 where unknown."""

    open: bool
    acked_bytes: int = 0


Probe: TypeAlias = Callable[[BaseTransport], TcpFacts]


class _Socket(Protocol):
    def fileno(self) -> int: ...

    def setsockopt(self, level: int, optname: int, value: int, /) -> None: ...

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def probe(transport: BaseTransport) -> TcpFacts:
    """Ask the kernel (one system call, about 1 us). A connection it can say nothing about counts as closed."""
    sock: _Socket | None = transport.get_extra_info("socket")
    if sock is None:
        return TcpFacts(open=False)
    try:
        return _facts_of(sock)
    except (OSError, ValueError):  # closed under our hands
        return TcpFacts(open=False)


def watch_over(transport: BaseTransport) -> None:
    """Have the kernel find out when the peer vanished without a word: a stream may be silent for hours, yet alive."""
    sock: _Socket | None = transport.get_extra_info("socket")
    if sock is None:
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE:
            option = getattr(socket, name, None)
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:  # closed under our hands
        return


if sys.platform == "linux":

    def _facts_of(sock: _Socket) -> TcpFacts:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + 8)
        return _from_tcp_info(info) if info[0] else TcpFacts(open=not _readable(sock.fileno()))

else:

    def _facts_of(sock: _Socket) -> TcpFacts:
        return TcpFacts(open=not _readable(sock.fileno()))


def _from_tcp_info(info: bytes) -> TcpFacts:
    acked = struct.unpack_from("=Q", info, _ACKED_AT)[0] if len(info) >= _ACKED_AT + 8 else 0
    return TcpFacts(open=info[0] == _TCP_ESTABLISHED, acked_bytes=acked)


def _readable(fileno: int) -> bool:
    """Whether an idle connection has something to read, which can only be its end or what nobody asked for."""
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))
