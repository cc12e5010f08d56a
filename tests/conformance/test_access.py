"""Who may use a session or a token, through a gateway that asks for credentials."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest

from conformance.gateway import ROOT
from tests.conformance.talking import World, answer, call, post, request, said, world


@dataclass(frozen=True, slots=True)
class Closed:
    """A gateway with two keys."""

    world: World
    ana: str
    bo: str


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    place = tmp_path_factory.mktemp("closed")

    def key(name: str) -> str:
        arguments = ["keys", "create", "--data", str(place / "state"), "--subject", f"user:{name}", "--json"]
        command = [sys.executable, "-m", "gateway", *arguments]
        made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        return str(json.loads(made.stdout)["key"])

    ana, bo = key("ana"), key("bo")
    with world(place, anonymous=False) as running:
        yield Closed(running, f"Bearer {ana}", f"Bearer {bo}")


@pytest.mark.requirement("mcp:2026-07-28:auth-401", "mcp:2026-07-28:auth-metadata")
@pytest.mark.parametrize("authorization", ["", "Bearer made-up", "Basic dXNlcjpwYXNz"])
def test_missing_or_invalid_credential_is_challenged_with_the_metadata(closed: Closed, authorization: str) -> None:
    headers = {"authorization": authorization} if authorization else {}

    response = post(closed.world.url("modern"), request("tools/list"), **headers)
    challenge = response.headers["www-authenticate"]
    address = challenge.split('resource_metadata="')[1].split('"')[0]
    metadata = httpx2.get(address, timeout=20).json()

    assert response.status_code == 401
    assert challenge.startswith("Bearer ")
    assert metadata["resource"]


@pytest.mark.requirement("mcp:2026-07-28:auth-no-passthrough")
@pytest.mark.parametrize("upstream", ["legacy", "modern"])
def test_credential_never_reaches_the_upstream(closed: Closed, upstream: str) -> None:
    seen = said(answer(post(closed.world.url(upstream), call("whoami"), authorization=closed.ana)))

    assert "authorization" not in json.loads(seen)["headers"]
    assert closed.ana.removeprefix("Bearer ") not in seen


@pytest.mark.requirement("mcp:2025-11-25:session-bound")
def test_session_serves_only_who_began_it(closed: Closed) -> None:
    info = {"name": "test", "version": "1"}
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
    begin = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    headers = {"accept": "application/json, text/event-stream"}
    url = closed.world.url("legacy")
    begun = httpx2.post(url, json=begin, headers={**headers, "authorization": closed.ana}, timeout=20)
    stolen = {**headers, "authorization": closed.bo, "mcp-session-id": begun.headers["mcp-session-id"]}

    response = httpx2.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, headers=stolen, timeout=20)

    assert response.status_code == 404
