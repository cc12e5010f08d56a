"""Agents that are killed, slow or changed, and gateways that are killed: nobody else is harmed, and all is said."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from conformance.processes import free_port
from tests.bench import meters
from tests.conformance.talking import Json
from tests.e2e.counting_agent import (
    AGENT,
    Talker,
    counted,
    counter,
    place_of,
    said,
    state_in,
    talking,
    task_id_in,
    until_many,
)
from tests.e2e.place import as_process, in_process, new_key
from tests.e2e.proxy import line_to
from tests.servers.agent import card_of

pytestmark = pytest.mark.slow

QUICK_S = 3.0
"""Longer than any call takes that nothing holds up, on a busy machine too."""
MANY = 10_000


async def test_stream_of_an_agent_that_was_killed_goes_on_when_it_is_back(tmp_path: Path) -> None:
    told: list[Json] = []
    with counter(tmp_path) as spare, counter(tmp_path) as agent:
        async with line_to(agent.port) as line:
            agent.show(card_of(line.port))
            place = place_of(tmp_path, line.port)
            key = await new_key(place, "ana")
            async with in_process(place), talking(place, key) as ana, anyio.create_task_group() as group:
                await ana.ready()
                group.start_soon(ana.followed, "stream 60 50", told)
                await until_many(told, 10)
                line.to = spare.port
                agent.process.kill()

    assert counted(told) == list(range(60))
    assert state_in(told[-1]) == "TASK_STATE_COMPLETED"


async def test_stream_of_an_agent_that_is_gone_ends_with_what_to_do(tmp_path: Path) -> None:
    told: list[Json] = []
    with counter(tmp_path) as agent:
        place = place_of(tmp_path, agent.port)
        key = await new_key(place, "ana")
        with as_process(place):
            async with talking(place, key) as ana:
                await ana.ready()
                async with anyio.create_task_group() as group:
                    group.start_soon(ana.followed, "stream 1000 50", told)
                    await until_many(told, 10)
                    agent.process.kill()
                known = await ana.ask("ListTasks", {})

    last = told[-1]["error"]
    assert "GetTask" in last["message"]
    assert "Traceback" not in json.dumps(last)
    assert "error" in known or known["result"]["tasks"] == []


@pytest.mark.parametrize("fault", ["drip", "silence"])
async def test_agent_that_dribbles_fails_its_own_calls_in_time_and_no_others(tmp_path: Path, fault: str) -> None:
    slow: list[Json] = []
    with counter(tmp_path) as agent:
        place = place_of(tmp_path, agent.port, agent={"timeout_s": 2.0})
        key = await new_key(place, "ana")

        async def wait(ana: Talker) -> None:
            slow.append(await ana.ask("SendMessage", said(fault)))

        with as_process(place):
            async with talking(place, key) as ana, anyio.create_task_group() as streams:
                await ana.ready()
                for _ in range(20):
                    streams.start_soon(ana.followed, fault, [])
                async with anyio.create_task_group() as group:
                    for _ in range(20):
                        group.start_soon(wait, ana)
                    for _ in range(20):
                        with anyio.fail_after(QUICK_S):
                            assert await ana.works()
                streams.cancel_scope.cancel()

    assert len(slow) == 20
    assert all("error" in each for each in slow)
    assert all("time" in each["error"]["message"] for each in slow)


async def test_client_that_reads_nothing_holds_up_nobody_and_fills_no_memory(tmp_path: Path) -> None:
    with counter(tmp_path) as agent:
        place = place_of(tmp_path, agent.port)
        key = await new_key(place, "ana")
        with as_process(place) as process:
            async with talking(place, key) as ana:
                await ana.ready()
                before = meters.rss_mib(process.pid)
                stalled = [await _unread(place.port, key, "flood 100") for _ in range(8)]
                for _ in range(50):
                    with anyio.fail_after(QUICK_S):
                        assert await ana.works()
                told: list[Json] = []
                with anyio.fail_after(20):
                    await ana.followed("stream 200 0", told)
                grown = meters.rss_mib(process.pid) - before
                for each in stalled:
                    await each.aclose()

    assert counted(told) == list(range(200))
    assert grown < 8 * 10  # of the 100 MiB that each of them was sent


async def _unread(port: int, key: str, text: str) -> anyio.abc.SocketStream:
    """Ask for a stream, and read nothing of it."""
    stream = await anyio.connect_tcp("127.0.0.1", port)
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": said(text)}).encode()
    head = [
        f"POST /agents/{AGENT} HTTP/1.1",
        f"host: localhost:{port}",
        "a2a-version: 1.0",
        "content-type: application/json",
        f"authorization: Bearer {key}",
        f"content-length: {len(body)}",
    ]
    await stream.send("\r\n".join([*head, "", ""]).encode() + body)
    return stream


async def test_ten_thousand_events_come_in_order(tmp_path: Path) -> None:
    told: list[Json] = []
    with counter(tmp_path) as agent:
        place = place_of(tmp_path, agent.port)
        key = await new_key(place, "ana")
        with as_process(place):
            async with talking(place, key) as ana:
                await ana.ready()
                with anyio.fail_after(60):
                    await ana.followed(f"stream {MANY} 0", told)

    assert [part["text"] for each in told[1:-1] for part in each["result"]["artifactUpdate"]["artifact"]["parts"]] == [
        str(number) for number in range(MANY)
    ]
    assert state_in(told[-1]) == "TASK_STATE_COMPLETED"


async def test_agent_that_is_down_at_the_start_is_served_when_it_comes(tmp_path: Path) -> None:
    port = free_port()
    place = place_of(tmp_path, port)
    key = await new_key(place, "ana")
    with as_process(place):
        async with talking(place, key) as ana:
            card, call = await ana.card(), await ana.ask("SendMessage", said("hello"))
            with counter(tmp_path, port=port):
                await ana.ready()
                later = await ana.card()

    assert card.status_code == 503
    assert AGENT in call["error"]["message"]
    assert later.status_code == 200


async def test_killed_gateway_knows_whose_tasks_are_whose_when_it_is_back(tmp_path: Path) -> None:
    told: list[Json] = []
    after: list[Json] = []
    with counter(tmp_path) as agent:
        place = place_of(tmp_path, agent.port)
        key, other = await new_key(place, "ana"), await new_key(place, "bo")
        with as_process(place) as process:
            async with talking(place, key) as ana:
                await ana.ready()
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(ana.followed, "stream 250 50", told)
                        await until_many(told, 5)
                        family = meters.tree(process.pid)
                        scope.cancel()
                os.kill(process.pid, signal.SIGKILL)
                await to_thread.run_sync(process.wait)
        left = [pid for pid in family if os.path.exists(f"/proc/{pid}")]  # noqa: ASYNC240  # not a disk
        task_id = task_id_in(told)
        with as_process(place):
            async with talking(place, key) as ana, talking(place, other) as bo:
                await ana.ready()
                mine = await ana.ask("GetTask", {"id": task_id})
                theirs = await bo.ask("GetTask", {"id": task_id})
                with anyio.fail_after(60):
                    async for event in ana.events("SubscribeToTask", {"id": task_id}):
                        after.append(event)

    assert not left
    assert mine["result"]["id"] == task_id
    assert theirs["error"]["code"] == -32001
    assert task_id_in(after) == task_id
    assert state_in(after[-1]) == "TASK_STATE_COMPLETED"


async def test_client_that_joins_a_stream_late_is_told_all_of_it(tmp_path: Path) -> None:
    told: list[Json] = []
    joined: list[Json] = []
    with counter(tmp_path) as agent:
        place = place_of(tmp_path, agent.port)
        key = await new_key(place, "ana")
        async with in_process(place), talking(place, key) as ana, anyio.create_task_group() as group:
            await ana.ready()
            group.start_soon(ana.followed, "stream 100 20", told)
            await until_many(told, 5)

            async def join() -> None:
                async for event in ana.events("SubscribeToTask", {"id": task_id_in(told)}):
                    joined.append(event)

            group.start_soon(join)

    assert counted(told) == list(range(100))
    known = [part["text"] for part in joined[0]["result"]["task"]["artifacts"][0]["parts"]]
    assert [*map(int, known), *counted(joined)] == list(range(100))
