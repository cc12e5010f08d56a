"""Calls that wait for their client's answer: whose they are, how long, how many, and what becomes of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from gateway.errors import InvalidCall, QuotaExceeded, UpstreamUnavailable
from gateway.types import Era
from tests.fakes import FakeRelay
from tests.servers.launch import Started, http_server, noted
from tests.servers.wire import read_journal
from tests.upstreams.harness import Running, at, payload, process_of, resumed, running, text_of, tool_call

ASKABLE: dict[str, object] = {"elicitation": {"form": {}}}
NAME = {"action": "accept", "content": {"name": "Ana"}}


def client(owner: str = "client") -> FakeRelay:
    return FakeRelay(owner, era=Era.MODERN, capabilities=ASKABLE)


@pytest.fixture(params=["http", "stdio"])
async def legacy(request: pytest.FixtureRequest, legacy_site: Started, tmp_path: Path) -> AsyncIterator[Running]:
    make = at(legacy_site.url) if request.param == "http" else process_of("legacy_asker", tmp_path)[0]
    async with running(make, max_parked=2) as up:
        yield up


async def test_nobody_else_can_take_up_a_call(legacy: Running) -> None:
    call = tool_call("ask_user")
    asked = await legacy.execute(call, client("ana"))

    with pytest.raises(InvalidCall, match="is over"):
        await legacy.execute(resumed(call, asked, elicitation=NAME), client("eve"))
    result = await legacy.execute(resumed(call, asked, elicitation=NAME), client("ana"))

    assert json.loads(text_of(result))["content"] == {"name": "Ana"}


async def test_call_cannot_be_taken_up_as_another(legacy: Running) -> None:
    asked = await legacy.execute(tool_call("ask_user", {"for": "this"}), client())

    with pytest.raises(InvalidCall):
        await legacy.execute(resumed(tool_call("ask_user", {"for": "that"}), asked, elicitation=NAME), client())


async def test_answer_counts_once(legacy: Running) -> None:
    call = tool_call("ask_user")
    asked = await legacy.execute(call, client())
    await legacy.execute(resumed(call, asked, elicitation=NAME), client())

    with pytest.raises(InvalidCall):
        await legacy.execute(resumed(call, asked, elicitation=NAME), client())


async def test_answer_to_something_else_asks_again(legacy: Running) -> None:
    relay, call = client(), tool_call("ask_user")
    asked = await legacy.execute(call, relay)

    again = await legacy.execute(resumed(call, asked, nonsense=NAME), relay)
    result = await legacy.execute(resumed(call, again, elicitation=NAME), relay)

    assert payload(again)["inputRequests"] == payload(asked)["inputRequests"]
    assert len(relay.asked) == 1
    assert result.outcome == "ok"


@pytest.mark.requirement("mcp:2026-07-28:bridge-parked-limits")
async def test_one_client_cannot_park_calls_without_end(legacy_site: Started) -> None:
    async with running(at(legacy_site.url), max_parked=2) as up:
        for _ in range(2):
            await up.execute(tool_call("ask_user"), client())
        with pytest.raises(QuotaExceeded, match="2 calls that wait"):
            await up.execute(tool_call("ask_user"), client())
        other = await up.execute(tool_call("ask_user"), client("other"))

    assert other.outcome == "input_required"


async def test_second_call_of_one_client_gets_a_process_of_its_own_while_the_first_waits(tmp_path: Path) -> None:
    make, _ = process_of("legacy_asker", tmp_path)
    calls = [tool_call("ask_user"), tool_call("ask_user")]

    async with running(make) as up:
        asked = [await up.execute(call, client()) for call in calls]
        results = [
            await up.execute(resumed(call, first, elicitation=NAME), client())
            for call, first in zip(calls, asked, strict=True)
        ]
        processes = up.stdio.processes

    assert [result.outcome for result in results] == ["ok", "ok"]
    assert processes == 3


async def test_question_that_could_belong_to_either_call_of_one_client_is_refused(tmp_path: Path) -> None:
    make, _ = process_of("legacy_asker", tmp_path, max_processes=2)

    async with running(make) as up:
        first = await up.execute(tool_call("ask_user"), client())
        second = await up.execute(tool_call("ask_user"), client())

    assert first.outcome == "input_required"
    assert "no request in flight that this one could belong to" in payload(second)["message"]


async def test_parked_calls_leave_connections_for_others(legacy_site: Started) -> None:
    async with running(at(legacy_site.url, max_connections=6), max_parked=100) as up:
        for number in range(3):
            await up.execute(tool_call("ask_user"), client(f"client-{number}"))
        with pytest.raises(QuotaExceeded, match="3 calls wait"):
            await up.execute(tool_call("ask_user"), client("one-too-many"))
        fine = await up.call("echo", FakeRelay("one-too-many"), text="fine")

    assert text_of(fine) == "fine"


@pytest.mark.requirement("mcp:2026-07-28:bridge-parked-limits")
async def test_call_that_is_not_taken_up_in_time_is_cancelled(tmp_path: Path) -> None:
    make, record = process_of("legacy_asker", tmp_path)
    call = tool_call("ask_user")

    async with running(make, parked_ttl_s=0.0) as up:
        asked = await up.execute(call, client())
        with pytest.raises(InvalidCall):
            await up.execute(resumed(call, asked, elicitation=NAME), client())
        entry = await noted(record, "cancelled")

    assert entry["name"] == "ask_user"


async def test_process_that_dies_while_a_call_waits_is_named(tmp_path: Path) -> None:
    make, record = process_of("legacy_asker", tmp_path)
    call = tool_call("ask_user")

    async with running(make) as up:
        asked = await up.execute(call, client())
        pid = next(entry["pid"] for entry in read_journal(record) if entry.get("name") == "ask_user")
        link = next(iter(up.stdio._own.values()))[0]
        os.kill(int(str(pid)), signal.SIGKILL)
        with anyio.fail_after(10):
            await link.ended.wait()
        with pytest.raises(UpstreamUnavailable, match="exited with status 137"):
            await up.execute(resumed(call, asked, elicitation=NAME), client())
        again = await up.execute(tool_call("ask_user"), client())

    assert again.outcome == "input_required"


async def test_site_that_dies_while_a_call_waits_is_an_error_for_that_call(tmp_path: Path) -> None:
    call = tool_call("ask_user")

    with http_server("legacy_asker", tmp_path) as server:
        async with running(at(server.url)) as up:
            asked = await up.execute(call, client())
            server.process.kill()
            server.process.wait()
            with pytest.raises(UpstreamUnavailable):
                await up.execute(resumed(call, asked, elicitation=NAME), client())


async def test_no_parked_call_survives_the_upstream(tmp_path: Path) -> None:
    make, _ = process_of("legacy_asker", tmp_path)

    async with running(make) as up:
        await up.execute(tool_call("ask_user"), client())
        links = up.stdio._links()

    assert len(links) == 2
    assert all(link.ended.is_set() for link in links)
    assert up.stdio.processes == 0
