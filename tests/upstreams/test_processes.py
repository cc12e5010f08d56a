"""Processes are started, rested, woken, restarted and ended; none is ever left behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import anyio
import pytest

from adapters.upstreams.mcp import stdio
from conformance.gateway import ROOT
from gateway.errors import UpstreamUnavailable
from gateway.types import Era
from tests.fakes import FakeRelay
from tests.servers.launch import noted, stdio_server
from tests.servers.wire import read_journal
from tests.upstreams.harness import at, by, process_of, resource_call, running, text_of
from tests.wire.processes import all_ended, watched

ASKABLE: dict[str, object] = {"elicitation": {"form": {}}}


def pids_in(record: Path) -> list[int]:
    return sorted({int(str(entry["pid"])) for entry in read_journal(record)})


@pytest.mark.parametrize("name", ["legacy_asker", "modern_asker"])
async def test_idle_process_is_stopped_and_woken_by_a_call(name: str, tmp_path: Path) -> None:
    now = [0.0]
    make, _ = process_of(name, tmp_path, idle_s=10, monotonic=lambda: now[0])

    async with running(make) as up:
        await up.stdio.tidy()
        still_there = up.stdio.processes
        now[0] += 11
        main = up.stdio._main
        await up.stdio.tidy()
        assert main is not None
        with anyio.fail_after(10):
            await main.ended.wait()
        resting = (up.stdio.processes, up.stdio.resting, up.upstream.health.state)
        woken = await up.call("echo", text="good morning")
        await up.until(lambda: len(up.listings) == 2)

    assert still_there == 1
    assert resting == (0, True, "up")
    assert text_of(woken) == "good morning"
    assert up.stdio.starts == 2
    assert up.downs == []


async def test_subscription_keeps_a_process_awake(tmp_path: Path) -> None:
    now = [0.0]
    make, _ = process_of("legacy_asker", tmp_path, idle_s=10, monotonic=lambda: now[0])

    async with running(make) as up:
        await up.execute(resource_call("resources/subscribe", "note://one"))
        now[0] += 11
        await up.stdio.tidy()
        processes = up.stdio.processes

    assert processes == 1


async def test_subscription_wakes_a_resting_process(tmp_path: Path) -> None:
    now = [0.0]
    make, _ = process_of("legacy_asker", tmp_path, idle_s=10, monotonic=lambda: now[0])

    async with running(make) as up:
        now[0] += 11
        await up.stdio.tidy()
        await up.execute(resource_call("resources/subscribe", "note://one"))
        processes = up.stdio.processes

    assert processes == 1


async def test_own_process_of_a_client_is_stopped_when_idle_and_not_while_it_waits(tmp_path: Path) -> None:
    now = [0.0]
    make, _ = process_of("legacy_asker", tmp_path, idle_s=10, monotonic=lambda: now[0])
    relay = FakeRelay("waits", era=Era.MODERN, capabilities=ASKABLE)

    async with running(make) as up:
        await up.call("echo", FakeRelay("goes", capabilities=ASKABLE), text="x")
        await up.call("ask_user", relay)
        before = up.stdio.processes
        now[0] += 11
        up.stdio.keep_awake = True
        await up.stdio.tidy()
        after = up.stdio.processes

    assert (before, after) == (3, 2)


async def test_crash_fails_the_calls_in_flight_with_its_last_words_and_the_process_comes_back(tmp_path: Path) -> None:
    make, _ = process_of("faulty", tmp_path)

    async with running(make) as up:
        with pytest.raises(UpstreamUnavailable, match=r"exited with status 7; .*faulty: dying on purpose"):
            await up.call("die")
        await up.until(lambda: len(up.listings) == 2)
        fine = await up.call("fine")

    assert text_of(fine) == "fine"
    assert "exited with status 7" in up.downs[0]
    assert up.upstream.health.failures == 1
    assert "dying on purpose" in str(up.upstream.report()["stderr"])


async def test_process_that_crashes_again_and_again_is_started_ever_less_often(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no configuration')"]

    async with running(by(command)) as up:
        started = time.monotonic()
        await up.until(lambda: len(up.downs) == 3)
        took_s = time.monotonic() - started
        with pytest.raises(UpstreamUnavailable, match=r"is not connected: .*no configuration"):
            await up.call("echo")
        starts = up.stdio.starts

    assert took_s >= 0.25 + 0.5  # half of the doubled delays, as the random part is none here
    assert starts == 3


async def test_command_that_does_not_exist_is_named() -> None:
    async with running(by(["/no/such/program"])) as up:
        pass

    assert "/no/such/program" in up.downs[0]


@pytest.mark.parametrize("name", ["legacy_asker", "modern_asker"])
@pytest.mark.requirement("mcp:2026-07-28:stdio-shutdown")
async def test_no_process_is_left_when_the_upstream_ends(name: str, tmp_path: Path) -> None:
    make, record = process_of(name, tmp_path)

    async with running(make) as up:
        await up.call("ask_user", FakeRelay("a", era=Era.MODERN, capabilities=ASKABLE))
        await up.call("echo", FakeRelay("b", capabilities=ASKABLE, log_level="info"), text="x")
        pids = pids_in(record)
        context = watched(pids)
        descriptors = context.__enter__()
    with anyio.fail_after(10):
        await all_ended(descriptors)
    context.__exit__(None, None, None)

    assert len(pids) >= 2


STUBBORN = """
import json, os, sys, time
with open(sys.argv[1], "w") as journal:
    journal.write(json.dumps({"event": "up", "pid": os.getpid()}) + "\\n")
sys.stdin.read()
time.sleep(60)
"""


async def test_no_process_is_left_when_start_up_is_cancelled(tmp_path: Path) -> None:
    record = tmp_path / "journal"

    async with anyio.create_task_group() as group:

        async def run() -> None:
            async with running(by([sys.executable, "-c", STUBBORN, str(record)])):
                pass

        group.start_soon(run)
        entry = await noted(record, "up")
        with watched([int(str(entry["pid"]))]) as descriptors:
            group.cancel_scope.cancel()
            with anyio.fail_after(20, shield=True):
                await all_ended(descriptors)

    assert pids_in(record)


GATEWAY = """
import sys, anyio
sys.path.insert(0, {root!r})
from tests.upstreams.harness import by, running
from tests.fakes import FakeRelay

async def main():
    async with running(by({command!r})) as up:
        await up.call("echo", FakeRelay("a", capabilities={{"elicitation": {{}}}}), text="x")
        print("ready", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_no_process_is_left_when_the_gateway_is_killed(tmp_path: Path) -> None:
    command, record = stdio_server("legacy_asker", tmp_path)
    program = GATEWAY.format(root=str(ROOT), command=command)

    async with await anyio.open_process([sys.executable, "-c", program], cwd=ROOT, stderr=None) as gateway:
        assert gateway.stdout is not None
        with anyio.fail_after(30):
            await gateway.stdout.receive()
        pids = pids_in(record)
        with watched(pids) as descriptors:
            os.kill(gateway.pid, signal.SIGKILL)
            with anyio.fail_after(20):
                await all_ended(descriptors)

    assert len(pids) == 2


async def test_ten_upstreams_connect_at_once_and_a_dead_one_delays_nobody(tmp_path: Path) -> None:
    silent = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    places = [tmp_path / str(number) for number in range(9)]
    for place in places:
        place.mkdir()
    makes = [process_of("legacy_asker", place)[0] for place in places]

    async with anyio.create_task_group() as group:
        connected: list[str] = []

        async def one(number: int) -> None:
            async with running(makes[number], name=f"up-{number}") as up:
                connected.append(text_of(await up.call("echo", text=str(number))))

        async def dead() -> None:
            async with running(by(silent)):
                pass

        group.start_soon(dead)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as living:
                for number in range(9):
                    living.start_soon(one, number)
        group.cancel_scope.cancel()

    assert sorted(connected) == [str(number) for number in range(9)]


SILENT_LEGACY = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "initialize":
        result = {"protocolVersion": "2024-11-05", "capabilities": {}, "serverInfo": {"name": "old", "version": "1"}}
    elif message.get("method") == "tools/call":
        result = {"content": [{"type": "text", "text": json.dumps(message["params"])}]}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


@pytest.mark.requirement("mcp:2026-07-28:stdio-probe")
async def test_old_server_that_is_silent_about_what_it_does_not_know_is_legacy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "PROBE_S", 0.3)

    async with running(by([sys.executable, "-c", SILENT_LEGACY])) as up:
        result = await up.call("any", text="x")

    assert up.listings[0].protocol_version == "2024-11-05"
    assert json.loads(text_of(result)) == {"name": "any", "arguments": {"text": "x"}}


LATE_MODERN = """
import json, sys, time
time.sleep(0.6)
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "server/discover":
        answer = {"result": {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {}}}
    elif "id" in message:
        answer = {"error": {"code": -32601, "message": "Method not found"}}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
"""


async def test_modern_server_that_was_slow_to_start_is_still_modern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "PROBE_S", 0.3)

    async with running(by([sys.executable, "-c", LATE_MODERN])) as up:
        pass

    assert up.upstream.health.era == "modern"


CHANGING = """
import os, sys
era = open(sys.argv[1]).read().strip()
os.execv(sys.executable, [sys.executable, "-m", f"tests.servers.{era}_asker", "stdio", "--record", sys.argv[2]])
"""


@pytest.mark.parametrize(("before", "after"), [("legacy", "modern"), ("modern", "legacy")])
async def test_server_that_comes_back_in_another_era_is_probed_again(before: str, after: str, tmp_path: Path) -> None:
    era, record = tmp_path / "era", tmp_path / "journal"
    era.write_text(before)

    async with running(by([sys.executable, "-c", CHANGING, str(era), str(record)])) as up:
        first = up.upstream.health.era
        era.write_text(after)
        with pytest.raises(UpstreamUnavailable):
            await up.call("exit")
        await up.until(lambda: len(up.listings) == 2)
        result = await up.call("echo", text="x")

    assert (first, up.upstream.health.era) == (before, after)
    assert text_of(result) == "x"


async def test_version_of_neither_era_is_named(tmp_path: Path) -> None:
    program = SILENT_LEGACY.replace("2024-11-05", "2099-01-01").replace('"initialize"', '"initialize"')

    async with running(by([sys.executable, "-c", program], era=Era.LEGACY)) as up:
        pass

    assert "answered initialize with a version that we do not speak" in up.downs[0]


async def test_log_messages_of_one_client_do_not_reach_another(tmp_path: Path) -> None:
    make, record = process_of("legacy_asker", tmp_path)
    loud, quiet = FakeRelay("loud", log_level="debug"), FakeRelay("quiet")

    async with running(make) as up, anyio.create_task_group() as group:
        group.start_soon(up.call, "slow", quiet)
        await noted(record, "waiting")
        await up.call("log", loud)
        group.cancel_scope.cancel()

    assert len(loud.notified) == 8
    assert quiet.notified == []


async def test_nothing_listens_at_a_dead_address() -> None:
    async with running(at("http://127.0.0.1:9/mcp")) as up:
        await up.until(lambda: len(up.downs) == 2)

    assert up.upstream.health.connects == 0
