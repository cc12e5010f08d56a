"""Two gateways on one PostgreSQL are one gateway to their clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from anyio import to_thread

from conformance.gateway import Plan, Table
from gateway.cli.bootstrap import opened
from gateway.ports import ApiKey
from tests.conformance.talking import LEGACY
from tests.contracts.postgres import cluster, create_database, start, stop
from tests.e2e.eventually import eventually
from tests.e2e.place import ALLOW_ALL, Place, in_process, new_key, prepare, rules
from tests.servers.launch import http_server

pytestmark = pytest.mark.slow

ACCEPT = "application/json, text/event-stream"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Path]:
    pytest.importorskip("asyncpg", reason="asyncpg is not installed: pip install 'interlock-gateway[postgres]'")
    with cluster() as home:
        yield home


@dataclass(frozen=True, slots=True)
class Pair:
    """Two gateways that share a database."""

    one: Place
    two: Place
    key: str


@asynccontextmanager
async def pair(directory: Path, home: Path, database: str) -> AsyncIterator[Pair]:
    url = create_database(home, database).replace("postgresql://", "postgresql+asyncpg://")
    with http_server("counting", directory) as upstream:
        places = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            state: Table = {"url": url}
            tables = {"policy": rules(directory / name, all=ALLOW_ALL), "state": state}
            places.append(prepare(directory / name, Plan({"up": {"url": upstream.url}}, tables)))
        one, two = places
        key = await new_key(one, "ana")
        async with in_process(one), in_process(two):
            yield Pair(one, two, key)


async def keys_of(place: Place) -> list[ApiKey]:
    async with opened(place.settings()) as store:
        return list(await store.keys())


async def status(place: Place, key: str) -> int:
    async with place.caller(key) as caller:
        return (await caller.call("up__echo", {"text": "x"})).status


async def test_key_that_is_revoked_is_refused_by_both(tmp_path: Path, postgres: Path) -> None:
    async with pair(tmp_path, postgres, "revoked") as both:
        before = [await status(both.one, both.key), await status(both.two, both.key)]
        (kept,) = await keys_of(both.one)
        async with opened(both.one.settings()) as store:
            await store.revoke_key(kept.id, kept.created_s)

        async def refused() -> bool:
            return [await status(both.one, both.key), await status(both.two, both.key)] == [401, 401]

        await eventually(refused, within_s=5)

    assert before == [200, 200]


async def test_legacy_session_begun_at_one_is_served_by_the_other(tmp_path: Path, postgres: Path) -> None:
    info = {"name": "test", "version": "1"}
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": info}
    begin = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "up__echo", "arguments": {"text": "hi"}},
    }
    async with pair(tmp_path, postgres, "sessions") as both:
        headers = {"authorization": f"Bearer {both.key}", "accept": ACCEPT}
        async with httpx2.AsyncClient(headers=headers, trust_env=False, timeout=20) as http:
            begun = await http.post(both.one.endpoint(), json=begin)
            session = {"mcp-session-id": begun.headers["mcp-session-id"], "mcp-protocol-version": LEGACY}
            told = await http.post(both.two.endpoint(), json=call, headers=session)

    assert begun.status_code == 200
    assert told.status_code == 200
    assert '"text":"hi"' in told.text.replace(" ", "")


async def test_lost_database_stops_no_call_and_is_followed_again_later(tmp_path: Path, postgres: Path) -> None:
    async with pair(tmp_path, postgres, "lost") as both:
        await to_thread.run_sync(stop, postgres)
        while_lost = [await status(both.one, both.key) for _ in range(20)]
        await to_thread.run_sync(start, postgres)
        other = await new_key(both.one, "bo")

        async def let_in() -> bool:
            return [await status(both.one, other), await status(both.two, other)] == [200, 200]

        await eventually(let_in, within_s=20)

    assert while_lost == [200] * 20
