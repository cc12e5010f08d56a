"""Definitions and catalogs that several tests of the registry start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcp.shared.inbound import find_invalid_x_mcp_header

from gateway.registry import FactsOf, Listing, UpstreamCatalog, build_catalog, no_facts

Definition = Mapping[str, object]


def tool(name: str, **more: object) -> dict[str, object]:
    """A tool definition with the least that is needed."""
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def catalog_of(
    upstream: str,
    *,
    tools: Sequence[Definition] = (),
    prompts: Sequence[Definition] = (),
    resources: Sequence[Definition] = (),
    templates: Sequence[Definition] = (),
    capabilities: Definition | None = None,
    facts: FactsOf = no_facts,
) -> UpstreamCatalog:
    """The catalog of an upstream that lists these."""
    listing = Listing(tools, prompts, resources, templates, capabilities or {})
    return build_catalog(upstream, listing, header_check=find_invalid_x_mcp_header, facts=facts)


def resource(uri: str) -> dict[str, object]:
    """A resource definition."""
    return {"uri": uri, "name": uri}


def template(text: str) -> dict[str, object]:
    """A resource template definition."""
    return {"uriTemplate": text, "name": text}
