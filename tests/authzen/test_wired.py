"""Two whole gateways: one decides for the other, and answers anybody else who may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conformance.gateway import Plan
from tests.authzen.world import MAY_ASK
from tests.e2e.caller import Caller
from tests.e2e.place import Place, in_process, new_key, prepare, rules
from tests.servers.launch import http_server

pytestmark = pytest.mark.slow

RULES = f"""{MAY_ASK}
allow if {{
	input.subject.id == "user:ana"
	input.action.name in {{"mcp.tools.call", "mcp.tools.list"}}
}}

deny contains {{"code": "not_that", "message": "not that text", "public": true}} if {{
	input.resource.properties.arguments.text == "secret"
}}
"""


@dataclass(frozen=True, slots=True)
class Both:
    """The one that decides, a key that may ask it, and a caller of the other."""

    b: Place
    pep: str
    cy: str
    ana: Caller

    async def ask(self, key: str, text: str) -> httpx2.Response:
        """May Ana echo that?"""
        question: dict[str, Any] = {
            "subject": {"type": "user", "id": "user:ana"},
            "action": {"name": "mcp.tools.call"},
            "resource": {"type": "tool", "id": "one/echo", "properties": {"arguments": {"text": text}}},
        }
        async with httpx2.AsyncClient(trust_env=False, headers={"authorization": f"Bearer {key or 'none'}"}) as http:
            return await http.post(f"{self.b.url}/access/v1/evaluation", json=question)


@asynccontextmanager
async def both_up(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Both]:
    a_dir, b_dir = directory / "a", directory / "b"
    a_dir.mkdir()
    b_dir.mkdir()
    with http_server("counting", directory) as upstream:
        servers: dict[str, Any] = {"one": {"url": upstream.url}}
        b = prepare(b_dir, Plan(servers, {"policy": rules(b_dir, team=RULES)}))
        pep, cy = await new_key(b, "gateway-a", "pep", kind="agent"), await new_key(b, "cy")
        monkeypatch.setenv("B_KEY", pep)
        async with in_process(b):
            policy = {"engine": "authzen", "url": b.url, "token": "env:B_KEY", "timeout_ms": 5_000}
            a = prepare(a_dir, Plan(servers, {"policy": policy}))
            ana = await new_key(a, "ana")
            async with in_process(a), a.caller(ana) as caller:
                yield Both(b, pep, cy, caller)


async def test_one_gateway_decides_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with both_up(tmp_path, monkeypatch) as both:
        allowed = await both.ana.call("one__echo", {"text": "hello"})
        denied = await both.ana.call("one__echo", {"text": "secret"})
        shown = await both.ana.tools()

    assert allowed.text == "hello"
    assert denied.failed
    assert "not that text" in denied.text
    assert shown == {"one__echo", "one__flood"}


async def test_whoever_may_ask_gets_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with both_up(tmp_path, monkeypatch) as both:
        allowed, denied = await both.ask(both.pep, "hello"), await both.ask(both.pep, "secret")
        may_not, nobody = await both.ask(both.cy, "hello"), await both.ask("", "hello")

    assert (allowed.json()["decision"], denied.json()["decision"]) == (True, False)
    assert (may_not.status_code, nobody.status_code) == (403, 401)
