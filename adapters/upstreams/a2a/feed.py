"""One stream of one task: read from the agent, taken up again when it is cut, handed to everybody who follows it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import anyio

from adapters.upstreams.a2a.answers import error_of
from adapters.upstreams.a2a.caller import Heard, Refused
from adapters.upstreams.a2a.ring import Limits, Ring
from adapters.upstreams.a2a.view import View, missed, task_id_of
from adapters.upstreams.wire.backoff import Backoff
from gateway import codec
from gateway.a2a.errors import A2aError
from gateway.a2a.operations import TERMINAL
from gateway.codec import JsonObject
from gateway.errors import InterlockError, QuotaExceeded, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Result

log = logging.getLogger("interlock.upstreams")

MAX_REPAIRS: Final = 3
"""Attempts in a row to take up a stream that was cut, none of which brought anything new."""
DONE: Final = Result(b"{}")


@dataclass(frozen=True, slots=True)
class Pace:
    """How streams are held. Times are seconds, sizes bytes."""

    ring: Limits = field(default_factory=Limits)
    view_bytes: int = 1024 * 1024
    """How much of a task is kept for those who join late; of a larger one they get a stream of their own."""
    grace_s: float = 10.0
    """How long a stream is followed when nobody listens: a client that lost its connection comes back."""
    linger_s: float = 5.0
    """How long an agent may leave a stream open after the last word on a task."""
    repair_s: float = 0.25
    """The wait before a stream that was cut is taken up; it doubles each time."""
    streams_per_owner: int = 256
    """So that one caller takes up only part of the connections that an agent has."""
    followers: int = 256
    """How many may follow one stream: what waits for each takes memory."""


class Line(Protocol):
    """A task's stream at the agent. Raises the `Upstream*` errors and `Refused`."""

    def open(self) -> AsyncGenerator[Heard, None]: ...

    def again(self, task_id: str) -> AsyncGenerator[Heard, None]:
        """Subscribe to the task, whose stream was cut."""

    async def look(self, task_id: str) -> JsonObject:
        """The task as it is now."""

    async def learn(self, heard: Heard) -> Heard:
        """Note whose task it is and how it stands, before anybody hears of it; returns what they are to hear.

        Raises `UpstreamProtocolError` for an event that is not the caller's.
        """


class Feed:
    """One stream. `run` reads it; `joined` follows it. `known` is told once, when it turns out which task it is."""

    def __init__(
        self,
        line: Line,
        task_id: str,
        *,
        pace: Pace,
        random: Callable[[], float],
        known: Callable[[Feed], None] | None,
    ) -> None:
        self._line = line
        self._pace = pace
        self._known = known
        self._backoff = Backoff(first_s=pace.repair_s, max_s=10 * pace.repair_s, random=random)
        self._scope = anyio.CancelScope()
        self._rings: list[Ring] = []
        self._moved: anyio.Event | None = None
        self._heard = 0
        self._asked_for = bool(task_id)
        self._ended = False
        self.task_id = task_id
        self.view = View(max_bytes=pace.view_bytes)

    @property
    def joinable(self) -> bool:
        """Whether somebody who joins now can be given all of it: the task as it is, then what follows."""
        waiting = self._asked_for and self._heard == 0
        ending = self._ended or self._scope.cancel_called or self.view.state in TERMINAL
        return not ending and (waiting or self.view.task is not None)

    @contextmanager
    def joined(self) -> Iterator[Ring]:
        """Follow the stream from here on. Raises `QuotaExceeded` when too many do already."""
        if len(self._rings) >= self._pace.followers:
            raise QuotaExceeded(f"this task is followed {len(self._rings)} times already: let some end first")
        ring = Ring(self._pace.ring, self._has_moved)
        self._rings.append(ring)
        self._set_deadline()
        self._has_moved()
        try:
            yield ring
        finally:
            if ring in self._rings:
                self._rings.remove(ring)
            self._set_deadline()
            self._has_moved()

    def cut(self) -> None:
        """End it now: those who follow are told that it was cut."""
        self._scope.cancel()

    async def run(self) -> None:
        """Read the stream to its end, and say to all how it ended."""
        ending: Result | Exception = UpstreamUnavailable("the upstream is being disconnected")
        try:
            with self._scope:
                ending = await self._followed()
            if self._scope.cancelled_caught and self.view.over:
                ending = DONE
        finally:
            self._ended = True
            if not self._rings and isinstance(ending, Exception) and not isinstance(ending, InterlockError):
                log.error("a stream that nobody follows failed", exc_info=ending)
            for ring in self._rings:
                ring.end(ending)

    async def _followed(self) -> Result | Exception:
        try:
            cut = await self._read(self._line.open())
            tries = 0
            while not self.view.over:
                if not self.task_id or not self._heard:
                    return cut
                if tries >= MAX_REPAIRS:
                    return self._lost()
                await anyio.sleep(self._backoff.failed(ran_s=0))
                before = self._heard
                cut = await self._taken_up()
                tries = 0 if self._heard > before else tries + 1
                if not tries:
                    self._backoff.reset()
        except Refused as exc:
            return exc.result
        except A2aError as exc:
            return error_of(exc)
        except Exception as exc:  # noqa: BLE001  # not swallowed: it goes to the calls that follow the stream
            return exc
        return DONE

    async def _read(self, source: AsyncGenerator[Heard, None], *, resumed: bool = False) -> InterlockError:
        """Hand on what comes; returns how the stream was cut, if it was."""
        fresh = resumed
        try:
            async with aclosing(source) as events:
                async for heard in events:
                    task = heard.value.get("task") if fresh else None
                    fresh = False
                    if isinstance(task, dict):
                        await self._caught_up(task)
                    else:
                        await self._take(heard)
        except (UpstreamUnavailable, UpstreamTimeout) as exc:
            return exc
        return UpstreamUnavailable("the agent ended its stream before the task was done")

    async def _taken_up(self) -> InterlockError:
        """One attempt to go on with a stream that was cut."""
        try:
            return await self._read(self._line.again(self.task_id), resumed=True)
        except Refused:  # it is done: what became of it can still be seen
            return await self._looked()

    async def _looked(self) -> InterlockError:
        try:
            await self._caught_up(await self._line.look(self.task_id))
        except Refused:
            return self._lost()
        except (UpstreamUnavailable, UpstreamTimeout) as exc:
            return exc
        return self._lost()

    def _lost(self) -> UpstreamUnavailable:
        return UpstreamUnavailable("the stream was cut and could not be taken up; GetTask tells how it ended")

    async def _caught_up(self, task: JsonObject) -> None:
        """Hand on what the cut made us miss."""
        await self._checked(Heard(b"", {"task": task}))
        for event in missed(self.view, task):
            await self._hand_out(Heard(codec.dumps(event), event))
        self.view.start(task, len(codec.dumps(task)))
        self._set_deadline()

    async def _take(self, heard: Heard) -> None:
        heard = await self._checked(heard)
        if self._known is not None and self.task_id:
            self._known(self)
            self._known = None
        await self._hand_out(heard)
        if self.view.over:
            self._set_deadline()

    async def _checked(self, heard: Heard) -> Heard:
        """Every event is of the one task (section 3.1.2), and nobody else's."""
        named = task_id_of(heard.value)
        if named and self.task_id and named != self.task_id:
            raise UpstreamProtocolError("the agent sent events of another task on the stream of this one")
        shown = await self._line.learn(heard)
        self.task_id = self.task_id or named
        return shown

    async def _hand_out(self, heard: Heard) -> None:
        for ring in self._rings:
            if ring.full:
                await self._room()
                break
        # In one step: who joins gets the task as it was before this event and then the event, or as it is after it.
        self.view.take(heard.value, len(heard.raw))
        self._heard += 1
        for ring in self._rings:
            ring.put(heard.raw)

    # Who is slow

    async def _room(self) -> None:
        """Wait until everybody can take one more event. One alone may take its time; others wait for nobody long."""
        while slow := [ring for ring in self._rings if ring.full]:
            alone = len(self._rings) == 1
            started = anyio.current_time()
            self._moved = anyio.Event()
            with anyio.move_on_after(None if alone else min(ring.patience_s for ring in slow)):
                await self._moved.wait()
            self._moved = None
            if not alone:
                self._blame(slow, anyio.current_time() - started)

    def _blame(self, slow: list[Ring], waited_s: float) -> None:
        for ring in slow:
            ring.patience_s -= waited_s
            if ring.patience_s <= 0 and ring in self._rings:
                ring.cut()
                self._rings.remove(ring)

    def _has_moved(self) -> None:
        if self._moved is not None:
            self._moved.set()

    def _set_deadline(self) -> None:
        """When reading ends by itself: soon after the last word, or when nobody came back."""
        now = anyio.current_time()
        if self.view.state in TERMINAL or self.view.said:
            self._scope.deadline = min(self._scope.deadline, now + self._pace.linger_s)
        else:
            self._scope.deadline = float("inf") if self._rings else now + self._pace.grace_s
