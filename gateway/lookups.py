"""Looking names up without letting a slow name server take the threads of the whole gateway."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import TypeAlias

import anyio
from anyio import to_thread

Resolve: TypeAlias = Callable[[str, int], Iterable[str]]
"""Addresses of a host, as text. Runs in a thread and may block; raises `OSError`."""


def system_resolve(host: str, port: int) -> Iterable[str]:
    """What the machine's own resolver says (hosts file, DNS)."""
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)  # bytes: not encoded once more
    return [str(entry[4][0]) for entry in found]


class Lookups:
    """A bounded number of threads that look up names. One that hangs counts until it is back, waited for or not."""

    def __init__(self, resolve: Resolve, most: int) -> None:
        self._resolve = resolve
        self._waiting = anyio.CapacityLimiter(most)
        self._running = threading.BoundedSemaphore(most)

    async def find(self, host: str, port: int, deadline_s: float) -> list[str]:
        """The addresses of a host. Raises `OSError`, `TimeoutError` among them."""
        with anyio.fail_after(deadline_s):
            return await to_thread.run_sync(self._look_up, host, port, abandon_on_cancel=True, limiter=self._waiting)

    def _look_up(self, host: str, port: int) -> list[str]:
        if not self._running.acquire(blocking=False):
            raise TimeoutError("too many names are being looked up")
        try:
            return list(self._resolve(host, port))
        finally:
            self._running.release()


def is_own(address: str) -> bool:
    """Whether an address is this machine's: then the way there starts from that same address. Sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:  # no way there: the connection will not come about either
            return False
        return bool(probe.getsockname()[0] == address)
