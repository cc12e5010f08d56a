"""One consistent picture of all upstreams; a look-up in it is a dictionary access."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from types import MappingProxyType
from typing import Final

from gateway.registry.catalog import Item, UpstreamCatalog
from gateway.registry.definitions import KINDS, Kind
from gateway.registry.shelf import ItemKey, Lines, ListedItem, Shelf, Template, key_of, stock
from gateway.registry.templates import scheme_of
from gateway.types import FrozenDict, Resource

MERGED: Final = "*"
"""The view of all upstreams together."""

_UNLISTED: Final = FrozenDict(
    {"risk": "unknown", "labels": (), "definition_digest": "", "pinned": False, "listed": False}
)


@dataclass(frozen=True, slots=True)
class View:
    """What can be named at one place: one upstream with its own names, or all of them with merged names."""

    upstreams: tuple[str, ...] = ()
    revision: int = 0
    """Grows whenever anything in this view changes: lists may be cached by it."""
    tools: Mapping[str, Resource] = field(default_factory=dict)
    prompts: Mapping[str, Resource] = field(default_factory=dict)
    resources: Mapping[str, Resource] = field(default_factory=dict)
    templates: tuple[Template, ...] = ()
    schemes: Mapping[str, str] = field(default_factory=dict)
    """The one upstream that uses a scheme; schemes that several use are absent."""
    sole: str = ""
    """The upstream that is asked for any other URI: the only one here, if it declares `resources`."""
    listed: Mapping[Kind, tuple[ListedItem, ...]] = field(default_factory=lambda: dict.fromkeys(KINDS, ()))


_NO_VIEW: Final = View()


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """An upstream as the registry knows it. `catalog` is the last good one; `down` says why it is not reached now."""

    name: str
    catalog: UpstreamCatalog | None = None
    down: str = ""


@dataclass(frozen=True)
class Snapshot:
    """All upstreams in configuration order, with every view of them ready. Never changes."""

    revision: int = 0
    upstreams: tuple[UpstreamState, ...] = ()
    views: Mapping[str, View] = field(default_factory=dict)
    by_resource: Mapping[ItemKey, Item] = field(default_factory=dict)
    shelves: Mapping[str, Shelf] = field(default_factory=dict, repr=False)
    """What the next snapshot need not render again."""

    def resolve_tool(self, view: str | None, name: str) -> Resource:
        """The tool of that name in a view (`None` or `*`: merged); an unknown one has `known=False`."""
        found = self._view(view).tools.get(name)
        return found if found is not None else _unknown("tool", view, name)

    def resolve_prompt(self, view: str | None, name: str) -> Resource:
        """The prompt of that name in a view; an unknown one has `known=False`."""
        found = self._view(view).prompts.get(name)
        return found if found is not None else _unknown("prompt", view, name)

    def resolve_uri(self, view: str | None, uri: str) -> Resource:
        """The resource at a URI: as listed, else by the first fitting template, else by a scheme that one upstream has.

        A URI that is not itself listed has `catalog["listed"] = False`. None of these: `known=False`. In the view of
        one upstream that declares `resources`, every URI is that upstream's to answer.
        """
        place = self._view(view)
        found = place.resources.get(uri)
        if found is not None:
            return found
        for template, resource in place.templates:
            if uri == template.text or template.matches(uri):
                return _expanded(resource, uri)
        upstream = place.schemes.get(scheme_of(uri), place.sole)
        if not upstream:
            return _unknown("mcp_resource", view, uri)
        return Resource("mcp_resource", uri, upstream, uri, catalog=_UNLISTED)

    def resolve_server(self, view: str | None) -> Resource:
        """The `mcp_server` that a list, `initialize` or `discover` acts on; id `*` is the merged view."""
        name = view or MERGED
        return Resource("mcp_server", name, "" if name == MERGED else name, name, known=name in self.views)

    def items(self, view: str | None, kind: Kind) -> Sequence[ListedItem]:
        """Everything of a kind that may be shown, in configuration order; quarantined items are not in it."""
        return self._view(view).listed[kind]

    def item(self, resource: Resource) -> Item | None:
        """The item behind a resolved tool, prompt or listed resource (its schema, its digest)."""
        return self.by_resource.get(key_of(resource))

    def upstream(self, name: str) -> UpstreamState | None:
        """What is known of an upstream, or `None` when it is not configured."""
        return next((state for state in self.upstreams if state.name == name), None)

    def view_revision(self, view: str | None) -> int:
        """A number that grows whenever a list of this view may have changed."""
        return self._view(view).revision

    def _view(self, view: str | None) -> View:
        return self.views.get(view or MERGED, _NO_VIEW)


def _unknown(kind: str, view: str | None, name: str) -> Resource:
    upstream = "" if view is None or view == MERGED else view
    listed_by_uri = kind == "mcp_resource"
    identifier = name if listed_by_uri or not upstream else f"{upstream}/{name}"
    return Resource(kind, identifier, upstream, name, known=False, catalog=_UNLISTED)


def _expanded(template: Resource, uri: str) -> Resource:
    catalog = FrozenDict({**template.catalog, "listed": False})
    return Resource(
        "mcp_resource",
        uri,
        template.upstream,
        uri,
        catalog=catalog,
        hints=template.hints,
        quarantine=template.quarantine,
    )


def build_snapshot(states: Sequence[UpstreamState], revision: int, before: Snapshot | None = None) -> Snapshot:
    """The snapshot of these upstreams; what did not change since `before` is taken over from it."""
    known = before.shelves if before is not None else {}
    catalogs = [state.catalog for state in states if state.catalog is not None]
    shelves = {catalog.name: _shelf(known, catalog) for catalog in catalogs}
    views = {state.name: _own_view(state.name, shelves.get(state.name)) for state in states}
    views[MERGED] = _merged_view([state.name for state in states], list(shelves.values()), revision)
    items: dict[ItemKey, Item] = {}
    for shelf in shelves.values():
        items.update(shelf.items)
    return Snapshot(
        revision, tuple(states), MappingProxyType(views), MappingProxyType(items), MappingProxyType(shelves)
    )


def _shelf(known: Mapping[str, Shelf], catalog: UpstreamCatalog) -> Shelf:
    shelf = known.get(catalog.name)
    return shelf if shelf is not None and shelf.catalog is catalog else stock(catalog)


def _own_view(name: str, shelf: Shelf | None) -> View:
    if shelf is None:
        return View((name,))
    view = _view([name], [shelf], lambda shelf: shelf.own, shelf.catalog.revision)
    return replace(view, sole=name) if "resources" in shelf.catalog.capabilities else view


def _merged_view(upstreams: Sequence[str], shelves: Sequence[Shelf], revision: int) -> View:
    return _view(upstreams, shelves, lambda shelf: shelf.merged, revision)


def _view(
    upstreams: Sequence[str], shelves: Sequence[Shelf], lines_of: Callable[[Shelf], Lines], revision: int
) -> View:
    lines = {kind: _by_name(chain.from_iterable(lines_of(shelf)[kind] for shelf in shelves)) for kind in KINDS}
    resources = {
        kind: MappingProxyType({name: line.resource for name, line in found.items()}) for kind, found in lines.items()
    }
    return View(
        upstreams=tuple(upstreams),
        revision=revision,
        tools=resources["tool"],
        prompts=resources["prompt"],
        resources=resources["resource"],
        templates=tuple(chain.from_iterable(shelf.templates for shelf in shelves)),
        schemes=MappingProxyType(_schemes(shelves)),
        listed=MappingProxyType({kind: _visible(found.values()) for kind, found in lines.items()}),
    )


def _by_name(lines: Iterable[ListedItem]) -> dict[str, ListedItem]:
    """Where two upstreams have the same (a URI; of tools' names at most the hashed ones), the first configured wins."""
    found: dict[str, ListedItem] = {}
    for line in lines:
        found.setdefault(line.wire_name, line)
    return found


def _visible(lines: Iterable[ListedItem]) -> tuple[ListedItem, ...]:
    return tuple(line for line in lines if not line.resource.quarantine)


def _schemes(shelves: Sequence[Shelf]) -> dict[str, str]:
    users: dict[str, set[str]] = {}
    for shelf in shelves:
        for scheme in shelf.schemes:
            users.setdefault(scheme, set()).add(shelf.catalog.name)
    return {scheme: next(iter(names)) for scheme, names in users.items() if scheme and len(names) == 1}
