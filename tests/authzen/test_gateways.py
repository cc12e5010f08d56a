"""One gateway decides for another: AuthZEN on both sides, over real sockets, up to a real MCP server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from conformance.gateway import Plan, Table
from tests.authzen.world import Place as DecisionPoint
from tests.authzen.world import served
from tests.e2e.caller import Caller
from tests.e2e.place import in_process, new_key, prepare
from tests.servers.launch import http_server

pytestmark = pytest.mark.slow

RULES: Final = """
allow if {
	input.subject.id == "user:ana"
	input.action.name in {"mcp.tools.call", "mcp.tools.list", "mcp.initialize", "mcp.discover"}
}

deny contains {"code": "not_that", "message": "not that text", "public": true} if {
	input.resource.properties.arguments.text == "secret"
}

deny contains {"code": "no_flood", "message": "no floods", "public": true} if input.resource.id == "one/flood"

hold contains {"approvers": "group:finance", "title": "t"} if input.resource.properties.arguments.text == "pay"

obligation contains {"type": "redact", "properties": {"patterns": ["secret"]}} if {
	input.action.name == "mcp.tools.call"
}
"""


@dataclass(frozen=True, slots=True)
class Both:
    """A caller of gateway A, whose questions B answers."""

    ana: Caller
    other: Caller
    b: DecisionPoint


@asynccontextmanager
async def two_gateways(directory: Path, monkeypatch: pytest.MonkeyPatch, key: str = "pep-key") -> AsyncIterator[Both]:
    """B decides by `RULES`; A knows no rules and one server."""
    monkeypatch.setenv("B_KEY", key)
    with http_server("counting", directory) as upstream:
        b = DecisionPoint(RULES)
        async with served(b) as url:
            policy: Table = {"engine": "authzen", "url": url, "token": "env:B_KEY", "timeout_ms": 5_000}
            place = prepare(directory, Plan({"one": {"url": upstream.url}}, {"policy": policy}))
            ana, cy = await new_key(place, "ana"), await new_key(place, "cy")
            async with in_process(place), place.caller(ana) as first, place.caller(cy) as second:
                yield Both(first, second, b)


async def test_other_gateway_decides_on_arguments_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_gateways(tmp_path, monkeypatch) as both:
        allowed = await both.ana.call("one__echo", {"text": "hello"})
        denied = await both.ana.call("one__echo", {"text": "secret"})
        stranger = await both.other.call("one__echo", {"text": "hello"})

    assert allowed.text == "hello"
    assert denied.failed
    assert "rules.team, not_that" in denied.text or "not that text" in denied.text
    assert stranger.failed
    asked = [record for record in both.b.trail.records if record.call.action == "authzen.evaluate"]
    assert {record.call.resource.id for record in asked} >= {"tool:one/echo"}
    assert {record.identity.subject.id for record in asked if record.identity} == {"agent:pep"}


async def test_obligation_of_the_other_gateway_is_carried_out_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "ghp_" + "a1B2" * 9
    async with two_gateways(tmp_path, monkeypatch) as both:
        told = await both.ana.call("one__echo", {"text": f"it is {token}"})

    assert not told.failed
    assert token not in told.text


async def test_hold_of_the_other_gateway_holds_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_gateways(tmp_path, monkeypatch) as both:
        held = await both.ana.call("one__echo", {"text": "pay"})

    assert held.failed
    assert "held" in held.text or "agree" in held.text


async def test_list_shows_what_the_other_gateway_permits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_gateways(tmp_path, monkeypatch) as both:
        shown = await both.ana.tools()
        nothing = await both.other.ask("tools/list")

    assert shown == {"one__echo"}
    assert nothing.failed or nothing.names() == set()


@pytest.mark.parametrize("key", ["wrong", "ana-key"])
async def test_gateway_that_may_not_ask_permits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    async with two_gateways(tmp_path, monkeypatch, key) as both:
        told = await both.ana.call("one__echo", {"text": "hello"})
        listed = await both.ana.ask("tools/list")

    assert told.failed
    assert "pdp_unavailable" in told.text
    assert listed.failed
