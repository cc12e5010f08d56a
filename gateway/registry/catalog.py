"""What one upstream offers, checked and frozen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from gateway import codec
from gateway.errors import InputTooLarge
from gateway.registry.definitions import (
    KINDS,
    MAX_DEFINITION_BYTES,
    Kind,
    Unusable,
    digest_of,
    freeze_definition,
    pinned_part,
)
from gateway.types import EMPTY, Era, FrozenDict, freeze

MAX_ITEMS: Final = 10_000
"""Of one kind from one upstream; the rest is rejected."""
MAX_URI: Final = 8_192
MAX_PROMPT_NAME: Final = 256

_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")  # 2026-07-28, server/tools, "Tool Names"
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")  # RFC 3986 section 3.1
_NAME_MEMBER: Final[Mapping[Kind, str]] = {
    "tool": "name",
    "prompt": "name",
    "resource": "uri",
    "template": "uriTemplate",
}

HeaderCheck: TypeAlias = Callable[[object], str | None]
"""Says what is wrong with the `x-mcp-header` annotations of an input schema, or `None`."""


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """What configuration says of an item. Policy can name the absence: the default risk is `unknown`."""

    risk: str = "unknown"
    labels: tuple[str, ...] = ()


FactsOf: TypeAlias = Callable[[Kind, str], ItemFacts]


def no_facts(_kind: Kind, _name: str) -> ItemFacts:
    """Nothing is configured about any item."""
    return ItemFacts()


@dataclass(frozen=True, slots=True)
class Item:
    """One tool, prompt, resource or resource template, as its upstream defines it."""

    kind: Kind
    upstream: str
    name: str
    """The upstream's own name; the URI of a resource, the URI template of a template."""
    definition: FrozenDict
    wire: bytes
    """JSON of the definition, members in the upstream's order, unknown ones included."""
    digest: str
    """`sha256:` over the parts that a pin covers."""
    facts: ItemFacts = ItemFacts()
    pinned: bool = False
    quarantine: str = ""
    """Why it is hidden and refused (the change as a diff), or empty."""

    @property
    def pinned_part(self) -> bytes:
        """Canonical JSON of what `digest` covers."""
        return pinned_part(self.kind, self.definition)

    @property
    def hints(self) -> FrozenDict:
        """The upstream's own claims about the item (`annotations`): untrusted."""
        annotations = self.definition.get("annotations")
        return annotations if isinstance(annotations, FrozenDict) else EMPTY


@dataclass(frozen=True, slots=True)
class Rejected:
    """A definition that is not offered, and why. `name` is cut to 128 characters."""

    kind: Kind
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What an upstream said of itself: `initialize` or `server/discover`, and all pages of its lists, as plain JSON."""

    tools: Sequence[Mapping[str, object]] = ()
    prompts: Sequence[Mapping[str, object]] = ()
    resources: Sequence[Mapping[str, object]] = ()
    templates: Sequence[Mapping[str, object]] = ()
    capabilities: Mapping[str, object] = EMPTY
    server_info: Mapping[str, object] = EMPTY
    instructions: str = ""
    protocol_version: str = ""
    era: Era = Era.LEGACY


@dataclass(frozen=True, slots=True)
class UpstreamCatalog:
    """Everything that one upstream offers. `revision` is set by the registry that takes it."""

    name: str
    items: Mapping[Kind, tuple[Item, ...]] = field(default_factory=lambda: dict.fromkeys(KINDS, ()))
    rejected: tuple[Rejected, ...] = ()
    capabilities: FrozenDict = EMPTY
    server_info: FrozenDict = EMPTY
    instructions: str = ""
    protocol_version: str = ""
    era: Era = Era.LEGACY
    revision: int = 0

    def all_items(self) -> tuple[Item, ...]:
        """The items of every kind, in the upstream's order within a kind."""
        return tuple(item for kind in KINDS for item in self.items[kind])

    def with_items(self, items: Iterable[Item]) -> UpstreamCatalog:
        """The same catalog with these items instead, as they come from the judge of pins."""
        given = tuple(items)
        return replace(self, items={kind: tuple(item for item in given if item.kind == kind) for kind in KINDS})


def build_catalog(
    upstream: str, listing: Listing, *, header_check: HeaderCheck, facts: FactsOf = no_facts
) -> UpstreamCatalog:
    """The catalog of an upstream without the definitions that cannot be used; those are in `rejected` with a reason.

    `header_check` is `mcp.shared.inbound.find_invalid_x_mcp_header` (2026-07-28, server/tools, "x-mcp-header": a tool
    with an invalid annotation MUST NOT be offered). Raises `Unusable` when the upstream's description of itself is.
    """
    rejected: list[Rejected] = []
    offered: Mapping[Kind, Sequence[Mapping[str, object]]] = {
        "tool": listing.tools,
        "prompt": listing.prompts,
        "resource": listing.resources,
        "template": listing.templates,
    }
    items = {
        kind: tuple(_usable(upstream, kind, offered[kind], header_check, facts, rejected.append)) for kind in KINDS
    }
    return UpstreamCatalog(
        name=upstream,
        items=items,
        rejected=tuple(rejected),
        capabilities=freeze_definition(listing.capabilities),
        server_info=freeze_definition(listing.server_info),
        instructions=listing.instructions,
        protocol_version=listing.protocol_version,
        era=listing.era,
    )


def _usable(
    upstream: str,
    kind: Kind,
    definitions: Sequence[Mapping[str, object]],
    header_check: HeaderCheck,
    facts: FactsOf,
    reject: Callable[[Rejected], None],
) -> Iterable[Item]:
    seen: set[str] = set()
    for position, definition in enumerate(definitions):
        try:
            item = _item(upstream, kind, definition, header_check, facts)
            _check_place(item.name in seen, position)
        except Unusable as exc:
            reject(Rejected(kind, _shown_name(kind, definition), str(exc)))
            continue
        seen.add(item.name)
        yield item


def _check_place(listed_before: bool, position: int) -> None:
    if listed_before:
        raise Unusable("listed twice; the first definition counts")
    if position >= MAX_ITEMS:
        raise Unusable(f"more than {MAX_ITEMS} of this kind")


def _item(
    upstream: str, kind: Kind, definition: Mapping[str, object], header_check: HeaderCheck, facts: FactsOf
) -> Item:
    if not isinstance(definition, Mapping):
        raise Unusable("not an object")
    frozen = freeze_definition(definition)
    name = _name(kind, frozen)
    if kind == "tool":
        _check_tool(frozen, header_check)
    _check_hints(frozen)
    wire = _wire(frozen)
    return Item(kind, upstream, name, frozen, wire, digest_of(pinned_part(kind, frozen)), facts(kind, name))


def _name(kind: Kind, definition: FrozenDict) -> str:
    member = _NAME_MEMBER[kind]
    name = definition.get(member)
    if not isinstance(name, str) or not name:
        raise Unusable(f"no {member}")
    if kind == "tool" and not _TOOL_NAME.fullmatch(name):
        raise Unusable("name is not 1 to 128 of A-Z a-z 0-9 _ . -")
    if kind == "prompt" and len(name) > MAX_PROMPT_NAME:
        raise Unusable(f"name longer than {MAX_PROMPT_NAME} characters")
    if kind in {"resource", "template"} and (len(name) > MAX_URI or not _SCHEME.match(name)):
        raise Unusable(f"{member} has no scheme or more than {MAX_URI} characters")
    return name


def _check_tool(definition: FrozenDict, header_check: HeaderCheck) -> None:
    schema = definition.get("inputSchema")
    if not isinstance(schema, FrozenDict) or schema.get("type") != "object":
        raise Unusable('inputSchema is not a schema with "type": "object"')
    fault = header_check(schema)
    if fault is not None:
        raise Unusable(f"x-mcp-header: {fault}")


def _check_hints(definition: FrozenDict) -> None:
    try:
        freeze(definition.get("annotations"))  # they become part of policy questions
    except InputTooLarge as exc:
        raise Unusable("annotations are too large to ask policy about") from exc


def _wire(definition: FrozenDict) -> bytes:
    try:
        wire = codec.dumps(definition)
    except (ValueError, TypeError) as exc:
        raise Unusable("not JSON") from exc
    if len(wire) > MAX_DEFINITION_BYTES:
        raise Unusable(f"larger than {MAX_DEFINITION_BYTES} bytes")
    return wire


def _shown_name(kind: Kind, definition: Mapping[str, object]) -> str:
    name = definition.get(_NAME_MEMBER[kind]) if isinstance(definition, Mapping) else None
    if not isinstance(name, str):
        return ""
    return name[:128] if name.isprintable() else ascii(name)[:128]  # it ends in logs and on terminals
