"""The catalogue lists agents and servers in one document."""

from __future__ import annotations

import pytest

from gateway.a2a.catalogue import Listed, catalogue


def test_catalogue_lists_what_it_is_given_by_address_or_content() -> None:
    found = catalogue(
        "https://gw.example:8443",
        [
            Listed("agent", "cook", "https://gw.example:8443/agents/cook/card", title="Recipe Agent", tags=("food",)),
            Listed("server", "files", data={"name": "files"}, version="1"),
        ],
    )

    assert found == {
        "specVersion": "1.0",
        "entries": [
            {
                "identifier": "urn:air:gw.example:agents:cook",
                "displayName": "Recipe Agent",
                "type": "application/a2a-agent-card+json",
                "url": "https://gw.example:8443/agents/cook/card",
                "tags": ["food"],
            },
            {
                "identifier": "urn:air:gw.example:servers:files",
                "displayName": "files",
                "type": "application/mcp-server-card+json",
                "data": {"name": "files"},
                "version": "1",
            },
        ],
    }


def test_empty_catalogue_is_one() -> None:
    assert catalogue("http://[::1]:8080", []) == {"specVersion": "1.0", "entries": []}


@pytest.mark.parametrize(("url", "data"), [("", None), ("https://a.example", {})])
def test_entry_has_exactly_one_of_address_and_content(url: str, data: dict[str, object] | None) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Listed("agent", "cook", url, data)
