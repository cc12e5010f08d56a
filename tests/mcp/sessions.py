"""A legacy client, written out so that a test sees every header."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tests.mcp.asgi import Answer, Exchange, Header, Json, fetch, opened
from tests.mcp.worlds import BOTH, LEGACY, World

EVERYTHING: Json = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}


@dataclass
class Client:
    """One session of a caller (`ana` unless told otherwise)."""

    world: World
    bearer: str = "ana"
    path: str = "/mcp"
    session: str = ""
    version: str = ""
    ids: Any = field(default_factory=lambda: count(1))

    def headers(self, *extra: Header) -> list[Header]:
        """What every request carries; an extra header takes the place of its namesake, or removes it with b"-"."""
        found = {
            b"host": b"127.0.0.1:8080",
            b"content-type": b"application/json",
            b"accept": BOTH.encode(),
            b"authorization": f"Bearer {self.bearer}".encode(),
        }
        if self.session:
            found |= {b"mcp-session-id": self.session.encode(), b"mcp-protocol-version": self.version.encode()}
        found |= dict(extra)
        return [(name, value) for name, value in found.items() if value != b"-"]

    async def send(self, body: Any, *extra: Header) -> Answer:
        """Post whatever is given."""
        return await fetch(self.world.front, json.dumps(body).encode(), self.headers(*extra), path=self.path)

    def open(self, body: Any, *extra: Header) -> AbstractAsyncContextManager[Exchange]:
        """Post, and look at the answer while it comes."""
        return opened(self.world.front, json.dumps(body).encode(), self.headers(*extra), path=self.path)

    def listen(self, *extra: Header) -> AbstractAsyncContextManager[Exchange]:
        """Open the stream for what belongs to no request."""
        return opened(self.world.front, b"", self.headers(*extra), method="GET", path=self.path)

    async def end(self, *extra: Header) -> Answer:
        return await fetch(self.world.front, b"", self.headers(*extra), method="DELETE", path=self.path)

    async def initialize(self, version: str = LEGACY, capabilities: Json | None = None) -> Answer:
        """Begin the session."""
        params = {
            "protocolVersion": version,
            "capabilities": capabilities or {},
            "clientInfo": {"name": "t", "version": "1"},
        }
        answer = await self.send(self.request("initialize", params))
        self.session = answer.header("mcp-session-id")
        if self.session:
            self.version = answer.result["protocolVersion"]
        return answer

    def request(self, method: str, params: object = None) -> Json:
        return {"jsonrpc": "2.0", "id": next(self.ids), "method": method, "params": params or {}}

    async def ask(self, method: str, **params: Any) -> Answer:
        return await self.send(self.request(method, params))

    async def tell(self, method: str, **params: Any) -> Answer:
        return await self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def call(self, name: str = "files__read", **arguments: Any) -> Json:
        return self.request("tools/call", {"name": name, "arguments": arguments})


async def begun(world: World, bearer: str = "ana", *, path: str = "/mcp", capabilities: Json | None = None) -> Client:
    """A client whose session has begun."""
    client = Client(world, bearer, path)
    await client.initialize(capabilities=EVERYTHING if capabilities is None else capabilities)
    assert client.session
    return client
