"""What callers can name and see, and who hears of changes."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from gateway.registry import Change, Item, ItemFacts, Kind, Registry, UpstreamCatalog, merged_name
from tests.registry.samples import catalog_of, resource, template, tool

TWINS = (("u_", "x....___..__.._...x"), ("u.", "x..___............x"))
"""Tools of two upstreams whose merged names are the same down to the hash; found by search."""


def _registry(*catalogs: UpstreamCatalog) -> Registry:
    registry = Registry([catalog.name for catalog in catalogs])
    for catalog in reversed(catalogs):  # the order of arrival is not the order of configuration
        assert registry.put(catalog)
    return registry


def _quarantined(catalog: UpstreamCatalog, name: str) -> UpstreamCatalog:
    def mark(item: Item) -> Item:
        return replace(item, quarantine="- old\n+ new") if item.name == name else item

    return catalog.with_items(mark(item) for item in catalog.all_items())


@pytest.mark.parametrize("view", [None, "*"])
def test_merged_view_names_every_tool_and_keeps_its_definition(view: str | None) -> None:
    definition = {"x-first": 1, "name": "query", "inputSchema": {"type": "object"}, "x-last": [None]}
    registry = _registry(catalog_of("db", tools=[definition]), catalog_of("web", tools=[tool("fetch.page")]))

    query, page = registry.items(view, "tool")

    assert query.wire_name == "db__query"
    assert query.wire == orjson.dumps({**definition, "name": "db__query"})
    assert list(orjson.loads(query.wire)) == ["x-first", "name", "inputSchema", "x-last"]
    assert page.wire_name.startswith("web__fetch_page_")
    assert registry.resolve_tool(view, page.wire_name) is page.resource
    assert (page.resource.upstream, page.resource.name) == ("web", "fetch.page")


def test_view_of_one_upstream_leaves_names_and_bytes_alone() -> None:
    catalog = catalog_of("db", tools=[tool("query.all")], prompts=[{"name": "Ask me"}])
    registry = _registry(catalog, catalog_of("web", tools=[tool("fetch")]))

    (line,) = registry.items("db", "tool")

    assert (line.wire_name, line.wire) == ("query.all", catalog.items["tool"][0].wire)
    assert registry.resolve_tool("db", "query.all") is line.resource
    assert registry.resolve_prompt("db", "Ask me").known
    assert not registry.resolve_tool("db", "fetch").known
    assert not registry.resolve_tool("db", "db__query").known


def test_resource_holds_our_facts_apart_from_the_upstreams_claims() -> None:
    def facts(kind: Kind, name: str) -> ItemFacts:
        return ItemFacts("high", ("pii",))

    catalog = catalog_of("db", tools=[tool("query", annotations={"readOnlyHint": True})], facts=facts)
    (item,) = catalog.items["tool"]
    registry = _registry(catalog.with_items([replace(item, pinned=True)]))

    found = registry.resolve_tool("*", "db__query")

    assert (found.type, found.id, found.known, found.quarantine) == ("tool", "db/query", True, "")
    assert found.catalog == {"risk": "high", "labels": ("pii",), "definition_digest": item.digest, "pinned": True}
    assert found.hints == {"readOnlyHint": True}
    assert registry.snapshot.item(found) == replace(item, pinned=True)


@pytest.mark.parametrize(("view", "identifier"), [(None, "nope"), ("db", "db/nope"), ("gone", "gone/nope")])
def test_unknown_name_is_a_resource_that_is_not_known(view: str | None, identifier: str) -> None:
    registry = _registry(catalog_of("db"))

    tool_found = registry.resolve_tool(view, "nope")

    assert (tool_found.type, tool_found.id, tool_found.name, tool_found.known) == ("tool", identifier, "nope", False)
    assert not registry.resolve_prompt(view, "nope").known
    assert not registry.resolve_uri(view, "nope").known
    assert registry.snapshot.item(tool_found) is None


def test_quarantined_tool_is_hidden_and_says_why() -> None:
    registry = _registry(_quarantined(catalog_of("db", tools=[tool("query"), tool("list")]), "query"))

    assert [line.wire_name for line in registry.items(None, "tool")] == ["db__list"]
    assert [line.wire_name for line in registry.items("db", "tool")] == ["list"]
    assert registry.resolve_tool(None, "db__query").quarantine == "- old\n+ new"
    assert registry.resolve_tool("db", "query").quarantine == "- old\n+ new"


def test_shared_uri_belongs_to_the_upstream_configured_first() -> None:
    registry = _registry(catalog_of("one", resources=[resource("x:a")]), catalog_of("two", resources=[resource("x:a")]))

    found = registry.resolve_uri(None, "x:a")

    assert (found.type, found.id, found.upstream, found.catalog["listed"]) == ("mcp_resource", "x:a", "one", True)
    assert len(registry.items(None, "resource")) == 1
    assert registry.resolve_uri("two", "x:a").upstream == "two"
    item = registry.snapshot.item(registry.resolve_uri("two", "x:a"))
    assert item is not None
    assert item.upstream == "two"


def test_unlisted_uri_goes_to_the_first_template_that_fits_then_to_the_only_user_of_the_scheme() -> None:
    registry = _registry(
        catalog_of("one", templates=[template("x:t/{id}")], resources=[resource("one:a"), resource("both:1")]),
        catalog_of("two", templates=[template("x:{+any}")], resources=[resource("both:2")]),
    )

    by_first = registry.resolve_uri(None, "x:t/1")
    by_second = registry.resolve_uri(None, "x:u/1")
    by_scheme = registry.resolve_uri(None, "ONE:zzz")

    assert [found.upstream for found in (by_first, by_second, by_scheme)] == ["one", "two", "one"]
    assert [found.id for found in (by_first, by_second, by_scheme)] == ["x:t/1", "x:u/1", "ONE:zzz"]
    assert not any(found.catalog["listed"] for found in (by_first, by_second, by_scheme))
    assert by_first.catalog["definition_digest"] != ""
    assert not registry.resolve_uri(None, "both:3").known
    assert not registry.resolve_uri(None, "other:1").known
    assert not registry.resolve_uri(None, "no scheme").known


def test_template_itself_can_be_named_for_completion() -> None:
    registry = _registry(catalog_of("one", templates=[template("x:t/{id}{?q}")]))

    assert registry.resolve_uri(None, "x:t/{id}{?q}").upstream == "one"


def test_template_that_waits_for_a_person_refuses_what_it_covers() -> None:
    registry = _registry(
        _quarantined(catalog_of("one", templates=[template("x:{id}")]), "x:{id}"),
        catalog_of("two", templates=[template("x:{+id}")]),
    )

    assert registry.resolve_uri(None, "x:1").quarantine
    assert [line.wire_name for line in registry.items(None, "template")] == ["x:{+id}"]


def test_one_upstreams_own_view_leaves_unlisted_uris_to_it_if_it_serves_resources() -> None:
    registry = _registry(catalog_of("one", capabilities={"resources": {}}), catalog_of("two"))

    assert registry.resolve_uri("one", "any:thing").upstream == "one"
    assert not registry.resolve_uri("two", "any:thing").known
    assert not registry.resolve_uri(None, "any:thing").known


def test_lists_act_on_the_server_they_belong_to() -> None:
    snapshot = _registry(catalog_of("one")).snapshot

    assert [snapshot.resolve_server(view).id for view in (None, "*", "one")] == ["*", "*", "one"]
    assert snapshot.resolve_server("one").upstream == "one"
    assert snapshot.resolve_server(None).known
    assert not snapshot.resolve_server("gone").known


def test_registry_answers_as_its_snapshot_does() -> None:
    registry = _registry(catalog_of("one", tools=[tool("a")]))

    assert registry.resolve_server("one") == registry.snapshot.resolve_server("one")
    assert registry.resolve_tool("one", "a") is registry.snapshot.resolve_tool("one", "a")


def test_new_snapshot_takes_over_what_did_not_change() -> None:
    registry = _registry(catalog_of("one", tools=[tool("a")]), catalog_of("two"))
    before = registry.resolve_tool(None, "one__a")

    registry.put(catalog_of("two", tools=[tool("b")]))

    assert registry.resolve_tool(None, "one__a") is before
    assert registry.resolve_tool(None, "two__b").known


def test_merged_name_that_two_upstreams_share_stays_with_the_one_configured_first() -> None:
    first, second = TWINS
    registry = Registry([first[0], second[0]])
    registry.put(catalog_of(second[0], tools=[tool(second[1])]))
    registry.put(catalog_of(first[0], tools=[tool(first[1])]))

    assert merged_name(*first) == merged_name(*second)
    assert [line.resource.id for line in registry.items(None, "tool")] == ["/".join(first)]
    assert registry.resolve_tool(second[0], second[1]).known


def test_upstream_without_a_catalog_has_an_empty_view() -> None:
    registry = Registry(["one"])

    assert registry.items("one", "tool") == ()
    assert registry.items("gone", "tool") == ()
    assert registry.snapshot.resolve_server("one").known


def test_upstream_that_goes_down_keeps_its_last_good_catalog() -> None:
    registry = _registry(catalog_of("one", tools=[tool("a")]))
    revision = registry.snapshot.revision

    registry.down("one", "connection refused")
    registry.down("never configured", "whatever")

    state = registry.snapshot.upstream("one")
    assert state is not None
    assert state.down == "connection refused"
    assert registry.resolve_tool(None, "one__a").known
    assert registry.snapshot.revision == revision


def test_upstream_that_comes_back_the_same_changes_nothing_but_its_state() -> None:
    heard: list[Change] = []
    registry = _registry(catalog_of("one", tools=[tool("a")]))
    registry.down("one", "killed")
    registry.on_change(heard.append)
    revision = registry.snapshot.revision

    taken = registry.put(catalog_of("one", tools=[tool("a")]))

    state = registry.snapshot.upstream("one")
    assert state is not None
    assert (taken, state.down, registry.snapshot.revision, heard) == (True, "", revision, [])


def test_change_is_told_once_with_the_lists_that_differ() -> None:
    heard: list[Change] = []
    registry = _registry(catalog_of("one", tools=[tool("a")], prompts=[{"name": "p"}]))
    end = registry.on_change(heard.append)

    registry.put(catalog_of("one", tools=[tool("a"), tool("b")], prompts=[{"name": "p"}]))
    end()
    end()
    registry.put(catalog_of("one"))

    assert [(change.kinds, change.upstream) for change in heard] == [(frozenset({"tool"}), "one")]
    assert heard[0].revision < registry.snapshot.revision


def test_change_of_instructions_alone_is_taken_and_tells_nobody() -> None:
    heard: list[Change] = []
    registry = _registry(catalog_of("one"))
    registry.on_change(heard.append)

    registry.put(replace(catalog_of("one"), instructions="be kind"))

    state = registry.snapshot.upstream("one")
    assert state is not None
    assert state.catalog is not None
    assert state.catalog.instructions == "be kind"
    assert heard == []


def test_view_revision_grows_only_with_the_view() -> None:
    registry = _registry(catalog_of("one", tools=[tool("a")]), catalog_of("two"))
    before = {view: registry.snapshot.view_revision(view) for view in ("*", "one", "two")}

    registry.put(catalog_of("two", tools=[tool("b")]))

    after = {view: registry.snapshot.view_revision(view) for view in ("*", "one", "two")}
    assert after["one"] == before["one"]
    assert after["two"] > before["two"]
    assert after["*"] > before["*"]


def test_removed_upstream_is_gone_and_a_late_catalog_does_not_bring_it_back() -> None:
    heard: list[Change] = []
    registry = _registry(catalog_of("one", tools=[tool("a")]), catalog_of("two", tools=[tool("b")]))
    registry.on_change(heard.append)

    registry.remove("one")
    late = registry.put(catalog_of("one", tools=[tool("a")]))

    assert not late
    assert [line.wire_name for line in registry.items(None, "tool")] == ["two__b"]
    assert [(change.kinds, change.upstream) for change in heard] == [(frozenset({"tool"}), "one")]


def test_reconfiguration_keeps_what_is_known_and_takes_the_new_order() -> None:
    registry = _registry(catalog_of("one", tools=[tool("a")]), catalog_of("two", tools=[tool("b")]))

    registry.configure(["new", "two", "one"])

    assert [state.name for state in registry.snapshot.upstreams] == ["new", "two", "one"]
    assert [line.wire_name for line in registry.items(None, "tool")] == ["two__b", "one__a"]


def test_snapshot_that_somebody_holds_never_changes() -> None:
    registry = _registry(catalog_of("one", tools=[tool("a")]))
    held = registry.snapshot

    registry.put(catalog_of("one"))

    assert held.resolve_tool(None, "one__a").known
    assert not registry.snapshot.resolve_tool(None, "one__a").known
