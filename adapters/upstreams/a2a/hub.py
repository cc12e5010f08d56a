"""Streams of tasks, shared: what one subscriber does, leaving included, is not seen by the others or the agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from anyio.abc import TaskGroup

from adapters.upstreams.a2a.feed import Feed, Line, Pace
from adapters.upstreams.a2a.ring import Ring
from gateway import codec
from gateway.errors import QuotaExceeded

Key: TypeAlias = tuple[str, str]
"""Task id and owner: nothing of one principal reaches another."""


@dataclass(slots=True)
class Hub:
    """The streams of one agent. They run in `group`, not in the calls that asked for them."""

    group: TaskGroup
    pace: Pace
    random: Callable[[], float]
    _feeds: dict[Key, Feed] = field(default_factory=dict)
    _running: list[Feed] = field(default_factory=list)
    _held: dict[str, int] = field(default_factory=dict)
    """How many streams run for each owner, those included that nobody follows any more."""
    open: int = 0
    """Streams that run now."""

    @contextmanager
    def sent(self, line: Line, owner: str) -> Iterator[Ring]:
        """A stream of its own, for a message. Others may join it once its task is known."""

        def known(feed: Feed) -> None:
            self._feeds.setdefault((feed.task_id, owner), feed)

        with self._started(line, owner, "", known).joined() as ring:
            yield ring

    @contextmanager
    def subscribed(self, line: Line, owner: str, task_id: str) -> Iterator[Ring]:
        """The stream of a task: the one there is, or a new one. What comes first is the task (section 3.1.6)."""
        feed = self._feeds.get((task_id, owner))
        if feed is not None and feed.joinable:
            with feed.joined() as ring:
                if feed.view.task is not None:
                    ring.put(codec.dumps({"task": feed.view.task}))
                yield ring
            return
        feed = self._feeds[(task_id, owner)] = self._started(line, owner, task_id, None)
        with feed.joined() as ring:
            yield ring

    def cut(self) -> None:
        """End all streams now: the agent may not be heard any more."""
        for feed in self._running:
            feed.cut()

    def _started(self, line: Line, owner: str, task_id: str, known: Callable[[Feed], None] | None) -> Feed:
        held = self._held.get(owner, 0)
        if held >= self.pace.streams_per_owner:
            words = f"you hold {held} streams of this agent, as many as one caller may: let some end first"
            raise QuotaExceeded(words)
        feed = Feed(line, task_id, pace=self.pace, random=self.random, known=known)
        self._held[owner] = held + 1
        self._running.append(feed)
        self.group.start_soon(self._kept, feed, owner)
        return feed

    async def _kept(self, feed: Feed, owner: str) -> None:
        self.open += 1
        try:
            await feed.run()
        finally:
            self.open -= 1
            self._let_go(owner)
            self._running.remove(feed)
            self._feeds = {key: one for key, one in self._feeds.items() if one is not feed}

    def _let_go(self, owner: str) -> None:
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
