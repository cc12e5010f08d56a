"""Upstreams that fail harm only their own calls, and say so; a gateway that is told to stop finishes its calls."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from conformance.gateway import Plan, Table
from tests.conformance.talking import Json
from tests.e2e.caller import Caller, Told
from tests.e2e.eventually import eventually
from tests.e2e.place import ALLOW_ALL, as_process, in_process, new_key, on_the_host, prepare, rules
from tests.servers.launch import http_server, noted, stdio_server

FAULTS = {
    "die": "upstream_unavailable",
    "cut": "upstream_",
    "hang": "upstream_timeout",
    "garbage": "upstream_",
    "huge": "upstream_protocol_error",
    "deep": "upstream_",
    "no_result": "upstream_protocol_error",
}


QUICK = {("die", "http"), ("die", "stdio"), ("garbage", "http")}
CASES = [
    pytest.param(fault, transport, marks=[] if (fault, transport) in QUICK else [pytest.mark.slow])
    for fault in FAULTS
    for transport in ("http", "stdio")
]


@pytest.mark.parametrize(("fault", "transport"), CASES)
async def test_failing_upstream_fails_only_the_call_that_it_failed(tmp_path: Path, transport: str, fault: str) -> None:
    command, _ = stdio_server("faulty", tmp_path)
    with http_server("faulty", tmp_path) as bad, http_server("counting", tmp_path) as good:
        reach: Table = {"url": bad.url} if transport == "http" else on_the_host(command)
        # A large answer takes its time on a busy machine, and is to be refused for its size.
        timeout_s = 8.0 if fault == "huge" else 1.5
        upstreams: dict[str, Table] = {"bad": {**reach, "timeout_s": timeout_s}, "good": {"url": good.url}}
        place = prepare(tmp_path, Plan(upstreams, {"policy": rules(tmp_path, all=ALLOW_ALL)}))
        key = await new_key(place, "ana")
        told: list[Told] = []

        async def fail(caller: Caller) -> None:
            told.append(await caller.call(f"bad__{fault}"))

        async with in_process(place), place.caller(key) as ana, anyio.create_task_group() as group:
            before = await ana.tools()
            group.start_soon(fail, ana)
            others = [await ana.call("good__echo", {"text": "fine"}) for _ in range(20)]
            with anyio.fail_after(20):
                while not told:
                    others.append(await ana.call("good__echo", {"text": "fine"}))
            after = await ana.tools()

            async def back() -> bool:
                return not (await ana.call("bad__fine")).failed

            if not (transport == "http" and fault == "die"):
                await eventually(back, within_s=20)

    assert told[0].failed
    assert FAULTS[fault] in told[0].text
    assert "Traceback" not in told[0].text
    assert all(one.text == "fine" for one in others)
    assert before == after


@pytest.mark.slow
async def test_gateway_that_is_told_to_stop_finishes_the_calls_under_way(tmp_path: Path) -> None:
    with http_server("modern_asker", tmp_path) as upstream:
        place = prepare(tmp_path, Plan({"one": {"url": upstream.url}}, {"policy": rules(tmp_path, all=ALLOW_ALL)}))
        key = await new_key(place, "ana")
        told: list[Told] = []

        async def slowly(caller: Caller) -> None:
            told.append(await caller.call("one__slow", {"seconds": 2}))

        with as_process(place) as process:
            async with place.caller(key) as ana:
                async with anyio.create_task_group() as group:
                    group.start_soon(slowly, ana)
                    await noted(upstream.record, "called", after=0)
                    process.send_signal(signal.SIGTERM)
                code = await to_thread.run_sync(lambda: process.wait(30))

    assert code == 0
    assert not told[0].failed


@pytest.mark.slow
async def test_gateway_that_is_told_to_stop_ends_open_streams_in_good_order(tmp_path: Path) -> None:
    place = prepare(tmp_path, Plan({}, {"policy": rules(tmp_path, all=ALLOW_ALL)}))
    key = await new_key(place, "ana")
    heard: list[Json] = []

    async def ended() -> bool:
        return "result" in heard[-1]

    with as_process(place) as process:
        async with place.caller(key) as ana, ana.listening(heard):
            process.send_signal(signal.SIGTERM)
            await eventually(ended, within_s=5)
        code = await to_thread.run_sync(lambda: process.wait(5))

    assert code == 0
    assert heard[0]["method"] == "notifications/subscriptions/acknowledged"
