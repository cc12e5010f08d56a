"""Sends events to a collector as OPA does: gzip'd JSON arrays of at most so many bytes, until they are taken.

What is not sent yet waits in a buffer of bounded size. When that is full the oldest go, and are counted; calls and
the log on disk know nothing of it.
"""

from __future__ import annotations

import gzip
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, Protocol

import anyio
from anyio import to_thread
from anyio.abc import TaskStatus

log = logging.getLogger("interlock.decisions")

_FIRST_RATIO: Final = 4.0


class NotTaken(Exception):
    """The collector did not take a chunk. `too_large`: it never will, in one piece."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class Collector(Protocol):
    """Where events go."""

    async def post(self, chunk: bytes) -> None:
        """Hand over a gzip'd JSON array of events. Raises `NotTaken`."""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """How much at a time, and how patiently."""

    chunk_bytes: int = 32 << 10
    """Compressed, as OPA's `upload_size_limit_bytes`. An event that is larger by itself goes alone."""
    buffer_bytes: int = 16 << 20
    every_s: float = 1.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 60.0
    drain_s: float = 5.0
    """At shutdown: how long to try to send what is left."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Events under way."""

    events: tuple[bytes, ...]
    body: bytes


class UploadBuffer:
    """Events that are to be sent. Filled from one thread and emptied from another."""

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._lock = Lock()
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._ratio = _FIRST_RATIO
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._events)

    def put(self, events: Sequence[bytes]) -> None:
        """Add events; beyond the bound the oldest are given up."""
        with self._lock:
            self._events.extend(events)
            self._bytes += sum(map(len, events))
            while self._bytes > self._limits.buffer_bytes:
                self._bytes -= len(self._events.popleft())
                self.dropped += 1

    def take(self) -> Chunk | None:
        """The next chunk; whoever takes it either sends it or counts its events as dropped."""
        events = self._pop(int(self._limits.chunk_bytes * self._ratio))
        if not events:
            return None
        chunk = packed(events)
        while len(chunk.body) > self._limits.chunk_bytes and len(chunk.events) > 1:
            first, rest = halves(chunk)
            self._put_back(rest)
            chunk = packed(first)
        self._ratio = max(1.0, 0.9 * sum(map(len, chunk.events)) / len(chunk.body))
        return chunk

    def _pop(self, size: int) -> list[bytes]:
        events: list[bytes] = []
        with self._lock:
            while self._events and (not events or size >= len(self._events[0])):
                size -= len(self._events[0])
                self._bytes -= len(self._events[0])
                events.append(self._events.popleft())
        return events

    def _put_back(self, events: Sequence[bytes]) -> None:
        with self._lock:
            self._events.extendleft(reversed(events))
            self._bytes += sum(map(len, events))


def packed(events: Sequence[bytes]) -> Chunk:
    """These events as what is sent."""
    return Chunk(tuple(events), gzip.compress(b"[" + b",".join(events) + b"]", mtime=0))


def halves(chunk: Chunk) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Its events in two parts."""
    middle = len(chunk.events) // 2
    return chunk.events[:middle], chunk.events[middle:]


class Uploader:
    """Empties the buffer to a collector; `run` must be started in the app's task group."""

    def __init__(self, buffer: UploadBuffer, collector: Collector, limits: UploadLimits) -> None:
        self._buffer, self._collector, self._limits = buffer, collector, limits
        self._waiting: deque[Chunk] = deque()
        self._failing = False
        self.sent = 0
        self.failed = 0
        self.refused = 0
        """Events that the collector will not have at any size."""

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Send until cancelled; then send what is left, for a bounded time."""
        task_status.started()
        pause_s = 0.0
        try:
            while True:
                await anyio.sleep(max(pause_s, self._limits.every_s))
                pause_s = 0.0 if await self._send_all() else self._longer(pause_s)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(self._limits.drain_s):
                await self._send_all()

    def _longer(self, pause_s: float) -> float:
        return min(max(pause_s * 2, self._limits.first_pause_s), self._limits.longest_pause_s)

    async def _send_all(self) -> bool:
        """Send until nothing is left; `False` as soon as the collector does not take something."""
        while self._waiting or len(self._buffer):
            if not self._waiting:
                chunk = await to_thread.run_sync(self._buffer.take)
                self._waiting.extend([chunk] if chunk is not None else [])
            elif not await self._send(self._waiting[0]):
                return False
        return True

    async def _send(self, chunk: Chunk) -> bool:
        try:
            await self._collector.post(chunk.body)
        except NotTaken as exc:
            return await self._not_taken(chunk, exc)
        self._waiting.popleft()
        self.sent += len(chunk.events)
        if self._failing:
            log.warning("decisions: the collector takes events again")
            self._failing = False
        return True

    async def _not_taken(self, chunk: Chunk, why: NotTaken) -> bool:
        """Whether to go on at once."""
        if not why.too_large:
            self.failed += 1
            if not self._failing:
                log.warning("decisions: %s; events wait, and the oldest are dropped when the buffer is full", why)
                self._failing = True
            return False
        self._waiting.popleft()
        if len(chunk.events) == 1:
            self.refused += 1
            log.warning("decisions: an event of %d bytes is not uploaded: %s", len(chunk.events[0]), why)
        else:
            parts = [await to_thread.run_sync(packed, part) for part in halves(chunk)]
            self._waiting.extendleft(reversed(parts))
        return True
