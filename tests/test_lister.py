"""What there is: lists as policy lets them be seen, descriptions, and their pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gateway.app.upstreams import invalid_annotations
from gateway.errors import InvalidCall, PolicyDenied
from gateway.lister import CACHED_LISTS, CURSOR_TTL_S, MAX_INSTRUCTIONS, About, Lister, capabilities_of
from gateway.ports import Relay
from gateway.registry import Listing, Registry, build_catalog
from gateway.types import Authorized, Call, FrozenDict, Identity, freeze
from tests.fakes import ANA, BO, FakeDecider, permit_for
from tests.mcp.worlds import Choice, TimedSeal
from tests.registry.samples import catalog_of, resource, template, tool
from tests.test_running import NOBODY


class Place:
    """A lister over one or two upstreams."""

    def __init__(self, *, page_size: int = 2, epoch: str | None = "r1") -> None:
        self.registry = Registry(("files", "web"))
        self.put("a", "b", "c", "d", "e")
        self.choice = Choice(FakeDecider())
        self.seal = TimedSeal()
        self.epoch = epoch
        self.version = "2025-11-25"
        self.lister = Lister(
            registry=self.registry,
            chooser=self.choice,
            cursors=self.seal,
            epoch=lambda: self.epoch,
            now_s=lambda: int(self.seal.now_s),
            about=About("interlock", "9", ("2026-07-28",)),
            page_size=page_size,
        )

    def put(self, *names: str) -> None:
        self.registry.put(catalog_of("files", tools=[tool(name) for name in names], resources=[resource("n://1")]))

    async def ask(
        self, method: str = "tools/list", view: str = "files", *, identity: Identity = ANA, **params: object
    ) -> dict[str, Any]:
        frozen = freeze(params)
        assert isinstance(frozen, FrozenDict)
        call = Call("c", "mcp.list", method, self.registry.resolve_server(view), frozen, protocol_version=self.version)
        relay: Relay = NOBODY
        result = await self.lister.execute(Authorized(call, identity, permit_for(call, identity)), relay)
        found: dict[str, Any] = json.loads(result.payload)
        return found

    async def names(self, *, identity: Identity = ANA) -> list[str]:
        """All pages, one after the other."""
        names, page = list[str](), await self.ask(identity=identity)
        while True:
            names += [item["name"] for item in page["tools"]]
            if "nextCursor" not in page:
                return names
            page = await self.ask(identity=identity, cursor=page["nextCursor"])


@pytest.mark.requirement("mcp:2026-07-28:cursors", "mcp:2026-07-28:tools-order", "mcp:2026-07-28:caching-pages")
async def test_pages_together_hold_everything_in_order_and_are_private() -> None:
    place = Place()

    first = await place.ask()

    assert await place.names() == ["a", "b", "c", "d", "e"]
    assert (first["resultType"], first["cacheScope"], first["ttlMs"]) == ("complete", "private", 5_000)


@pytest.mark.requirement("mcp:2026-07-28:tools-by-caller")
async def test_list_shows_what_policy_lets_this_caller_see() -> None:
    place = Place()
    place.choice.hidden = {"b", "e"}

    assert await place.names() == ["a", "c", "d"]


async def test_list_whose_choice_fails_shows_nothing() -> None:
    place = Place()
    place.choice.fail_with = PolicyDenied("no answer")

    with pytest.raises(PolicyDenied):
        await place.ask()


@pytest.mark.parametrize(
    ("method", "member"),
    [
        ("tools/list", "tools"),
        ("prompts/list", "prompts"),
        ("resources/list", "resources"),
        ("resources/templates/list", "resourceTemplates"),
    ],
)
async def test_each_list_has_its_own_member(method: str, member: str) -> None:
    place = Place(page_size=9)
    place.registry.put(
        catalog_of(
            "web",
            tools=[tool("t")],
            prompts=[{"name": "p"}],
            resources=[resource("w://1")],
            templates=[template("w://{x}")],
        )
    )

    web, merged = await place.ask(method, "web"), await place.ask(method, "*")

    assert len(web[member]) == 1
    assert web[member][0] == merged[member][-1] or web[member][0]["name"] != merged[member][-1]["name"]
    assert len(merged[member]) >= 1


async def test_clients_of_either_era_get_the_tools_that_they_can_read() -> None:
    place = Place(page_size=9)
    schemas: dict[str, object] = {"none": None, "object": {"type": "object"}, "array": {"type": "array"}, "any": True}
    tools = [tool(name, **({"outputSchema": schema} if schema else {})) for name, schema in schemas.items()]
    place.registry.put(catalog_of("web", tools=tools))

    legacy = await place.ask("tools/list", "web")
    place.version = "2026-07-28"
    modern = await place.ask("tools/list", "web")

    assert [item.get("outputSchema") for item in modern["tools"]] == [None, {"type": "object"}, {"type": "array"}, True]
    assert [item.get("outputSchema") for item in legacy["tools"]] == [None, {"type": "object"}, None, None]
    assert [item["name"] for item in legacy["tools"]] == list(schemas)


@pytest.mark.requirement("mcp:2026-07-28:invalid-annotation")
async def test_tool_with_an_annotation_that_cannot_hold_is_not_listed() -> None:
    place = Place(page_size=9)
    schemas = [{"type": kind, "x-mcp-header": "Region"} for kind in ("string", "number")]
    tools = [
        {"name": f"t{at}", "inputSchema": {"type": "object", "properties": {"region": schema}}}
        for at, schema in enumerate(schemas)
    ]
    place.registry.put(build_catalog("web", Listing(tools=tools), header_check=invalid_annotations))

    assert [item["name"] for item in (await place.ask(view="web"))["tools"]] == ["t0"]


async def test_empty_list_asks_policy_nothing() -> None:
    place = Place()

    assert (await place.ask("prompts/list"))["prompts"] == []
    assert place.choice.asked == 0


@pytest.mark.requirement("mcp:2026-07-28:caching-private")
async def test_list_is_kept_per_caller_until_something_changes() -> None:
    place = Place()
    for identity in (ANA, BO, ANA, BO, ANA):
        await place.ask(identity=identity)
    per_caller = place.choice.asked

    place.put("a", "z")
    await place.ask()
    after_catalog = place.choice.asked
    place.epoch = "r2"
    await place.ask()

    assert (per_caller, after_catalog, place.choice.asked) == (2, 3, 4)


async def test_callers_that_policy_can_tell_apart_share_no_list() -> None:
    place = Place()
    for identity in (ANA, replace(ANA, roles=("admin",)), replace(ANA, scopes=("x",)), replace(ANA, delegation=("a",))):
        await place.ask(identity=identity)

    assert place.choice.asked == 4


async def test_list_of_a_policy_that_may_answer_differently_is_not_kept() -> None:
    place = Place(epoch=None)
    first, second = await place.ask(), await place.ask()

    assert place.choice.asked == 2
    assert first["tools"] == second["tools"]


async def test_list_that_was_chosen_while_policy_changed_is_not_kept() -> None:
    place = Place()

    class Changing(Choice):
        async def visible(self, call: Call, identity: Identity, candidates: Any) -> frozenset[int]:
            place.epoch = f"r{self.asked + 2}"
            return await super().visible(call, identity, candidates)

    changing = place.lister._chooser = Changing(FakeDecider())
    await place.ask()
    place.epoch = "r1"
    await place.ask()

    assert changing.asked == 2


async def test_memory_for_lists_is_bounded() -> None:
    place = Place()
    for number in range(CACHED_LISTS + 20):
        await place.ask(identity=replace(ANA, tenant=f"t{number}"))

    assert len(place.lister._cache) == CACHED_LISTS


async def test_cursor_of_a_kept_page_is_good_for_at_least_half_its_time() -> None:
    place = Place()
    for _ in range(8):
        page = await place.ask()
        place.seal.now_s += CURSOR_TTL_S // 2 - 1
        assert (await place.ask(cursor=page["nextCursor"]))["tools"]
        place.seal.now_s -= CURSOR_TTL_S // 4


@pytest.mark.requirement("mcp:2026-07-28:cursor-invalid")
async def test_cursor_serves_only_its_own_caller_list_revision_and_time() -> None:
    place = Place()
    cursor = (await place.ask())["nextCursor"]
    state = place.seal.seal(
        "mrtr", {"m": "tools/list", "v": "files", "r": 3}, principal=ANA.principal, ttl_s=60, now_s=0
    )

    for identity, method, view, token in (
        (BO, "tools/list", "files", cursor),
        (ANA, "resources/list", "files", cursor),
        (ANA, "tools/list", "*", cursor),
        (ANA, "tools/list", "files", state),
        (ANA, "tools/list", "files", "made-up"),
        (ANA, "tools/list", "files", ""),
        (ANA, "tools/list", "files", 5),
        (ANA, "tools/list", "files", ["x"]),
        (ANA, "tools/list", "files", {"x": 1}),
    ):
        with pytest.raises(InvalidCall):
            await place.ask(method, view, identity=identity, cursor=token)
    place.seal.now_s += CURSOR_TTL_S
    with pytest.raises(InvalidCall, match="expired"):
        await place.ask(cursor=cursor)
    place.seal.now_s -= CURSOR_TTL_S
    place.put("a", "b", "c")
    with pytest.raises(InvalidCall, match="changed since"):
        await place.ask(cursor=cursor)


@pytest.mark.parametrize("value", [{"at": "2"}, {}, {"at": None}])
async def test_sealed_cursor_without_a_position_is_refused(value: Mapping[str, object]) -> None:
    place = Place()
    here = {"m": "tools/list", "v": "files", "r": place.registry.snapshot.view_revision("files"), **value}
    cursor = place.seal.seal("cursor", here, principal=ANA.principal, ttl_s=60, now_s=0)

    with pytest.raises(InvalidCall, match="not one of ours"):
        await place.ask(cursor=cursor)


@pytest.mark.parametrize("method", ["subscriptions/listen", "logging/setLevel"])
async def test_calls_that_only_need_a_permit_have_nothing_to_say(method: str) -> None:
    assert await Place().ask(method) == {}


def described() -> Place:
    place = Place()
    listing = Listing(
        tools=[tool("a")],
        capabilities={
            "tools": {"listChanged": True},
            "experimental": {"x": {}},
            "extensions": {"io.modelcontextprotocol/tasks": {}, "example.org/x": {"v": 1}},
        },
        server_info={"name": "webber", "version": "7"},
        instructions="use with care" * 1_000,
    )
    place.registry.put(build_catalog("web", listing, header_check=lambda schema: None))
    return place


async def test_upstream_introduces_itself_by_way_of_the_gateway() -> None:
    place = described()

    modern, legacy = await place.ask("server/discover", "web"), await place.ask("initialize", "web")

    assert modern["supportedVersions"] == ["2026-07-28"]
    assert modern["capabilities"] == {"tools": {"listChanged": True}, "extensions": {"example.org/x": {"v": 1}}}
    assert modern["_meta"] == {"io.modelcontextprotocol/serverInfo": {"name": "webber", "version": "7"}}
    assert len(modern["instructions"]) == MAX_INSTRUCTIONS
    assert (legacy["protocolVersion"], legacy["serverInfo"]["name"]) == ("2025-11-25", "webber")
    assert legacy["capabilities"] == modern["capabilities"]


@pytest.mark.requirement("mcp:2026-07-28:discover-union", "mcp:2026-07-28:discover-identity")
async def test_merged_view_introduces_the_gateway_and_quotes_its_upstreams() -> None:
    place = described()

    about = await place.ask("server/discover", "*")

    assert {"tools", "prompts", "resources", "completions", "logging"} == about["capabilities"].keys()
    assert about["_meta"]["io.modelcontextprotocol/serverInfo"] == {"name": "interlock", "version": "9"}
    assert "## web\nuse with care" in about["instructions"]
    assert "## files" not in about["instructions"]


async def test_upstream_that_is_not_there_yet_is_introduced_as_the_gateway() -> None:
    about = await Place().ask("server/discover", "web")

    assert about["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "interlock"
    assert "tools" in about["capabilities"]


def test_extension_that_the_gateway_does_not_carry_is_not_declared() -> None:
    catalog = catalog_of("web", capabilities={"tools": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}})

    assert capabilities_of(catalog) == {"tools": {"listChanged": True}}
