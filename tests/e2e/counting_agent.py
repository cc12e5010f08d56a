"""The agent that can be killed and changed (`tests.servers.agent`) behind a gateway, and a plain client of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2

from conformance.gateway import ROOT, Plan, Table
from conformance.processes import free_port, running
from tests.conformance.talking import Json
from tests.e2e.eventually import eventually
from tests.e2e.place import ALLOW_ALL, Place, prepare, rules
from tests.servers.agent import card_of

AGENT: Final = "counter"
TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Counter:
    """One agent, running."""

    port: int
    process: subprocess.Popen[bytes]
    card: Path

    def show(self, card: Json) -> None:
        """Change its card, all at once."""
        shadow = self.card.with_suffix(".next")
        shadow.write_text(json.dumps(card))
        os.replace(shadow, self.card)


@contextmanager
def counter(directory: Path, *, port: int = 0, card: Json | None = None) -> Iterator[Counter]:
    """The agent, until the block ends; its card lies in a directory of its own."""
    port = port or free_port()
    folder = directory / f"agent-{port}"
    folder.mkdir(exist_ok=True)
    file = folder / "card.json"
    if card is not None or not file.exists():
        file.write_text(json.dumps(card or card_of(port)))
    command = [sys.executable, "-m", "tests.servers.agent", "--port", str(port), "--card", str(file)]
    with running(command, port=port, log=folder / "agent.log", cwd=ROOT) as process:
        yield Counter(port, process, file)


def place_of(directory: Path, port: int, *, upstreams: Mapping[str, Table] | None = None, **more: Table) -> Place:
    """A gateway before the agent at that port, whose policy allows everything. `more` are further tables."""
    url = f"http://127.0.0.1:{port}/.well-known/agent-card.json"
    tables: dict[str, Table] = {"policy": rules(directory, all=ALLOW_ALL), **more}
    tables[f"agents.{AGENT}"] = {"card_url": url, **tables.get("agent", {})}
    tables.pop("agent", None)
    return prepare(directory, Plan(upstreams or {}, tables))


def said(text: str, **more: object) -> Json:
    """The parameters of a message."""
    return {"message": {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": text}], **more}}


class Talker:
    """Speaks A2A 1.0 over JSON-RPC with the agent behind a gateway."""

    def __init__(self, place: Place, key: str, http: httpx2.AsyncClient) -> None:
        self.url = f"{place.url}/agents/{AGENT}"
        self._headers = {"a2a-version": "1.0", "authorization": f"Bearer {key}"}
        self._http = http

    async def ask(self, method: str, params: Mapping[str, object]) -> Json:
        """The whole response of JSON-RPC."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        told: Json = (await self._http.post(self.url, json=body, headers=self._headers)).json()
        return told

    async def works(self) -> bool:
        """Whether the agent can be called now."""
        return "result" in await self.ask("SendMessage", said("hello"))

    async def card(self) -> httpx2.Response:
        """The card as the gateway answers for it."""
        return await self._http.get(f"{self.url}/.well-known/agent-card.json", headers=self._headers)

    async def events(self, method: str, params: Mapping[str, object]) -> AsyncGenerator[Json, None]:
        """The responses on a stream, as they come."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        async with self._http.stream("POST", self.url, json=body, headers=self._headers) as response:
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    async def followed(self, text: str, told: list[Json]) -> None:
        """Gather the responses on the stream of a message in `told`."""
        async for event in self.events("SendStreamingMessage", said(text)):
            told.append(event)

    async def ready(self) -> None:
        """Wait until the agent can be called."""
        await eventually(self.works, within_s=TIMEOUT_S)


@asynccontextmanager
async def talking(place: Place, key: str) -> AsyncIterator[Talker]:
    """A client with that key."""
    async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
        yield Talker(place, key, http)


async def until_many(told: list[Json], count: int, *, within_s: float = TIMEOUT_S) -> None:
    """Wait until that many responses were gathered."""

    async def many() -> bool:
        return len(told) >= count

    await eventually(many, within_s=within_s)


def counted(told: list[Json]) -> list[int]:
    """The numbers in the artifacts, in the order of their coming; one that is sent as a whole begins anew."""
    numbers: list[int] = []
    for each in told:
        update: Any = each.get("result", {}).get("artifactUpdate")
        if update is not None:
            fresh = [int(part["text"]) for part in update["artifact"]["parts"]]
            numbers = [*numbers, *fresh] if update.get("append") else fresh
    return numbers


def task_id_in(told: list[Json]) -> str:
    """The task that a stream began with."""
    return str(told[0]["result"]["task"]["id"])


def state_in(event: Json) -> str:
    """The state that a status update tells."""
    return str(event.get("result", {}).get("statusUpdate", {}).get("status", {}).get("state", ""))


async def in_time(awaited: Any, within_s: float = TIMEOUT_S) -> Any:
    """What is awaited, or `TimeoutError`."""
    with anyio.fail_after(within_s):
        return await awaited
