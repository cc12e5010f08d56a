"""The gateway's side of a connection to one box's relay: it hears whether the program runs, and says when to freeze."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

import anyio

from gateway.errors import SandboxFailure
from sandboxes.qemu.relay import NEWS_SOCKET

_FREEZE_S: Final = 90.0
_LONGEST: Final = 4096


class Line:
    """One connection, made by the relay. What it says is the box's word, and only ever shown."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._line: socket.socket | None = None
        self._wanted = False

    @classmethod
    @asynccontextmanager
    async def awaited(cls, directory: Path, uid: int | None) -> AsyncIterator[Self]:
        """Listen in the box's directory for the time of its start. Closed after that, unless it is `kept`."""
        run = directory / os.path.dirname(NEWS_SOCKET)
        run.mkdir(mode=0o700)
        listener = socket.socket(socket.AF_UNIX)
        line = cls(listener)
        try:
            listener.setblocking(False)
            _bind(listener, directory)
            if uid is not None:
                os.chown(directory / NEWS_SOCKET, uid, uid)
                os.chown(run, uid, uid)
            listener.listen(1)
            yield line
        except OSError as exc:
            raise SandboxFailure(f"the box cannot be laid out: {exc.strerror or exc}") from exc
        finally:
            listener.close()
            if not line._wanted:
                line.close()

    async def news(self, deadline_s: float) -> tuple[str, str]:
        """What the relay has to say about the start, as a word and a reason; empty when it ended without."""
        try:
            with anyio.fail_after(deadline_s):
                loop = asyncio.get_running_loop()
                self._line, _ = await loop.sock_accept(self._listener)
                data = await loop.sock_recv(self._line, _LONGEST)
        except TimeoutError:
            return "broken", f"its relay said nothing for {deadline_s:g} s"
        word, _, why = data.decode("utf-8", "replace").partition(" ")
        return word, why

    def kept(self) -> Self:
        """Leave it open, for `order_freeze`."""
        self._wanted = True
        return self

    async def order_freeze(self, fd: int) -> None:
        """Have the machine written to a file and ended. Raises `SandboxFailure`."""
        assert self._line is not None
        try:
            socket.send_fds(self._line, [b"freeze"], [fd])
            with anyio.fail_after(_FREEZE_S):
                answer = await asyncio.get_running_loop().sock_recv(self._line, _LONGEST)
        except (OSError, TimeoutError) as exc:
            raise SandboxFailure(f"the box does not freeze: {exc or 'no answer'}") from exc
        if answer != b"frozen":
            raise SandboxFailure(f"the box does not freeze: {answer.decode('utf-8', 'replace') or 'it is gone'}")

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, exc: object, traceback: object) -> None:
        self.close()


def _bind(listener: socket.socket, directory: Path) -> None:
    """By way of a descriptor: a socket's path may only be 107 bytes long."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{fd}/{NEWS_SOCKET}")
    finally:
        os.close(fd)
