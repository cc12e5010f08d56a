"""What becomes of the definitions that an upstream gives."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import find_invalid_x_mcp_header

from gateway.registry import ItemFacts, Kind, Listing, Registry, Unusable, build_catalog
from gateway.registry.catalog import MAX_ITEMS
from tests.registry.samples import catalog_of, resource, template, tool


def test_definition_is_kept_as_the_upstream_wrote_it() -> None:
    definition = {
        "zeta": {"unknown": [1, 2, {"x": None}]},
        "name": "query",
        "inputSchema": {"type": "object", "$defs": {"big": {"const": 2**70}}, "properties": {"é": {}}},
        "_meta": {"vendor/x": True},
    }

    (item,) = catalog_of("db", tools=[definition]).items["tool"]

    assert item.wire == orjson.dumps({**definition, "inputSchema": 0}).replace(
        b'"inputSchema":0',
        b'"inputSchema":{"type":"object","$defs":{"big":{"const":%d}},"properties":{"\xc3\xa9":{}}}' % 2**70,
    )
    assert item.digest.startswith("sha256:")
    assert len(item.digest) == len("sha256:") + 64


def test_definition_does_not_change_with_the_object_it_came_from() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}

    (item,) = catalog_of("db", tools=[tool("query", inputSchema=schema)]).items["tool"]
    schema["properties"]["a"]["type"] = "integer"

    assert b"integer" not in item.wire
    with pytest.raises(TypeError):
        item.definition["name"] = "other"


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ({"inputSchema": {"type": "object"}}, "no name"),
        (tool(""), "no name"),
        (tool("has space"), "name is not"),
        (tool("x" * 129), "name is not"),
        ({"name": "a"}, "inputSchema"),
        (tool("a", inputSchema=None), "inputSchema"),
        (tool("a", inputSchema={"type": "array"}), "inputSchema"),
        (tool("a", inputSchema=[]), "inputSchema"),
        (tool("a", inputSchema={"type": "object", "x-mcp-header": "B"}), "x-mcp-header"),
        (tool("a", annotations={str(n): n for n in range(2_001)}), "annotations"),
        (tool("a", description="x" * 300_000), "larger than"),
        (tool("a", description="\ud800"), "not JSON"),
        ("not an object", "not an object"),
    ],
)  # fmt: skip
def test_unusable_tool_is_dropped_with_its_reason_and_harms_no_other(definition: Any, reason: str) -> None:
    catalog = catalog_of("db", tools=[tool("before"), definition, tool("after")])

    assert [item.name for item in catalog.items["tool"]] == ["before", "after"]
    (rejected,) = catalog.rejected
    assert rejected.kind == "tool"
    assert reason in rejected.reason


def test_definition_nested_too_deeply_is_dropped() -> None:
    schema: dict[str, object] = {"type": "object"}
    for _ in range(80):
        schema = {"type": "object", "not": schema}

    catalog = catalog_of("db", tools=[tool("deep", inputSchema=schema)])

    assert catalog.items["tool"] == ()
    assert "nested deeper" in catalog.rejected[0].reason


@pytest.mark.parametrize(
    ("kind", "listing"),
    [
        ("prompt", Listing(prompts=[{"name": ""}])),
        ("prompt", Listing(prompts=[{"name": "p" * 257}])),
        ("resource", Listing(resources=[{"uri": 5}])),
        ("resource", Listing(resources=[{"uri": "no-scheme"}])),
        ("template", Listing(templates=[{"uriTemplate": "{+anything}"}])),
    ],
)
def test_unusable_item_of_another_kind_is_dropped(kind: Kind, listing: Listing) -> None:
    catalog = build_catalog("db", listing, header_check=lambda _: None)

    assert catalog.items[kind] == ()
    assert [rejected.kind for rejected in catalog.rejected] == [kind]


def test_name_of_a_rejected_definition_cannot_command_the_terminal() -> None:
    catalog = catalog_of("db", tools=[tool("a\x1b[2J" + "x" * 500)])

    assert catalog.rejected[0].name.isprintable()
    assert len(catalog.rejected[0].name) == 128


def test_second_definition_of_a_name_is_dropped() -> None:
    catalog = catalog_of("db", tools=[tool("a", description="first"), tool("a", description="second")])

    (item,) = catalog.items["tool"]
    assert item.definition["description"] == "first"
    assert "twice" in catalog.rejected[0].reason


def test_number_of_items_is_bounded() -> None:
    catalog = catalog_of("db", resources=[resource(f"x:{n}") for n in range(MAX_ITEMS + 3)])

    assert len(catalog.items["resource"]) == MAX_ITEMS
    assert len(catalog.rejected) == 3


def test_absurd_description_of_the_upstream_itself_is_refused() -> None:
    deep: dict[str, object] = {}
    for _ in range(80):
        deep = {"x": deep}

    with pytest.raises(Unusable):
        catalog_of("db", capabilities=deep)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", "T"),
        ("description", "now with a hidden\u200b instruction"),
        ("inputSchema", {"type": "object", "properties": {}}),
        ("outputSchema", {"type": "object"}),
        ("annotations", {"readOnlyHint": True}),
        ("icons", [{"src": "data:,x"}]),
        ("_meta", {"ui": {"resourceUri": "ui://x"}}),
        ("_meta", {"ui/resourceUri": "ui://x"}),
    ],
)
def test_digest_changes_with_what_a_model_or_person_acts_on(field: str, value: object) -> None:
    (plain,) = catalog_of("db", tools=[tool("a")]).items["tool"]

    (changed,) = catalog_of("db", tools=[{**tool("a"), field: value}]).items["tool"]

    assert changed.digest != plain.digest


def test_digest_ignores_order_nulls_and_members_that_nobody_acts_on() -> None:
    (plain,) = catalog_of("db", tools=[{"name": "a", "inputSchema": {"type": "object"}}]).items["tool"]

    (same,) = catalog_of(
        "db", tools=[{"x-vendor": 1, "title": None, "inputSchema": {"type": "object"}, "name": "a", "_meta": {"v": 2}}]
    ).items["tool"]

    assert same.digest == plain.digest


def test_digest_of_a_template_ignores_when_its_data_changed() -> None:
    def digest(day: str) -> str:
        definition = {**template("x:{id}"), "annotations": {"priority": 1, "lastModified": day}}
        return catalog_of("db", templates=[definition]).items["template"][0].digest

    assert digest("2026-01-01") == digest("2026-01-02")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
members = st.sampled_from(["name", "uri", "uriTemplate", "inputSchema", "annotations", "_meta", "icons", "title", "x"])
definitions = st.lists(st.dictionaries(members, json_values, max_size=5) | json_values, max_size=3)


@given(definitions)
def test_whatever_an_upstream_lists_each_definition_is_taken_or_rejected(offered: list[Any]) -> None:
    listing = Listing(tools=offered, prompts=offered, resources=offered, templates=offered)

    catalog = build_catalog("db", listing, header_check=find_invalid_x_mcp_header)
    registry = Registry(["db"])
    registry.put(catalog)

    assert len(catalog.all_items()) + len(catalog.rejected) == 4 * len(offered)
    for line in registry.items(None, "prompt"):
        assert orjson.loads(line.wire)["name"] == line.wire_name


def test_configured_facts_are_on_the_item() -> None:
    def facts(kind: Kind, name: str) -> ItemFacts:
        return ItemFacts("high", (kind, name))

    (item,) = catalog_of("db", tools=[tool("a")], facts=facts).items["tool"]

    assert item.facts == ItemFacts("high", ("tool", "a"))
