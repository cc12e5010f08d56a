"""Budgets in a real gateway: hard stops, what people see of them, and a gateway that is killed in a call."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2
import pytest
from anyio import to_thread

from conformance.gateway import Plan
from gateway.budgets.ledger import LEASE_MS
from tests.conformance.talking import Json
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, as_process, interlock, new_key, prepare, rules
from tests.servers.launch import http_server

RULES = """
allow if input.subject.id != ""

obligation contains {"type": "budget", "properties": {
	"scope": "subject", "name": "daily", "usd": 0.05, "window_s": 86400, "warn_at": 0.5, "owner": "group:finance",
}} if input.action.name == "mcp.tools.call"

obligation contains {"type": "cost", "properties": {"usd": 0.02}} if input.resource.properties.name == "echo"

deny contains {"code": "spared", "message": "little is left", "public": true} if {
	input.phase == "request"
	input.resource.properties.arguments.text == "dear"
	input.context.budget.warns
}
"""


@dataclass(frozen=True, slots=True)
class World:
    """A gateway process in front of one upstream, and two keys."""

    place: Place
    ana: str
    op: str


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with http_server("modern_asker", tmp_path) as upstream:
        place = prepare(tmp_path, Plan({"one": {"url": upstream.url}}, {"policy": rules(tmp_path, all=RULES)}))
        ana = anyio.run(new_key, place, "ana")
        op = anyio.run(new_key, place, "op", "operator")
        yield World(place, ana, op)


async def run(world: World, key: str, *words: str) -> tuple[int, str]:
    """A command's exit code and what it printed."""
    file = world.place.directory / "key"
    file.write_text(key + "\n")
    keyed = ("--url", world.place.url, "--key-file", str(file))
    done = await to_thread.run_sync(lambda: interlock(world.place, *words, *keyed))
    return done.returncode, done.stdout + done.stderr


async def budgets(world: World, key: str, *words: str) -> list[Json]:
    code, text = await run(world, key, "budgets", "list", "--json", *words)
    assert code == 0, text
    listed: list[Json] = json.loads(text)["budgets"]
    return listed


def ask(world: World, text: str) -> httpx2.Response:
    """Call the tool as HTTP, to see the headers."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "one__echo", "arguments": {"text": text}, "_meta": meta}
    headers = {
        "authorization": f"Bearer {world.ana}",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "one__echo",
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return httpx2.post(world.place.endpoint(), headers=headers, json=body, timeout=30, trust_env=False)


async def test_a_budget_stops_hard_is_seen_and_begins_anew(world: World) -> None:
    with as_process(world.place):
        async with world.place.caller(world.ana) as ana:
            first = await ana.call("one__echo", {"text": "a"})
            second = await ana.call("one__echo", {"text": "b"})
            dear = await ana.call("one__echo", {"text": "dear"})
            third = await ana.call("one__echo", {"text": "c"})
        (own,) = await budgets(world, world.ana)
        everybodys = await budgets(world, world.op, "--all")
        refused = ask(world, "d")
        shown = await run(world, world.op, "budgets", "show", own["id"])
        reset = await run(world, world.op, "budgets", "reset", own["id"])
        async with world.place.caller(world.ana) as ana:
            again = await ana.call("one__echo", {"text": "e"})
        missing = await run(world, world.op, "budgets", "show", "none")

    assert not first.failed
    assert not second.failed
    assert "little is left" in dear.text
    assert "the budget 'daily' of subject user:ana per 86400 s is used up: 0.04 USD of 0.05 USD are spent" in third.text
    assert "group:finance can raise it" in third.text
    assert (own["spent"]["usd"], own["limits"], own["warns"]) == (0.04, {"usd": 0.05}, True)
    assert everybodys == [own]
    told = refused.json()["result"]["_meta"]["io.modelcontextprotocol/authorization"]
    assert (told["reason"], 1 <= told["retry_after_s"] <= 86_400) == ("quota_exceeded", True)
    assert shown[0] == 0
    assert "usd: 0.04 of 0.05" in shown[1]
    assert "usd: 0 of 0.05" in reset[1] or "usd: 0.0 of 0.05" in reset[1]
    assert not again.failed
    assert missing[0] != 0
    assert "there is no such budget" in missing[1]
    log = world.place.log.read_text()
    assert "the budget 'daily' of subject user:ana per 86400 s is used to 80 %" in log


async def test_a_gateway_that_is_killed_in_a_call_leaks_nothing_for_longer_than_the_lease(world: World) -> None:
    """The reservation of the dead is free again within its lease, and another gateway sees it until then."""

    async def hang() -> None:
        with suppress(Exception, BaseExceptionGroup):  # it is torn off
            async with world.place.caller(world.ana) as ana:
                await ana.call("one__slow", {})

    async def holding() -> list[Json]:
        return [each for each in await budgets(world, world.ana) if each["held"]["calls"]]

    async def nothing() -> bool:
        return not await holding()

    with as_process(world.place) as process:
        async with anyio.create_task_group() as group:
            group.start_soon(hang)
            (before,) = await eventually(holding)
            os.kill(process.pid, signal.SIGKILL)
    with as_process(world.place):
        assert await holding()
        await eventually(nothing, within_s=LEASE_MS / 1_000 + 5)
        (after,) = await budgets(world, world.ana)

    assert before["held"]["calls"] == 1
    assert after["spent"]["calls"] == 0
