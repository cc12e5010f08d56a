"""An `McpUpstream` that runs, and what it told the gateway."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup

from adapters.upstreams.mcp.http import Site
from adapters.upstreams.mcp.server import HttpServer, Server, StdioServer
from adapters.upstreams.mcp.stdio import Pipe
from adapters.upstreams.mcp.upstream import McpUpstream, Terms
from adapters.upstreams.wire.http import HttpPool
from adapters.upstreams.wire.origin import split_url
from conformance.gateway import ROOT
from gateway.boxes import Hold
from gateway.events import Events
from gateway.headers import annotations_of
from gateway.registry import Listing
from gateway.types import Authorized, Call, Era, FrozenDict, Identity, Permit, Resource, Result, freeze
from sandboxes.host.process import ChildProcess, ProcessSpec
from tests.fakes import FakeRelay, not_held
from tests.servers.launch import stdio_server

MakeServer = Callable[[TaskGroup, Callable[[str, Mapping[str, object]], None]], Server]
_ids = itertools.count(1)


@dataclass
class Running:
    """One upstream and everything that it told the gateway so far."""

    upstream: McpUpstream
    events: Events
    listings: list[Listing] = field(default_factory=list)
    downs: list[str] = field(default_factory=list)
    told: anyio.Event = field(default_factory=anyio.Event)

    async def call(self, tool: str, relay: FakeRelay | None = None, **arguments: object) -> Result:
        """Call a tool."""
        return await self.execute(tool_call(tool, arguments), relay)

    async def execute(self, call: Call, relay: FakeRelay | None = None) -> Result:
        """Carry out a call that policy has permitted."""
        authorized = Authorized(call, Identity(), Permit("d1", call.digest))
        with anyio.fail_after(30):
            return await self.upstream.execute(authorized, relay or FakeRelay())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that an offer or a failure of the upstream makes true."""
        with anyio.fail_after(20):
            while not condition():
                await self.told.wait()

    def note(self) -> None:
        self.told.set()
        self.told = anyio.Event()

    @property
    def tools(self) -> list[object]:
        """The names of the tools offered last."""
        return [tool.get("name") for tool in self.listings[-1].tools]

    @property
    def http(self) -> HttpServer:
        assert isinstance(self.upstream.server, HttpServer)
        return self.upstream.server

    @property
    def stdio(self) -> StdioServer:
        assert isinstance(self.upstream.server, StdioServer)
        return self.upstream.server


@asynccontextmanager
async def running(
    make: MakeServer, *, random: Callable[[], float] = lambda: 0.0, hold: Hold = not_held, **terms: Any
) -> AsyncIterator[Running]:
    """Run an upstream; the block starts after its first attempt to connect."""
    settings = {"name": "x", "timeout_s": 10.0, "max_bytes": 4 * 1024 * 1024, "parked_ttl_s": 60.0, "max_parked": 4}
    seen: list[Running] = []

    async def offer(listing: Listing) -> None:
        seen[0].listings.append(listing)
        seen[0].note()

    def down(reason: str) -> None:
        seen[0].downs.append(reason)
        seen[0].note()

    events = Events()
    upstream = McpUpstream(
        Terms(**{**settings, **terms}), make, offer=offer, down=down, events=events, random=float, hold=hold
    )
    events.on_unwatched(lambda _, uri: upstream.unwatched(uri))
    seen.append(Running(upstream, events))
    async with anyio.create_task_group() as group:
        group.start_soon(upstream.run)
        with anyio.fail_after(30):
            await upstream.settled.wait()
        try:
            yield seen[0]
        finally:
            group.cancel_scope.cancel()


def at(
    url: str, *, era: Era | None = None, headers: Mapping[str, str] | None = None, max_connections: int = 16
) -> MakeServer:
    """A server at a URL."""

    def make(group: TaskGroup, news: Callable[[str, Mapping[str, object]], None]) -> Server:
        origin, target = split_url(url)
        credentials = tuple((name.encode(), value.encode()) for name, value in (headers or {}).items())
        site = Site("x", HttpPool(origin, label="x", max_connections=max_connections), target, credentials)
        return HttpServer(site, era=era, idle_s=60)

    return make


def by(
    command: Sequence[str],
    *,
    era: Era | None = None,
    idle_s: float = 60,
    max_processes: int = 4,
    monotonic: Callable[[], float] | None = None,
    max_line_bytes: int = 4 * 1024 * 1024,
) -> MakeServer:
    """A server that is a command."""

    def make(group: TaskGroup, news: Callable[[str, Mapping[str, object]], None]) -> Server:
        spec = ProcessSpec(tuple(command), cwd=str(ROOT), label="x")
        pipe = Pipe("x", lambda: ChildProcess.start(spec), max_line_bytes)
        clock = {} if monotonic is None else {"monotonic": monotonic}
        return StdioServer(pipe, era=era, group=group, idle_s=idle_s, max_processes=max_processes, news=news, **clock)

    return make


def process_of(name: str, place: Path, *arguments: str, **options: Any) -> tuple[MakeServer, Path]:
    """A server of `tests.servers` as a process, and where its journal will be."""
    command, record = stdio_server(name, place, *arguments)
    return by(command, **options), record


def tool_call(tool: str, arguments: Mapping[str, object] | None = None, **more: Any) -> Call:
    """A `tools/call`. `schema` gives the tool's `x-mcp-header` annotations."""
    schema = more.pop("schema", {})
    resource = Resource("tool", f"x/{tool}", upstream="x", name=tool, param_headers=annotations_of(schema))
    params = {"name": tool, "arguments": dict(arguments or {}), **more.pop("params", {})}
    return make_call("tools/call", resource, params, **more)


def resource_call(method: str, uri: str, **more: Any) -> Call:
    """A call on a resource."""
    return make_call(method, Resource("mcp_resource", uri, upstream="x", name=uri), {"uri": uri}, **more)


def make_call(method: str, resource: Resource, params: Mapping[str, object], **more: Any) -> Call:
    """A call with a fresh id."""
    frozen = freeze(dict(params))
    assert isinstance(frozen, FrozenDict)
    action = "mcp." + method.replace("/", ".")
    return Call(id=str(next(_ids)), action=action, method=method, resource=resource, params=frozen, **more)


def resumed(call: Call, result: Result, **answers: object) -> Call:
    """The next round of a call: the state that came with `result`, and answers by question or by its method."""
    requests = payload(result).get("inputRequests", {})
    by_method = {str(question["method"]).partition("/")[0]: key for key, question in requests.items()}
    responses = {by_method.get(name, name): answer for name, answer in answers.items()}
    return make_call(
        call.method,
        call.resource,
        call.params,
        resume=freeze({"state": dict(result.state or {}), "responses": responses}),
    )


def payload(result: Result) -> dict[str, Any]:
    """The result's JSON."""
    value = json.loads(result.payload)
    assert isinstance(value, dict)
    return value


def text_of(result: Result) -> str:
    """The first text block of a tool's result."""
    return str(payload(result)["content"][0]["text"])


async def gathered(*calls: Callable[[], Awaitable[Result]]) -> list[Result]:
    """The results of calls made at the same time."""
    results: dict[int, Result] = {}

    async def one(number: int, call: Callable[[], Awaitable[Result]]) -> None:
        results[number] = await call()

    async with anyio.create_task_group() as group:
        for number, call in enumerate(calls):
            group.start_soon(one, number, call)
    return [results[number] for number in range(len(calls))]
