"""What an MCP server says it offers: its description and all pages of its lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from adapters.upstreams.mcp.link import Link, Object, Request
from gateway.errors import UpstreamProtocolError
from gateway.registry import Listing
from gateway.types import EMPTY, Era

MAX_PAGES: Final = 200
MAX_ITEMS: Final = 10_000

_LISTS: Final = (
    ("tools", "tools/list", "tools"),
    ("prompts", "prompts/list", "prompts"),
    ("resources", "resources/list", "resources"),
    ("resources", "resources/templates/list", "resourceTemplates"),
)
"""(capability, method, member of the result)"""


@dataclass(frozen=True, slots=True)
class Description:
    """What a server said of itself in `initialize` or `server/discover`."""

    era: Era
    result: Object

    @property
    def capabilities(self) -> Object:
        return _object(self.result, "capabilities")

    @property
    def server_info(self) -> Object:
        """Name and version; the modern era carries them in `_meta`."""
        meta = _object(self.result, "_meta")
        return _object(self.result, "serverInfo") or _object(meta, "io.modelcontextprotocol/serverInfo")

    @property
    def instructions(self) -> str:
        text = self.result.get("instructions")
        return text if isinstance(text, str) else ""

    @property
    def version(self) -> str:
        version = self.result.get("protocolVersion", "2026-07-28")
        return version if isinstance(version, str) else ""


def _object(value: Object, key: str) -> Object:
    found = value.get(key)
    return found if isinstance(found, Mapping) else EMPTY


async def fetch(link: Link, description: Description, template: Request, label: str) -> Listing:
    """Every list that the server's capabilities announce. `template` holds the bounds and capabilities to use.

    Raises the `Upstream*` errors. A list that the server refuses after announcing it is taken as empty.
    """
    found: dict[str, list[Mapping[str, object]]] = {}
    for capability, method, member in _LISTS:
        if capability in description.capabilities:
            found[member] = await _all_pages(link, method, member, template, label)
    return Listing(
        tools=found.get("tools", ()),
        prompts=found.get("prompts", ()),
        resources=found.get("resources", ()),
        templates=found.get("resourceTemplates", ()),
        capabilities=description.capabilities,
        server_info=description.server_info,
        instructions=description.instructions,
        protocol_version=description.version,
        era=description.era,
    )


async def _all_pages(link: Link, method: str, member: str, template: Request, label: str) -> list[Object]:
    items: list[Object] = []
    cursors: set[str] = set()
    params: Object = EMPTY
    for _ in range(MAX_PAGES):
        result = await _page(link, method, params, template)
        page = result.get(member, [])
        if not isinstance(page, list):
            raise UpstreamProtocolError(f"upstream {label!r} answered {method} without a list of {member}")
        items += [item for item in page if isinstance(item, Mapping)]
        cursor = result.get("nextCursor")
        if not isinstance(cursor, str) or cursor in cursors or len(items) > MAX_ITEMS:
            return items[:MAX_ITEMS]
        cursors.add(cursor)
        params = {"cursor": cursor}
    return items


async def _page(link: Link, method: str, params: Object, template: Request) -> Object:
    request = Request(
        method,
        params,
        capabilities=template.capabilities,
        timeout_s=template.timeout_s,
        max_bytes=template.max_bytes,
    )
    result = (await link.request(request)).get("result")
    return result if isinstance(result, Mapping) else EMPTY
