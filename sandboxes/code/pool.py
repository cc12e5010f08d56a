"""Boxes that are started ahead, so that a session gets its own at once. Each is handed out once, and never again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import anyio

from gateway.boxes import Level, Program
from gateway.errors import InterlockError, SandboxFailure
from sandboxes.code.client import AgentClient, Problem

log = logging.getLogger("interlock.sandbox")

BoxSource: TypeAlias = Callable[[], Awaitable[Program]]
"""Starts one more box of a kind, cold or as a clone of a frozen one. Raises `SandboxFailure` or `Upstream*`.

When it fails or is cancelled, it leaves no box.
"""
Kind: TypeAlias = tuple[str, str, Level]
"""What makes unused boxes interchangeable: environment, digest of what is in them, least level of isolation."""

FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 60.0
REST_S: Final = 0.05
"""How long after a box was taken the next is started: who took it is served first, for a start keeps a core busy."""
END_S: Final = 15.0
"""How long the end of boxes is waited for; their reapers go on regardless."""


@dataclass(slots=True)
class Shelf:
    """The unused boxes of one kind, oldest first."""

    source: BoxSource
    size: int
    label: str
    ready: deque[AgentClient] = field(default_factory=deque)
    wanted: anyio.Event = field(default_factory=anyio.Event)
    reason: str = ""
    """Why the last box could not be started, if it could not."""


class Pool:
    """Keeps the shelves full while `run` runs."""

    def __init__(self, shelves: Mapping[Kind, Shelf]) -> None:
        self._shelves = {kind: shelf for kind, shelf in shelves.items() if shelf.size > 0}

    @property
    def unused(self) -> int:
        """How many boxes wait for a session."""
        return sum(len(shelf.ready) for shelf in self._shelves.values())

    @property
    def reason(self) -> str:
        """Why a shelf is not full, if something is wrong."""
        return "; ".join(shelf.reason for shelf in self._shelves.values() if shelf.reason)

    def take(self, kind: Kind, needed: Level) -> AgentClient | None:
        """An unused box that is strong enough, to be the taker's from now on. `None` when there is none."""
        shelf = self._shelves.get(kind)
        found = None
        while shelf is not None and found is None and shelf.ready:
            found = _fit(shelf.ready.popleft(), needed)
            shelf.wanted.set()
        return found

    async def run(self) -> None:
        """Fill the shelves, and again whenever something was taken. Cancelled, no unused box is left."""
        try:
            async with anyio.create_task_group() as group:
                for shelf in self._shelves.values():
                    group.start_soon(_keep_full, shelf)
        finally:
            boxes = [box for shelf in self._shelves.values() for box in shelf.ready]
            for shelf in self._shelves.values():
                shelf.ready.clear()
            await end_all(boxes)


def _fit(box: AgentClient, needed: Level) -> AgentClient | None:
    """The box, if it may be used; one that is not is ended, since nobody would take it later either."""
    if box.alive and box.facts.level.holds(needed):
        return box
    box.kill()
    return None


async def _keep_full(shelf: Shelf) -> None:
    retry_s = FIRST_RETRY_S
    while True:
        shelf.wanted = anyio.Event()
        try:
            while len(shelf.ready) < shelf.size:
                shelf.ready.append(await started(shelf.source, shelf.label))
        except InterlockError as exc:
            if str(exc) != shelf.reason:
                log.warning("environment %r: no box could be started ahead: %s", shelf.label, exc)
            shelf.reason = str(exc)
            with anyio.move_on_after(retry_s):
                await shelf.wanted.wait()
            retry_s = min(retry_s * 2, LAST_RETRY_S)
            continue
        shelf.reason, retry_s = "", FIRST_RETRY_S
        await shelf.wanted.wait()
        await anyio.sleep(REST_S)


async def started(source: BoxSource, label: str) -> AgentClient:
    """A fresh box whose agent is up. Raises `SandboxFailure` or the `Upstream*` errors, and leaves none then."""
    box = AgentClient(await source(), f"a box of environment {label!r}")
    try:
        await box.ping()
    except Problem as exc:
        box.kill()
        raise SandboxFailure(f"a box of environment {label!r} is not usable: its agent refused to answer") from exc
    except BaseException:
        box.kill()
        raise
    return box


async def agent_is_up(program: Program) -> Mapping[str, object]:
    """Wait until the agent of a box answers: then it can be frozen, and clones of it are ready at once.

    Raises `Problem` and the `Upstream*` errors.
    """
    pong = await AgentClient(program, "a box that is to be frozen").ping()
    return {"python": pong.python}


async def end_all(boxes: list[AgentClient]) -> None:
    """End boxes and wait until nothing of them is left, also when cancelled."""
    for box in boxes:
        box.kill()
    with anyio.move_on_after(END_S, shield=True):
        for box in boxes:
            await box.program.wait()
