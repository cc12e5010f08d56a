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

Key: TypeAlias = tuple[str, str]
"""Task id and owner: nothing of one principal reaches another."""


@dataclass(slots=True)
class Hub:
    """The streams of one agent. They run in `group`, not in the calls that asked for them."""

    group: TaskGroup
    pace: Pace
    random: Callable[[], float]
    _feeds: dict[Key, Feed] = field(default_factory=dict)
    open: int = 0
    """Streams that run now."""

    @contextmanager
    def sent(self, line: Line, owner: str) -> Iterator[Ring]:
        """A stream of its own, for a message. Others may join it once its task is known."""

        def known(feed: Feed) -> None:
            self._feeds.setdefault((feed.task_id, owner), feed)

        with self._started(line, "", known).joined() as ring:
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
        feed = self._feeds[(task_id, owner)] = self._started(line, task_id, None)
        with feed.joined() as ring:
            yield ring

    def _started(self, line: Line, task_id: str, known: Callable[[Feed], None] | None) -> Feed:
        feed = Feed(line, task_id, pace=self.pace, random=self.random, known=known)
        self.group.start_soon(self._kept, feed)
        return feed

    async def _kept(self, feed: Feed) -> None:
        self.open += 1
        try:
            await feed.run()
        finally:
            self.open -= 1
            self._feeds = {key: one for key, one in self._feeds.items() if one is not feed}
