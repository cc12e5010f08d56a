"""Clients and upstreams of different eras complete each other's calls, through a real gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import pytest
from mcp import Client
from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent

from tests.conformance.talking import World

LEGACY_UPSTREAMS = pytest.mark.parametrize("upstream", ["legacy", "lines"])
MODERN_UPSTREAMS = pytest.mark.parametrize("upstream", ["modern", "modernlines"])
Mode = Literal["legacy", "2026-07-28"]


@asynccontextmanager
async def _client(world: World, upstream: str, mode: Mode, name: str = "Ana") -> AsyncIterator[Client]:
    """A client of one era whose user, model and roots all answer with `name`."""

    async def elicit(context: Any, params: object) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": name, "color": f"{name}'s color"})

    async def sample(context: Any, params: object) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(text=f"{name}'s model"), model="test")

    async def roots(context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root.model_validate({"uri": f"file:///{name}"})])

    client = Client(
        world.url(upstream),
        mode=mode,
        elicitation_callback=elicit,
        sampling_callback=sample,
        list_roots_callback=roots,
    )
    with anyio.fail_after(20):
        async with client:
            yield client


async def _said(client: Client, tool: str) -> str:
    result = await client.call_tool(tool, {})
    block = result.content[0]
    assert isinstance(block, TextContent)
    assert not result.is_error, block.text
    return block.text


@LEGACY_UPSTREAMS
@pytest.mark.requirement("mcp:2026-07-28:bridge-elicitation-down")
async def test_modern_client_answers_a_legacy_upstream(open_world: World, upstream: str) -> None:
    async with _client(open_world, upstream, "2026-07-28") as client:
        once, twice = await _said(client, "ask_user"), await _said(client, "ask_twice")

    assert json.loads(once)["content"]["name"] == "Ana"
    assert json.loads(twice)[1]["color"] == "Ana's color"


@LEGACY_UPSTREAMS
@pytest.mark.requirement("mcp:2026-07-28:bridge-sampling-down", "mcp:2026-07-28:bridge-roots-down")
async def test_modern_client_lends_model_and_roots_to_a_legacy_upstream(open_world: World, upstream: str) -> None:
    async with _client(open_world, upstream, "2026-07-28") as client:
        model, roots = await _said(client, "ask_model"), await _said(client, "ask_roots")

    assert "Ana's model" in model
    assert "file:///Ana" in roots


@MODERN_UPSTREAMS
@pytest.mark.requirement("mcp:2026-07-28:bridge-elicitation-up")
async def test_legacy_client_answers_a_modern_upstream(open_world: World, upstream: str) -> None:
    async with _client(open_world, upstream, "legacy") as client:
        once, twice = await _said(client, "ask_user"), await _said(client, "ask_twice")

    assert json.loads(once)["content"]["name"] == "Ana"
    assert json.loads(twice)[1]["color"] == "Ana's color"


@MODERN_UPSTREAMS
@pytest.mark.requirement("mcp:2026-07-28:bridge-sampling-up", "mcp:2026-07-28:bridge-roots-up")
async def test_legacy_client_lends_model_and_roots_to_a_modern_upstream(open_world: World, upstream: str) -> None:
    async with _client(open_world, upstream, "legacy") as client:
        model, roots = await _said(client, "ask_model"), await _said(client, "ask_roots")

    assert "Ana's model" in model
    assert "file:///Ana" in roots


@pytest.mark.requirement("mcp:2026-07-28:bridge-output-schema")
async def test_legacy_client_is_spared_output_that_its_era_does_not_know(open_world: World) -> None:
    async with _client(open_world, "arrays", "legacy") as client:
        tools = {tool.name: tool.output_schema for tool in (await client.list_tools()).tools}
        said = await _said(client, "array")

    assert tools["array"] is None
    assert said == "[1, 2, 3]"


@LEGACY_UPSTREAMS
@pytest.mark.requirement("mcp:2025-11-25:roots")
async def test_legacy_client_is_asked_for_roots_by_a_legacy_upstream(open_world: World, upstream: str) -> None:
    async with _client(open_world, upstream, "legacy") as client:
        roots = await _said(client, "ask_roots")

    assert "file:///Ana" in roots


@pytest.mark.parametrize("upstream", ["legacy", "modern", "lines", "modernlines"])
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.requirement("mcp:2026-07-28:bridge-own-client")
async def test_each_client_gets_only_its_own_questions(open_world: World, upstream: str, mode: Mode) -> None:
    answers: dict[str, str] = {}

    async def one(name: str) -> None:
        async with _client(open_world, upstream, mode, name) as client:
            answers[name] = await _said(client, "ask_twice")

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for name in ("Ana", "Bo", "Cy"):
                tasks.start_soon(one, name)

    assert {name: json.loads(said)[0]["name"] for name, said in answers.items()} == {n: n for n in ("Ana", "Bo", "Cy")}
