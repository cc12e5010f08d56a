"""The events that wait for one subscriber of a stream: bounded, so that a slow one can hold up nobody for long."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final

import anyio

from gateway.errors import InterlockError, UpstreamUnavailable
from gateway.types import Result

SLOW: Final = "the stream was cut, as it was read too slowly to keep up with; GetTask tells how it ended"


@dataclass(frozen=True, slots=True)
class Limits:
    """What may wait for one subscriber, and for how long in all it may make the others wait."""

    events: int = 1_024
    size: int = 4 * 1024 * 1024
    patience_s: float = 2.0


class Ring:
    """One subscriber's events. `moved` is called whenever it has taken one."""

    def __init__(self, limits: Limits, moved: Callable[[], None]) -> None:
        self._limits = limits
        self._moved = moved
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._news = anyio.Event()
        self._ending: Result | Exception | None = None
        self.patience_s = limits.patience_s

    @property
    def full(self) -> bool:
        """Whether one more event would be too much."""
        return len(self._events) >= self._limits.events or self._bytes >= self._limits.size

    def put(self, event: bytes) -> None:
        """Add an event; nothing is added after the end."""
        if self._ending is None:
            self._events.append(event)
            self._bytes += len(event)
            if len(self._events) == 1:
                self._news.set()

    def end(self, ending: Result | Exception) -> None:
        """Nothing follows what is there."""
        if self._ending is None:
            self._ending = ending
            self._news.set()

    def cut(self) -> None:
        """Give the subscriber up, with what waits for it: it would only wait longer."""
        self._events.clear()
        self._bytes = 0
        self.end(UpstreamUnavailable(SLOW))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events in order, until the end."""
        while True:
            while self._events:
                event = self._events.popleft()
                self._bytes -= len(event)
                self._moved()
                yield event
            if self._ending is not None:
                return
            self._news = anyio.Event()
            await self._news.wait()

    def result(self) -> Result:
        """How the stream ended, once `events` has: with a result, or by raising."""
        ending = self._ending
        if isinstance(ending, Result):
            return ending
        if isinstance(ending, InterlockError):
            # A fresh one for each: an exception raised in several tasks would gather all their tracebacks.
            raise type(ending)(str(ending))
        raise ending if ending is not None else UpstreamUnavailable(SLOW)
