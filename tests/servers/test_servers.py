"""The servers that other tests rely on do what those tests assume, as the SDK's client sees it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    Root,
    TextContent,
)

from conformance.gateway import ROOT
from tests.servers.launch import http_server, noted, stdio_server

ASKING = ("ask_user", "ask_twice", "ask_model", "ask_roots")


async def _elicit(context: Any, params: object) -> ElicitResult:
    return ElicitResult(action="accept", content={"name": "Ana", "color": "red"})


async def _sample(context: Any, params: object) -> CreateMessageResult:
    return CreateMessageResult(role="assistant", content=TextContent(text="Paris"), model="test")


async def _roots(context: Any) -> ListRootsResult:
    return ListRootsResult(roots=[Root.model_validate({"uri": "file:///work"})])


@asynccontextmanager
async def _client(target: str | StdioServerParameters) -> AsyncIterator[Client]:
    client = Client(
        target,
        mode="auto",
        elicitation_callback=_elicit,
        sampling_callback=_sample,
        list_roots_callback=_roots,
    )
    with anyio.fail_after(20):
        async with client:
            yield client


def _stdio(name: str, place: Path) -> tuple[StdioServerParameters, Path]:
    command, record = stdio_server(name, place)
    return StdioServerParameters(command=command[0], args=command[1:], cwd=str(ROOT)), record


async def _said(client: Client, tool: str) -> str:
    result = await client.call_tool(tool, {})
    block = result.content[0]
    assert isinstance(block, TextContent)
    return block.text


@pytest.mark.parametrize("name", ["legacy_asker", "modern_asker"])
async def test_asking_tools_get_their_answers_over_http(name: str, tmp_path: Path) -> None:
    with http_server(name, tmp_path) as server:
        async with _client(server.url) as client:
            answers = [await _said(client, tool) for tool in ASKING]

    assert "Ana" in answers[0]
    assert "red" in answers[1]
    assert "Paris" in answers[2]
    assert "file:///work" in answers[3]


@pytest.mark.parametrize("name", ["legacy_asker", "modern_asker"])
async def test_asking_tools_get_their_answers_over_stdio(name: str, tmp_path: Path) -> None:
    target, _ = _stdio(name, tmp_path)

    async with _client(target) as client:
        answers = [await _said(client, tool) for tool in ASKING]

    assert "Ana" in answers[0]
    assert "red" in answers[1]
    assert "Paris" in answers[2]
    assert "file:///work" in answers[3]


@pytest.mark.parametrize("name", ["legacy_asker", "modern_asker"])
async def test_cancelled_call_leaves_a_note_in_the_journal(name: str, tmp_path: Path) -> None:
    target, record = _stdio(name, tmp_path)

    async with _client(target) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.call_tool, "slow", {})
        await noted(record, "waiting")
        tasks.cancel_scope.cancel()
    entry = await noted(record, "cancelled")

    assert entry["name"] == "slow"


async def test_each_server_speaks_only_its_own_era(tmp_path: Path) -> None:
    with http_server("legacy_asker", tmp_path) as legacy, http_server("modern_asker", tmp_path) as modern:
        async with _client(legacy.url) as client:
            spoken_by_legacy = client.session.protocol_version
        async with _client(modern.url) as client:
            spoken_by_modern = client.session.protocol_version
        async with httpx2.AsyncClient(timeout=5) as http:
            body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
            refused = await http.post(modern.url, json=body)

    assert spoken_by_legacy == "2025-11-25"
    assert spoken_by_modern == "2026-07-28"
    assert refused.status_code == 404


async def test_modern_server_refuses_changed_state(tmp_path: Path) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    }
    params = {"name": "ask_twice", "arguments": {}, "_meta": meta, "requestState": '{"name": "Eve"}#00'}
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "ask_twice"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}

    with http_server("modern_asker", tmp_path) as server:
        async with httpx2.AsyncClient(timeout=5) as http:
            refused = await http.post(server.url, json=body, headers=headers)

    assert refused.json()["error"]["code"] == -32602


async def test_changing_list_is_another_one_each_time(tmp_path: Path) -> None:
    with http_server("faulty", tmp_path, "--fault", "tools/list=changing") as server:
        async with _client(server.url) as client:
            first = await client.list_tools()
        async with _client(server.url) as client:
            second = await client.list_tools()

    assert first.tools[0].description != second.tools[0].description


@pytest.mark.parametrize("fault", ["die", "garbage", "not_a_result", "status_500"])
async def test_faulty_tool_is_an_error_for_its_caller(fault: str, tmp_path: Path) -> None:
    with http_server("faulty", tmp_path) as server:
        async with httpx2.AsyncClient(timeout=5) as http:
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": fault}}
            try:
                answered = await http.post(server.url, json=body)
                result = json.loads(answered.text or "null")
            except (httpx2.HTTPError, ValueError):
                result = None

    assert not isinstance(result, dict) or not isinstance(result.get("result"), dict)


async def test_fine_tool_of_faulty_server_works_over_stdio(tmp_path: Path) -> None:
    target, _ = _stdio("faulty", tmp_path)

    async with _client(target) as client:
        said = await _said(client, "fine")
        with pytest.raises((MCPError, anyio.ClosedResourceError, anyio.BrokenResourceError)):
            await client.call_tool("die", {})

    assert said == "fine"


async def test_counting_server_counts_calls_and_connections(tmp_path: Path) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "hi"}}}

    with http_server("counting", tmp_path) as server:
        async with httpx2.AsyncClient(timeout=5) as http:
            answers = [(await http.post(server.url, json=call)).json() for _ in range(3)]
            counted = (await http.get(server.url.replace("/mcp", "/count"))).json()

    assert answers[0]["result"]["content"][0]["text"] == "hi"
    assert counted["methods"] == {"tools/call": 3}
    assert counted["connections"] == 1
