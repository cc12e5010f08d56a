"""Lists what a caller may reach here, agents and MCP servers in one document (AI Catalog, `ai-catalog.json`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

PATH: Final = "/.well-known/ai-catalog.json"
MEDIA_TYPE: Final = "application/ai-catalog+json"
SPEC_VERSION: Final = "1.0"

_TYPES: Final[Mapping[str, tuple[str, str]]] = {
    "agent": ("agents", "application/a2a-agent-card+json"),
    "server": ("servers", "application/mcp-server-card+json"),
}
_NOT_IN_URN: Final = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class Listed:
    """One agent or server that the caller may see, with where its card is (`url`), or the card itself (`data`)."""

    kind: Literal["agent", "server"]
    name: str
    url: str = ""
    data: Mapping[str, object] | None = None
    title: str = ""
    description: str = ""
    version: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.url) == (self.data is not None):
            raise ValueError(f"{self.kind} {self.name!r} is listed by exactly one of url and data")


def catalogue(base_url: str, listed: Sequence[Listed]) -> dict[str, object]:
    """The catalog of the gateway at this address."""
    publisher = publisher_of(base_url)
    return {"specVersion": SPEC_VERSION, "entries": [_entry(publisher, one) for one in listed]}


def publisher_of(base_url: str) -> str:
    """Who publishes, as identifiers name it: the host of the gateway."""
    return _NOT_IN_URN.sub("-", urlsplit(base_url).hostname or "localhost")


def _entry(publisher: str, one: Listed) -> dict[str, object]:
    namespace, media_type = _TYPES[one.kind]
    name = _NOT_IN_URN.sub("-", one.name)
    entry: dict[str, object] = {
        "identifier": f"urn:air:{publisher}:{namespace}:{name}",
        "displayName": one.title or one.name,
        "type": media_type,
    }
    if one.data is None:
        entry["url"] = one.url
    else:
        entry["data"] = one.data
    optional = {"description": one.description, "version": one.version, "tags": list(one.tags)}
    return entry | {name: value for name, value in optional.items() if value}
