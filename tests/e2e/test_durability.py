"""What was acknowledged is on record whatever happens; what cannot be recorded is refused."""

from __future__ import annotations

import json
import os
import random
import resource
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import httpx2
import pytest
from anyio import to_thread

from conformance.gateway import ROOT, Plan
from gateway.audit.reader import Filter, Tail
from gateway.audit.verify import verify_log
from tests.e2e.caller import Caller
from tests.e2e.eventually import eventually
from tests.e2e.place import ALLOW_ALL, Place, as_process, new_key, prepare, rules
from tests.servers.launch import http_server, stdio_server

pytestmark = pytest.mark.slow

DURABLE = f"""{ALLOW_ALL}

obligation contains {{"type": "audit", "properties": {{"durable": true}}}} if input.action.name == "mcp.tools.call"
"""


def traces(place: Path) -> set[str]:
    """The trace ids of the tool calls in the log whose intent is on record."""
    bodies = Tail(place / "audit", Filter(outcome="intent")).last(1_000_000)
    return {str(json.loads(body)["trace_id"]) for body in bodies}


async def ready(place: Place) -> int:
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
        return (await http.get(f"{place.url}/readyz")).status_code


@contextmanager
def no_room(pid: int) -> Iterator[None]:
    """Every file of that process is full while the block runs."""
    if not hasattr(resource, "prlimit"):
        pytest.skip("needs Linux: the limits of another process are changed with prlimit(2)")
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


async def test_full_disk_refuses_durable_calls_until_there_is_room_again(tmp_path: Path) -> None:
    with http_server("counting", tmp_path) as upstream:
        plan = Plan({"one": {"url": upstream.url}}, {"policy": rules(tmp_path, all=DURABLE)})
        place = prepare(tmp_path, plan)
        key = await new_key(place, "ana")
        with as_process(place) as process:
            async with place.caller(key) as ana:

                async def works() -> bool:
                    return not (await ana.call("one__echo", {"text": "x"})).failed

                before = await ana.call("one__echo", {"text": "x"})
                async with httpx2.AsyncClient(trust_env=False) as http:
                    await http.delete(upstream.url.replace("/mcp", "/count"))
                    with no_room(process.pid):
                        refused = [await ana.call("one__echo", {"text": "x"}) for _ in range(5)]
                        unready = await ready(place)
                        reached = (await http.get(upstream.url.replace("/mcp", "/count"))).json()["methods"]
                await eventually(works, within_s=30)
                ready_again = await ready(place)
            process.send_signal(signal.SIGTERM)
            await to_thread.run_sync(lambda: process.wait(30))

    report = verify_log(place.state / "audit")
    assert not before.failed
    assert [told.status for told in refused] == [503] * 5
    assert all(told.message["error"]["data"]["code"] == "audit_unavailable" for told in refused)
    assert all("audit" in told.text for told in refused)
    assert reached.get("tools/call", 0) == 0
    assert (unready, ready_again) == (503, 200)
    assert report.findings == []


def descendants(mark: str) -> list[int]:
    """Processes that were started with that mark in their environment."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to look for processes that were left behind")
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if _state(pid) not in {"", "Z"}]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


async def keep_calling(caller: Caller, acknowledged: set[str]) -> None:
    """Call until the gateway is gone, each call under a trace id of its own."""
    while True:
        trace = secrets.token_hex(16)
        try:
            told = await caller.call("one__echo", {"text": trace}, headers={"traceparent": f"00-{trace}-{'1' * 16}-01"})
        except (httpx2.HTTPError, OSError, ValueError, IndexError):
            return
        assert told.text == trace
        acknowledged.add(trace)


async def test_killed_gateway_leaves_no_process_and_loses_no_acknowledged_record(tmp_path: Path) -> None:
    command, _ = stdio_server("modern_asker", tmp_path)
    mark, moments = secrets.token_hex(8), random.Random(7)
    upstream = {"command": command, "cwd": str(ROOT), "env": {"E2E_MARK": mark}, "sandbox": "none"}
    place = prepare(tmp_path, Plan({"one": upstream}, {"policy": rules(tmp_path, all=DURABLE)}))
    key = await new_key(place, "ana")
    acknowledged: set[str] = set()
    alive, left, findings = [], [], []

    for _ in range(5):
        with as_process(place, env={"E2E_GATEWAY": mark}) as process:
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(call_with, place, key, acknowledged)
                await eventually(partial(enough, acknowledged, len(acknowledged) + moments.randrange(20, 400)))
                alive.append(len(descendants(mark)))
                os.kill(process.pid, signal.SIGKILL)

        async def none_left() -> bool:
            return not descendants(mark)

        await eventually(none_left, within_s=20)
        left += descendants(mark)
        findings += verify_log(place.state / "audit").findings

    assert min(alive) >= 2  # the gateway, and its upstream
    assert left == []
    assert findings == []
    assert len(acknowledged) > 100
    assert acknowledged - traces(place.state) == set()


async def enough(acknowledged: set[str], count: int) -> bool:
    return len(acknowledged) >= count


async def call_with(place: Place, key: str, acknowledged: set[str]) -> None:
    async with place.caller(key) as caller:
        await keep_calling(caller, acknowledged)
