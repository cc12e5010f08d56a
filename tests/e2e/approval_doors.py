"""One gateway process in front of a till and an agent, and the ways in which real clients make a call that is held."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import anyio
import httpx
import httpx2
from a2a.types import a2a_pb2
from a2a.utils.errors import A2AError
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from conformance.gateway import ROOT
from conformance.processes import free_port, running
from tests.conformance.talking import Json
from tests.e2e import agents
from tests.e2e.counting_agent import AGENT, Counter, counter, place_of
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, new_key, rules

TILL: Final = "till"
TIMEOUT_S: Final = 30.0
_TICKET: Final = re.compile(r"apr-[0-9a-f]{32}")

RULES: Final = """
allow if {
	input.subject.id in {"user:ana", "user:dan"}
	not input.resource.type in {"approval", "switch"}
}
allow if {
	input.resource.type in {"approval", "switch"}
	"operator" in input.subject.properties.roles
}

said contains input.resource.properties.arguments.to
said contains part.text if some part in input.resource.properties.arguments.message.parts

expires_s := 2 if { some text in said; startswith(text, "soon") } else := 600
quorum := 2 if { some text in said; startswith(text, "two") } else := 1

hold contains {"approvers": "group:finance", "title": "pay", "expires_s": expires_s, "quorum": quorum} if {
	input.action.name in {"mcp.tools.call", "a2a.message.send"}
}
"""
"""Payments wait for one of finance: for two where the text begins so, and not for long where it is `soon`."""

PEOPLE: Final[Mapping[str, tuple[str, ...]]] = {
    "ana": ("ana", "finance"),
    "ana again": ("ana", "finance"),
    "bo": ("bo", "finance"),
    "cy": ("cy", "finance"),
    "dan": ("dan",),
    "op": ("op", "operator"),
}


@dataclass(frozen=True, slots=True)
class Made:
    """What a client was told of its call."""

    done: bool
    text: str

    @property
    def ticket(self) -> str:
        """The ticket that the call waits on, or empty."""
        found = _TICKET.search(self.text)
        return found[0] if found and not self.done else ""


@dataclass(frozen=True, slots=True)
class Till:
    """The MCP server, running."""

    port: int
    ledger: Path
    process: subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class World:
    """What is configured, and everybody's key."""

    place: Place
    till: Till
    agent: Counter
    keys: Mapping[str, str]

    def ask(self, who: str, verb: str, path: str, body: object = None) -> httpx2.Response:
        """One request to the API of approvals."""
        headers = {"authorization": f"Bearer {self.keys[who]}"}
        url = f"{self.place.url}{path}"
        return httpx2.request(verb, url, headers=headers, json=body, timeout=TIMEOUT_S, trust_env=False)

    def vote(self, who: str, ticket: str, verdict: Literal["approve", "deny"] = "approve") -> tuple[int, str]:
        """The status of a vote, and the code of its refusal or the state of the ticket."""
        body = {"reason": "not today"} if verdict == "deny" else {}
        answer = self.ask(who, "POST", f"/approvals/{ticket}/{verdict}", body)
        told: Json = answer.json()
        return answer.status_code, told["state"] if answer.is_success else told["reasons"][0]["code"]

    async def until(self, ticket: str, state: str) -> None:
        """Wait until the ticket is in that state."""

        async def look() -> bool:
            return bool(self.ask("bo", "GET", f"/approvals/{ticket}").json()["state"] == state)

        await eventually(look, within_s=TIMEOUT_S)


class Door(Protocol):
    """One protocol, as a stock client speaks it."""

    @property
    def name(self) -> str:
        """Of the protocol."""

    async def make(self, world: World, what: str, who: str = "ana") -> Made:
        """Make a call that pays, or says, `what`."""

    async def effects(self, world: World) -> int:
        """How often such a call took effect, ever."""

    def process(self, world: World) -> subprocess.Popen[bytes]:
        """What has the effect."""


@dataclass(frozen=True, slots=True)
class McpDoor:
    """The official client of MCP in one of its modes."""

    name: str
    mode: Literal["2026-07-28", "legacy"]

    async def make(self, world: World, what: str, who: str = "ana") -> Made:
        """A call of the tool."""
        headers = {"authorization": f"Bearer {world.keys[who]}"}
        try:
            with anyio.fail_after(TIMEOUT_S):
                async with httpx2.AsyncClient(headers=headers, timeout=TIMEOUT_S, trust_env=False) as http:
                    transport = streamable_http_client(world.place.endpoint(TILL), http_client=http)
                    async with Client(transport, mode=self.mode, cache=None) as client:
                        return await self._called(client, what)
        except ExceptionGroup as group:  # the client was refused before it could call anything
            if group.subgroup(MCPError) is None:
                raise
            return Made(False, _words(group))

    async def _called(self, client: Client, what: str) -> Made:
        try:
            result = await client.call_tool("pay", {"to": what})
        except MCPError as exc:
            return Made(False, str(exc))
        return Made(not result.is_error, "\n".join(str(getattr(block, "text", "")) for block in result.content))

    async def effects(self, world: World) -> int:
        """The lines of the ledger."""
        return len(world.till.ledger.read_text().splitlines()) if world.till.ledger.exists() else 0

    def process(self, world: World) -> subprocess.Popen[bytes]:
        """The till."""
        return world.till.process


@dataclass(frozen=True, slots=True)
class A2aDoor:
    """The official client of A2A over JSON-RPC."""

    name: str = "a2a"

    async def make(self, world: World, what: str, who: str = "ana") -> Made:
        """A message, under a new id as each try of a client has one."""
        made = agents.World(world.place, world.keys[who], "")
        try:
            async with agents.sdk_client(made, "JSONRPC", agent=AGENT, streaming=False) as client:
                told = [each async for each in client.send_message(agents.asking("m", self._words(what)))]
        except (A2AError, httpx.HTTPError) as exc:
            return Made(False, str(exc))
        completed = any(each.task.status.state == a2a_pb2.TASK_STATE_COMPLETED for each in told)
        return Made(completed, " ".join(map(str, told)))

    def _words(self, what: str) -> str:
        return "silence" if what.startswith("slow") else what

    async def effects(self, world: World) -> int:
        """The messages that the agent got."""
        async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
            counted: Json = (await http.get(f"http://127.0.0.1:{world.agent.port}/count")).json()
        return int(counted["methods"].get("SendMessage", 0))

    def process(self, world: World) -> subprocess.Popen[bytes]:
        """The agent."""
        return world.agent.process


DOORS: Final[tuple[Door, ...]] = (McpDoor("modern", "2026-07-28"), McpDoor("legacy", "legacy"), A2aDoor())


def _words(exc: BaseException) -> str:
    inner = exc.exceptions if isinstance(exc, BaseExceptionGroup) else ()
    return " ".join(map(_words, inner)) or str(exc)


@contextmanager
def till(directory: Path, *, port: int = 0, says: str = "Pays somebody") -> Iterator[Till]:
    """The MCP server, until the block ends. Its ledger stays."""
    port, ledger = port or free_port(), directory / "ledger"
    command = [sys.executable, "-m", "tests.e2e.till", "--port", str(port), "--ledger", str(ledger), "--says", says]
    with running(command, port=port, log=directory / "till.log", cwd=ROOT) as process:
        yield Till(port, ledger, process)


@contextmanager
def prepared(directory: Path) -> Iterator[World]:
    """Both upstreams running, the gateway configured but not started."""
    with till(directory) as paying, counter(directory) as agent:
        upstreams = {TILL: {"url": f"http://127.0.0.1:{paying.port}/mcp"}}
        place = place_of(directory, agent.port, upstreams=upstreams)
        rules(directory, all=RULES)
        yield World(place, paying, agent, anyio.run(_keys, place))


async def _keys(place: Place) -> Mapping[str, str]:
    return {name: await new_key(place, *who) for name, who in PEOPLE.items()}


async def held(door: Door, world: World, what: str, who: str = "ana") -> str:
    """Make a call that is held, once what it needs is there; its ticket."""

    async def made() -> str:
        with suppress(TimeoutError):
            return (await door.make(world, what, who)).ticket
        return ""

    return await eventually(made, within_s=TIMEOUT_S)
