"""Reading from and writing to plain sockets, with nothing buffered but what is in hand.

Every step lets the others run (a socket that always has more would not), and every step can be cancelled.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

CHUNK: Final = 64 * 1024

_BACKLOG: Final = 128
_SHORT_OF_S: Final = 0.1
"""How long to wait for descriptors or memory that the machine does not have."""
_UCRED: Final = struct.Struct("3i")
_RESET: Final = struct.pack("ii", 1, 0)


async def receive(sock: socket.socket, most: int = CHUNK) -> bytes:
    """What has arrived; empty at the end. Raises `OSError`."""
    await checkpoint()
    while True:
        try:
            return sock.recv(most)
        except BlockingIOError:
            await anyio.wait_readable(sock)


async def send(sock: socket.socket, data: bytes) -> None:
    """Return when the kernel has taken all of it. Raises `OSError`."""
    view = memoryview(data)
    while view:
        await checkpoint()
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await anyio.wait_writable(sock)


async def connect(address: str, port: int) -> socket.socket:
    """A connection to an address, which is written as a number: nothing is looked up. Raises `OSError`."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex((address, port))
        if code == errno.EINPROGRESS:
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def end_sending(sock: socket.socket) -> None:
    """Say that no more will come."""
    with suppress(OSError):  # the peer is gone already
        sock.shutdown(socket.SHUT_WR)


def end_both(sock: socket.socket) -> None:
    """End both directions, without closing."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def hang_up(sock: socket.socket, *, clean: bool) -> None:
    """Close; unless `clean`, with a reset, so that the peer cannot take a part for the whole."""
    if not clean:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def listen(path: Path) -> socket.socket:
    """A listening unix socket. Who may connect is judged by `user_of`: boxes see its permissions in their own ways.

    It is bound through its directory, because the kernel takes no path of more than 107 bytes. Raises `OSError`.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(f"/proc/self/fd/{directory}/{path.name}")
        path.chmod(0o666)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(directory)
    return sock


def forget(path: Path) -> None:
    """Remove a socket that is not listened at any more; its directory may be gone already."""
    path.unlink(missing_ok=True)


async def accept(listener: socket.socket) -> socket.socket:
    """The next connection. Never fails: what the machine is short of, it may have again soon."""
    await checkpoint()
    while True:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            await anyio.wait_readable(listener)
        except OSError:
            await anyio.sleep(_SHORT_OF_S)
        else:
            client.setblocking(False)
            return client


def user_of(sock: socket.socket) -> int:
    """The host's user behind a connection over a unix socket, as the kernel saw it connect."""
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)
