"""The current snapshot, and who is told when it changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from gateway.registry.catalog import UpstreamCatalog
from gateway.registry.definitions import KINDS, Kind
from gateway.registry.shelf import ListedItem
from gateway.registry.snapshot import Snapshot, UpstreamState, build_snapshot
from gateway.types import Resource


@dataclass(frozen=True, slots=True)
class Change:
    """What became different: `kinds` of lists, of one upstream."""

    kinds: frozenset[Kind]
    upstream: str
    revision: int


OnChange: TypeAlias = Callable[[Change], None]


class Registry:
    """Knows every configured upstream. Writers replace the whole snapshot; readers hold one and never wait.

    To be used from one event loop. Whoever needs several answers about one call takes `snapshot` once.
    """

    def __init__(self, order: Sequence[str] = ()) -> None:
        self._listeners: dict[object, OnChange] = {}
        self.snapshot: Snapshot = build_snapshot([UpstreamState(name) for name in order], 1)

    def configure(self, order: Sequence[str]) -> None:
        """The upstreams that exist from now on, in configuration order; what is known of those that stay is kept."""
        known = {state.name: state for state in self.snapshot.upstreams}
        gone = [state for name, state in known.items() if name not in order]
        self._replace([known.get(name, UpstreamState(name)) for name in order])
        for state in gone:
            self._announce(_kinds_of(state.catalog), state.name)

    def put(self, catalog: UpstreamCatalog) -> bool:
        """Take an upstream's catalog, as judged against its pins, and mark it up.

        `False` when the upstream is not configured (an answer that came too late): nothing is taken. An equal catalog
        changes nothing and tells nobody.
        """
        state = self.snapshot.upstream(catalog.name)
        if state is None:
            return False
        kinds = _changed_kinds(state.catalog, catalog)
        if _same(state.catalog, catalog):
            self._set(replace(state, down=""), keep_revision=True)
            return True
        revision = self.snapshot.revision + 1
        self._set(UpstreamState(catalog.name, replace(catalog, revision=revision)))
        self._announce(kinds, catalog.name)
        return True

    def down(self, upstream: str, reason: str) -> None:
        """Mark an upstream that cannot be reached. Its last good catalog stays listed, so a restart is not seen."""
        state = self.snapshot.upstream(upstream)
        if state is not None:
            self._set(replace(state, down=reason), keep_revision=True)

    def remove(self, upstream: str) -> None:
        """Forget an upstream; a late `put` for it is refused."""
        self.configure([state.name for state in self.snapshot.upstreams if state.name != upstream])

    def on_change(self, listener: OnChange) -> Callable[[], None]:
        """Call `listener` after each change, in the task that made it; it must not raise or wait.

        Returns a function that ends it.
        """
        key = object()
        self._listeners[key] = listener

        def end() -> None:
            self._listeners.pop(key, None)

        return end

    def resolve_tool(self, view: str | None, name: str) -> Resource:
        """`Snapshot.resolve_tool` of the current snapshot."""
        return self.snapshot.resolve_tool(view, name)

    def resolve_prompt(self, view: str | None, name: str) -> Resource:
        """`Snapshot.resolve_prompt` of the current snapshot."""
        return self.snapshot.resolve_prompt(view, name)

    def resolve_uri(self, view: str | None, uri: str) -> Resource:
        """`Snapshot.resolve_uri` of the current snapshot."""
        return self.snapshot.resolve_uri(view, uri)

    def resolve_server(self, view: str | None) -> Resource:
        """`Snapshot.resolve_server` of the current snapshot."""
        return self.snapshot.resolve_server(view)

    def items(self, view: str | None, kind: Kind) -> Sequence[ListedItem]:
        """`Snapshot.items` of the current snapshot."""
        return self.snapshot.items(view, kind)

    def _set(self, changed: UpstreamState, *, keep_revision: bool = False) -> None:
        states = [changed if state.name == changed.name else state for state in self.snapshot.upstreams]
        if keep_revision:
            self.snapshot = replace(self.snapshot, upstreams=tuple(states))
        else:
            self._replace(states)

    def _replace(self, states: Sequence[UpstreamState]) -> None:
        self.snapshot = build_snapshot(states, self.snapshot.revision + 1, self.snapshot)

    def _announce(self, kinds: frozenset[Kind], upstream: str) -> None:
        if not kinds:
            return
        change = Change(kinds, upstream, self.snapshot.revision)
        for listener in tuple(self._listeners.values()):
            listener(change)


def _same(old: UpstreamCatalog | None, new: UpstreamCatalog) -> bool:
    return old is not None and replace(old, revision=0) == replace(new, revision=0)


def _changed_kinds(old: UpstreamCatalog | None, new: UpstreamCatalog) -> frozenset[Kind]:
    if old is None:
        return _kinds_of(new)
    return frozenset(kind for kind in KINDS if old.items[kind] != new.items[kind])


def _kinds_of(catalog: UpstreamCatalog | None) -> frozenset[Kind]:
    return frozenset(kind for kind in KINDS if catalog is not None and catalog.items[kind])
