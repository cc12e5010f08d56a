"""Fetches what an MCP server offers: all pages of its lists, within bounds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from adapters.upstreams.mcp.discovery import Description
from adapters.upstreams.mcp.link import METHOD_NOT_FOUND, Link, Object, Request
from gateway import codec
from gateway.errors import UpstreamProtocolError
from gateway.registry import Listing
from gateway.types import EMPTY

log = logging.getLogger("interlock.upstreams")

MAX_PAGES: Final = 200
MAX_ITEMS: Final = 10_000
MAX_LIST_BYTES: Final = 64 * 1024 * 1024
"""Of one list, all its pages together."""

_LISTS: Final = (
    ("tools", "tools/list", "tools"),
    ("prompts", "prompts/list", "prompts"),
    ("resources", "resources/list", "resources"),
    ("resources", "resources/templates/list", "resourceTemplates"),
)
"""(capability, method, member of the result)"""


async def fetch(link: Link, description: Description, template: Request, label: str) -> Listing:
    """Every list that the server's capabilities announce. `template` holds the bounds and capabilities to use.

    Raises the `Upstream*` errors; a refusal is one, unless it says that the server has no such list.
    """
    found: dict[str, list[Object]] = {}
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
    size = 0
    for _ in range(MAX_PAGES):
        result = await _page(link, replace(template, method=method, params=params), label)
        page = result.get(member, [])
        if not isinstance(page, list):
            raise UpstreamProtocolError(f"upstream {label!r} answered {method} without a list of {member}")
        size += len(codec.dumps(page))
        items += [item for item in page if isinstance(item, Mapping)]
        cursor = result.get("nextCursor")
        if not isinstance(cursor, str):  # the empty string is a cursor like any other
            return items[:MAX_ITEMS]
        if cursor in cursors or len(items) > MAX_ITEMS or size > MAX_LIST_BYTES:
            break
        cursors.add(cursor)
        params = {"cursor": cursor}
    log.warning("upstream %r: %s has no end within reason; %d items of it are used", label, method, len(items))
    return items[:MAX_ITEMS]


async def _page(link: Link, request: Request, label: str) -> Object:
    reply = await link.request(request)
    if reply.error is None:
        return reply.result
    code = reply.error.get("code")
    if code == METHOD_NOT_FOUND:
        return EMPTY
    raise UpstreamProtocolError(f"upstream {label!r} answered {request.method} with error {code}")
