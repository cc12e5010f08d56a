"""What one catalog contributes to the views, rendered once when the catalog arrives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway import codec
from gateway.headers import annotations_of
from gateway.registry.catalog import Item, UpstreamCatalog
from gateway.registry.definitions import KINDS, Kind
from gateway.registry.naming import assign_names
from gateway.registry.templates import UriTemplate, scheme_of
from gateway.types import FrozenDict, Resource

_RESOURCE_TYPE: Final[Mapping[Kind, str]] = {
    "tool": "tool",
    "prompt": "prompt",
    "resource": "mcp_resource",
    "template": "mcp_resource",
}

Template: TypeAlias = tuple[UriTemplate, Resource]
ItemKey: TypeAlias = tuple[str, str, str]
"""(resource type, upstream, the upstream's own name)."""


@dataclass(frozen=True, slots=True)
class ListedItem:
    """One line of a list: what policy is asked about, and the bytes to send when it may be seen."""

    resource: Resource
    wire_name: str
    wire: bytes


Lines: TypeAlias = Mapping[Kind, tuple[ListedItem, ...]]


@dataclass(frozen=True, slots=True)
class Shelf:
    """A catalog with everything that views need of it."""

    catalog: UpstreamCatalog
    own: Lines
    """Under the upstream's own names."""
    merged: Lines
    """Under the names of the merged view."""
    templates: tuple[Template, ...]
    schemes: frozenset[str]
    items: Mapping[ItemKey, Item]


def stock(catalog: UpstreamCatalog) -> Shelf:
    """Render a catalog."""
    resources = {(item.kind, item.name): _resource(item) for item in catalog.all_items()}
    names = {kind: _merged_names(catalog, kind) for kind in KINDS}

    def lines(name_of: Callable[[Item], str]) -> Lines:
        return {
            kind: tuple(_line(name_of(item), item, resources[kind, item.name]) for item in catalog.items[kind])
            for kind in KINDS
        }

    return Shelf(
        catalog,
        own=lines(lambda item: item.name),
        merged=lines(lambda item: names[item.kind][item.name]),
        templates=_templates(catalog, resources),
        schemes=frozenset(scheme_of(item.name) for kind in ("resource", "template") for item in catalog.items[kind]),
        # reversed, because a resource beats a template whose text is the same
        items={key_of(resources[item.kind, item.name]): item for item in reversed(catalog.all_items())},
    )


def key_of(resource: Resource) -> ItemKey:
    """What the item behind a resource is found by."""
    return (resource.type, resource.upstream, resource.name)


def _merged_names(catalog: UpstreamCatalog, kind: Kind) -> Mapping[str, str]:
    if kind in {"resource", "template"}:
        return {item.name: item.name for item in catalog.items[kind]}  # URIs are global already
    assigned = assign_names((catalog.name, item.name) for item in catalog.items[kind])
    return {original: name for name, (_, original) in assigned.items()}


def _line(name: str, item: Item, resource: Resource) -> ListedItem:
    wire = item.wire if name == item.name else codec.dumps({**item.definition, "name": name})
    return ListedItem(resource, name, wire)


def _resource(item: Item) -> Resource:
    is_named = item.kind in {"tool", "prompt"}
    return Resource(
        type=_RESOURCE_TYPE[item.kind],
        id=f"{item.upstream}/{item.name}" if is_named else item.name,
        upstream=item.upstream,
        name=item.name,
        catalog=_catalog_facts(item),
        hints=item.hints,
        param_headers=annotations_of(item.definition.get("inputSchema")) if item.kind == "tool" else (),
        quarantine=item.quarantine,
    )


def _catalog_facts(item: Item) -> FrozenDict:
    facts: dict[str, object] = {
        "risk": item.facts.risk,
        "labels": item.facts.labels,
        "definition_digest": item.digest,
        "pinned": item.pinned,
    }
    if item.kind in {"resource", "template"}:
        facts["listed"] = True
    return FrozenDict(facts)


def _templates(catalog: UpstreamCatalog, resources: Mapping[tuple[Kind, str], Resource]) -> tuple[Template, ...]:
    parsed = ((UriTemplate.parse(item.name), resources["template", item.name]) for item in catalog.items["template"])
    return tuple((template, resource) for template, resource in parsed if template is not None)
