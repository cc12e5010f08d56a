"""The upstreams that run now: started, changed and ended as configuration says, without losing a call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from gateway.errors import ConfigError, UnknownResource
from gateway.ports import Relay, Upstream
from gateway.types import Authorized, Call, Result

log = logging.getLogger("interlock.upstreams")

DRAIN_S: Final = 30.0
"""How long the calls on an upstream that is replaced may take to end."""
FIRST_ATTEMPT_S: Final = 10.0
"""How long a call waits for an upstream that has just been started, or replaced by another configuration."""


class Runnable(Upstream, Protocol):
    """An upstream that has to be kept running."""

    settled: anyio.Event

    async def run(self) -> None: ...

    def unwatched(self, uri: str) -> None: ...

    def report(self) -> Mapping[str, object]:
        """How it fares, for people: state, reason, era, counts, last words on stderr."""


@dataclass(slots=True)
class _Entry:
    """One running upstream, and the calls on it."""

    spec: object
    upstream: Runnable
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    calls: int = 0
    idle: anyio.Event = field(default_factory=anyio.Event)
    replaced: bool = False

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        self.calls += 1
        try:
            if not self.upstream.settled.is_set():  # it was configured a moment ago: that is no reason to fail
                with anyio.move_on_after(FIRST_ATTEMPT_S):
                    await self.upstream.settled.wait()
            return await self.upstream.execute(authorized, relay)
        finally:
            self.calls -= 1
            if self.calls == 0 and self.replaced:
                self.idle.set()


class Running:
    """Keeps one task per configured upstream. What is unchanged between two configurations is not touched."""

    def __init__(
        self, group: TaskGroup, make: Callable[[str, object], Runnable], crashed: Callable[[str], None]
    ) -> None:
        self._group = group
        self._make = make
        self._crashed = crashed
        self._entries: dict[str, _Entry] = {}

    def apply(self, specs: Mapping[str, object]) -> None:
        """Make these the upstreams. New calls go to the new ones at once; old ones end when their calls have."""
        entries: dict[str, _Entry] = {}
        fresh: list[tuple[str, _Entry]] = []
        for name, spec in specs.items():
            known = self._entries.get(name)
            if known is not None and known.spec == spec:
                entries[name] = known
                continue
            entries[name] = _Entry(spec, self._make(name, spec))
            fresh.append((name, entries[name]))
        old = [entry for name, entry in self._entries.items() if entries.get(name) is not entry]
        self._entries = entries
        for name, entry in fresh:
            self._group.start_soon(self._keep, name, entry)
        for entry in old:
            self._group.start_soon(self._retire, entry)

    def upstream_for(self, call: Call) -> Upstream:
        """What carries the call out. Raises `UnknownResource` when its upstream is no longer configured."""
        entry = self._entries.get(call.resource.upstream)
        if entry is None:
            raise UnknownResource(f"upstream {call.resource.upstream!r} is not configured")
        return entry

    def get(self, name: str) -> Runnable | None:
        """The running upstream of that name."""
        entry = self._entries.get(name)
        return entry.upstream if entry is not None else None

    def unwatched(self, upstream: str, uri: str) -> None:
        """Nobody watches this resource any more."""
        found = self.get(upstream)
        if found is not None:
            found.unwatched(uri)

    async def settle(self, within_s: float) -> None:
        """Wait until every upstream was tried once, but no longer than `within_s`."""
        with anyio.move_on_after(within_s):
            for entry in list(self._entries.values()):
                await entry.upstream.settled.wait()

    async def _keep(self, name: str, entry: _Entry) -> None:
        with entry.scope:
            try:
                await entry.upstream.run()
            except* ConfigError as group:
                log.error("upstream %r is not started: %s", name, _first(group))  # noqa: TRY400  # its words say all
                self._given_up(name, entry)
            except* Exception:  # a fault in one upstream's handling must not take the gateway down
                log.exception("upstream %r stopped working because of a fault in the gateway", name)
                self._given_up(name, entry)

    def _given_up(self, name: str, entry: _Entry) -> None:
        self._crashed(name)
        entry.upstream.settled.set()

    async def _retire(self, entry: _Entry) -> None:
        entry.replaced = True
        if entry.calls:
            with anyio.move_on_after(DRAIN_S):
                await entry.idle.wait()
        entry.scope.cancel()


def _first(error: BaseException) -> BaseException:
    """What went wrong, without the task groups that it went through."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
