"""Who hears of changes: list changes and resource updates from upstreams, fanned out to clients that asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

Change: TypeAlias = Literal["tools", "prompts", "resources", "updated"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something changed at an upstream: a whole list, or (`updated`) the resource `uri`."""

    upstream: str
    change: Change
    uri: str = ""


class Subscription:
    """The events that one client has not been told of yet.

    Equal events coalesce, so a client that reads slowly costs a bounded amount and misses nothing that matters: every
    event means "look again".
    """

    def __init__(self) -> None:
        self._pending: dict[Event, None] = {}
        self._woken = asyncio.Event()
        self.closed = False

    def put(self, event: Event) -> None:
        self._pending[event] = None
        self._woken.set()

    def close(self) -> None:
        self.closed = True
        self._woken.set()

    async def next(self) -> list[Event]:
        """Wait for at least one event and take all there are; empty once the subscription is `closed`."""
        await self._woken.wait()
        self._woken.clear()
        events, self._pending = list(self._pending), {}
        return events


class Events:
    """Fan-out of events, and the count of who watches which resource."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._watchers: dict[tuple[str, str], int] = {}
        self._unwatched: list[Callable[[str, str], None]] = []
        self._closed = False

    def publish(self, event: Event) -> None:
        """Tell every subscription; never waits."""
        for subscription in self._subscriptions:
            subscription.put(event)

    def close(self) -> None:
        """End every subscription in good order, later ones at once: the gateway is going down."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()

    @contextmanager
    def subscription(self) -> Iterator[Subscription]:
        """Receive events while the block runs."""
        subscription = Subscription()
        if self._closed:
            subscription.close()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def on_unwatched(self, told: Callable[[str, str], None]) -> None:
        """Call `told(upstream, uri)` when the last watcher of a resource has gone."""
        self._unwatched.append(told)

    def watch(self, upstream: str, uri: str) -> None:
        """Count one more watcher of a resource."""
        key = (upstream, uri)
        self._watchers[key] = self._watchers.get(key, 0) + 1

    def unwatch(self, upstream: str, uri: str) -> None:
        """Count one watcher less; at none the upstream's subscription ends."""
        key = (upstream, uri)
        left = self._watchers.get(key, 0) - 1
        if left > 0:
            self._watchers[key] = left
            return
        if self._watchers.pop(key, None) is not None:
            for told in self._unwatched:
                told(upstream, uri)

    def watched(self, upstream: str) -> list[str]:
        """The resources of an upstream that somebody watches: what to subscribe to again after a reconnect."""
        return [uri for name, uri in self._watchers if name == upstream]
