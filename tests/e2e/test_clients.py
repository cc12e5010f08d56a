"""Real clients use real servers through a gateway process: what may be used is shown and works, the rest is not."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx2
import pytest
from anyio import to_thread
from fastmcp import Client as FastClient
from fastmcp.client.transports import StreamableHttpTransport
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, CreateMessageResult, ElicitResult, TextContent

from conformance.gateway import ROOT, Plan
from tests.e2e.place import Place, as_process, new_key, prepare, rules
from tests.peers.environment import peers_python
from tests.peers.npm import NpmPeers, npm_peers
from tests.peers.servers import upstreams

pytestmark = pytest.mark.slow

Mode = Literal["auto", "legacy", "2026-07-28"]
MODES: tuple[Mode, ...] = ("auto", "legacy", "2026-07-28")

RULES = """allow if "developer" in input.subject.properties.roles

deny contains {
	"code": "read_only",
	"message": "this changes something",
	"public": true,
	"remedy": "use a key with the role writer",
} if {
	input.resource.id in {"files/write_file", "memory/delete_entities", "git/git_commit", "everything/get-env"}
	not "writer" in input.subject.properties.roles
}

deny contains {"code": "not_on_mars", "message": "only the earth", "public": true, "remedy": "name a place on it"} if {
	startswith(input.resource.properties.arguments.timezone, "Mars/")
}
"""
HIDDEN = {"files__write_file", "memory__delete_entities", "git__git_commit", "everything__get-env"}


@dataclass(frozen=True, slots=True)
class Use:
    """One call that works, and what its answer says."""

    tool: str
    arguments: Mapping[str, object]
    says: str


def uses(place: Path) -> dict[str, Use]:
    """One for each server."""
    return {
        "everything": Use("echo", {"message": "hello"}, "hello"),
        "files": Use("read_text_file", {"path": str(place / "files" / "hello.txt")}, "hello from a file"),
        "memory": Use("read_graph", {}, "entities"),
        "git": Use("git_log", {"repo_path": str(place / "repo")}, "the first commit"),
        "time": Use("get_current_time", {"timezone": "Etc/UTC"}, "Etc/UTC"),
    }


SERVERS = ("everything", "files", "memory", "git", "time")
DENIED: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "everything": ("get-env", {}),
    "files": ("write_file", {"path": "/x", "content": "x"}),
    "memory": ("delete_entities", {"entityNames": ["x"]}),
    "git": ("git_commit", {"repo_path": "/x", "message": "x"}),
    "time": ("get_current_time", {"timezone": "Mars/Base"}),
}


@dataclass(frozen=True, slots=True)
class World:
    """A gateway process in front of five real servers, and a developer's key."""

    place: Place
    key: str
    npm: NpmPeers

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if shutil.which("git") is None:
        pytest.skip("git is not installed: install it with the package manager")
    directory = tmp_path_factory.mktemp("peers")
    npm = npm_peers()
    tables = {"policy": rules(directory, team=RULES)}
    place = prepare(directory, Plan(upstreams(npm, directory), tables))
    key = anyio.run(new_key, place, "ana", "developer")
    with as_process(place):
        yield World(place, key, npm)


def text_of(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def explains(text: str) -> bool:
    """Whether a denial says which rule and why, and what would help."""
    return ("rules.team, read_only: this changes something" in text and "role writer" in text) or (
        "rules.team, not_on_mars: only the earth" in text and "name a place on it" in text
    )


@asynccontextmanager
async def sdk_client(world: World, mode: Mode, upstream: str = "") -> AsyncIterator[Client]:
    async def elicit(context: Any, params: Any) -> ElicitResult:
        wanted = params.requested_schema["properties"]
        return ElicitResult(action="accept", content={name: "Ana" for name in wanted if name == "name"})

    async def sample(context: Any, params: object) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(text="Ana's model"), model="test")

    with anyio.fail_after(60):
        async with httpx2.AsyncClient(headers=world.headers, timeout=30, trust_env=False) as http:
            transport = streamable_http_client(world.place.endpoint(upstream), http_client=http)
            async with Client(
                transport, mode=mode, cache=None, elicitation_callback=elicit, sampling_callback=sample
            ) as client:
                yield client


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("server", SERVERS)
async def test_sdk_client_uses_each_server_alone(world: World, server: str, mode: Mode) -> None:
    use, (tool, arguments) = uses(world.place.directory)[server], DENIED[server]
    async with sdk_client(world, mode, server) as client:
        names = {f"{server}__{tool.name}" for tool in (await client.list_tools()).tools}
        allowed = await client.call_tool(use.tool, dict(use.arguments))
        denied = await client.call_tool(tool, dict(arguments))

    assert f"{server}__{use.tool}" in names
    assert not names & HIDDEN
    assert use.says in text_of(allowed)
    assert denied.is_error
    assert explains(text_of(denied))


@pytest.mark.parametrize("mode", MODES)
async def test_sdk_client_uses_all_servers_in_the_merged_view(world: World, mode: Mode) -> None:
    async with sdk_client(world, mode) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        said = {
            server: text_of(await client.call_tool(f"{server}__{use.tool}", dict(use.arguments)))
            for server, use in uses(world.place.directory).items()
        }
        resources = await client.list_resources()
        prompts = await client.list_prompts()

    assert {name.partition("__")[0] for name in names} == set(SERVERS)
    assert not names & HIDDEN
    assert all(use.says in said[server] for server, use in uses(world.place.directory).items())
    assert resources.resources
    assert prompts.prompts


@pytest.mark.parametrize("mode", MODES)
async def test_server_everything_elicits_and_samples_from_the_client(world: World, mode: Mode) -> None:
    async with sdk_client(world, mode, "everything") as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        elicited = await client.call_tool("trigger-elicitation-request", {})
        sampled = await client.call_tool("trigger-sampling-request", {"prompt": "hi", "maxTokens": 10})

    assert {"trigger-elicitation-request", "trigger-sampling-request"} <= names
    assert "Ana" in text_of(elicited)
    assert "Ana's model" in text_of(sampled)


def inspect(world: World, era: str, url: str, method: str, *words: str) -> dict[str, Any]:
    """What the inspector's command line prints."""
    command = world.npm.command("inspector", "--cli", url, "--method", method, *words, "--format", "json")
    auth = ["--header", f"Authorization: Bearer {world.key}", "--protocol-era", era, "--transport", "http"]
    done = subprocess.run([*command, *auth], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def arguments_for(arguments: Mapping[str, object]) -> list[str]:
    return [word for name, value in arguments.items() for word in ("--tool-arg", f"{name}={value}")]


@pytest.mark.parametrize("era", ["legacy", "auto", "modern"])
def test_inspector_lists_calls_and_is_told_why_not(world: World, era: str) -> None:
    url = world.place.endpoint()
    tool, arguments = DENIED["time"]

    listed = inspect(world, era, url, "tools/list")
    use = uses(world.place.directory)["files"]
    words = ["--tool-name", f"files__{use.tool}", *arguments_for(use.arguments)]
    allowed = inspect(world, era, url, "tools/call", *words)
    words = ["--tool-name", f"time__{tool}", *arguments_for(arguments)]
    denied = inspect(world, era, url, "tools/call", *words)

    names = {tool["name"] for tool in listed["result"]["tools"]}
    assert {name.partition("__")[0] for name in names} == set(SERVERS)
    assert not names & HIDDEN
    assert use.says in json.dumps(allowed)
    assert explains(json.dumps(denied))


@pytest.mark.parametrize("server", SERVERS)
async def test_fastmcp_client_uses_each_server(world: World, server: str) -> None:
    use, (tool, arguments) = uses(world.place.directory)[server], DENIED[server]
    transport = StreamableHttpTransport(world.place.endpoint(), headers=world.headers)
    with anyio.fail_after(60):
        async with FastClient(transport) as client:
            names = {tool.name for tool in await client.list_tools()}
            allowed = await client.call_tool(f"{server}__{use.tool}", dict(use.arguments), raise_on_error=False)
            denied = await client.call_tool(f"{server}__{tool}", dict(arguments), raise_on_error=False)

    assert f"{server}__{use.tool}" in names
    assert not names & HIDDEN
    assert use.says in str(allowed.content)
    assert denied.is_error
    assert explains(str(denied.content[0].text))


async def test_langchain_agent_uses_the_merged_view(world: World) -> None:
    python = await to_thread.run_sync(peers_python)
    use, (tool, arguments) = uses(world.place.directory)["git"], DENIED["time"]
    calls = [f"git__{use.tool} {json.dumps(use.arguments)}", f"time__{tool} {json.dumps(arguments)}"]
    script = str(ROOT / "tests" / "peers" / "langchain_client.py")
    command = [python, script, world.place.endpoint(), world.key, *calls]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    done = await to_thread.run_sync(run)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)

    assert {name.partition("__")[0] for name in told["tools"]} == set(SERVERS)
    assert not set(told["tools"]) & HIDDEN
    assert use.says in told["answers"][0]
    assert explains(told["answers"][1])
