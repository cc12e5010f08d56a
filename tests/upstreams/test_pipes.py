"""What can go wrong around one pipe that several calls share: a fault stays with the call it belongs to."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from gateway.errors import UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Era, Result
from tests.fakes import FakeRelay
from tests.servers.launch import noted
from tests.upstreams.harness import MakeServer, by, process_of, resource_call, running, text_of
from tests.upstreams.scripted import pace

ASKABLE: dict[str, object] = {"elicitation": {}, "roots": {}}

SERVER = """
import json, sys

def send(message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)

def text(value):
    return {"resultType": "complete", "content": [{"type": "text", "text": value}]}

DISCOVERED = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
INITIALIZED = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}, "logging": {}}}
REFUSED = {"error": {"code": -32601, "message": "Method not found"}}
listens = 0
asked = None

for line in sys.stdin:
    message = json.loads(line)
    method, number, params = message.get("method"), message.get("id"), message.get("params", {})
    behave = set(sys.argv[1:])
    if method == "server/discover":
        if "odd" in behave:
            send({"id": number, "result": "yes"})
        else:
            send({"id": number, **({"result": DISCOVERED} if "modern" in behave else REFUSED)})
    elif method == "initialize":
        send({"id": number, "result": INITIALIZED})
    elif method == "tools/list":
        send({"id": number, "result": {"tools": []}})
    elif method == "subscriptions/listen" and "listen" in behave:
        listens += 1
        meta = {"io.modelcontextprotocol/subscriptionId": number}
        send({"method": "notifications/subscriptions/acknowledged", "params": {"_meta": meta, "notifications": {}}})
        send({"method": "notifications/tools/list_changed", "params": {"_meta": {"unknown": 1}}})
        if listens == 1:
            send({"id": number, "result": {}})
    elif method == "tools/call":
        name = params["name"]
        if name == "ping":
            asked = number
            send({"id": "p", "method": "ping"})
        elif name == "log":
            for size in (1, 300_000):
                send({"method": "notifications/message", "params": {"level": "info", "data": "x" * size}})
            send({"id": number, "result": text("logged")})
        elif name == "text":
            send({"id": number, "result": "text"})
        elif name == "roots":
            asked = number
            send({"id": "q", "method": "roots/list"})
        elif name == "mute":
            pass
        else:
            send({"id": number, "result": text(str(listens))})
    elif method == "logging/setLevel":
        send({"id": number, "result": {}})
    elif method is None and asked is not None:
        send({"id": asked, "result": text(json.dumps(message))})
    elif number is not None:
        send({"id": number, **REFUSED})
"""


def server(*behave: str) -> MakeServer:
    return by([sys.executable, "-c", SERVER, *behave])


class BrokenRelay(FakeRelay):
    """A client's side with a fault of ours in it."""

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        raise RuntimeError("a fault in telling")

    async def ask(self, method: str, params: Mapping[str, object]) -> Result:
        raise RuntimeError("a fault in asking")


async def test_fault_in_asking_the_client_ends_that_call_alone() -> None:
    async with running(server()) as up:
        with pytest.raises(RuntimeError, match="a fault in asking"):
            await up.call("roots", BrokenRelay("broken", capabilities=ASKABLE))
        fine = await up.call("fine", FakeRelay("broken", capabilities=ASKABLE))
        starts = up.stdio.starts

    assert fine.outcome == "ok"
    assert starts == 2
    assert up.downs == []


async def test_fault_in_telling_the_client_ends_that_call_alone(tmp_path: Path) -> None:
    make, _ = process_of("legacy_asker", tmp_path)
    relay = BrokenRelay("broken", log_level="debug", wants_progress=True)

    async with running(make) as up:
        with pytest.raises(RuntimeError, match="a fault in telling"):
            await up.call("progress", relay)
        fine = await up.call("echo", text="fine")

    assert text_of(fine) == "fine"
    assert up.downs == []


async def test_ping_is_answered_in_any_call() -> None:
    async with running(server()) as up:
        said = text_of(await up.call("ping"))

    assert said == '{"jsonrpc": "2.0", "id": "p", "result": {}}'


async def test_log_message_beyond_all_measure_is_dropped() -> None:
    relay = FakeRelay(log_level="info")

    async with running(server()) as up:
        await up.call("log", relay)
        await up.call("log", relay)

    assert [len(str(params["data"])) for _, params in relay.notified] == [1, 1]


async def test_result_that_is_no_object_is_an_error() -> None:
    async with running(server()) as up:
        with pytest.raises(UpstreamProtocolError, match="not an object"):
            await up.call("text")


async def test_discovery_that_is_no_object_means_legacy() -> None:
    async with running(server("odd")) as up:
        pass

    assert up.upstream.health.era == "legacy"


async def test_process_of_the_wrong_era_is_named() -> None:
    async with running(by([sys.executable, "-c", SERVER], era=Era.MODERN)) as up:
        pass

    assert "does not speak MCP 2026-07-28" in up.downs[0]


async def test_modern_process_without_a_stream_refuses_subscriptions_and_is_watched_all_the_same(
    tmp_path: Path,
) -> None:
    async with running(server("modern")) as up:
        with pytest.raises(UpstreamProtocolError, match="offers no subscriptions"):
            await up.execute(resource_call("resources/subscribe", "note://one"))
        link = up.stdio._main
        assert link is not None
        link._stop.set()
        await up.until(lambda: len(up.listings) == 2)

    assert len(up.downs) == 1


async def test_stream_that_a_process_ends_is_opened_again() -> None:
    async with running(server("modern", "listen")) as up:
        await up.until(lambda: len(up.listings) == 2)
        with anyio.fail_after(10):
            while text_of(await up.call("count")) != "2":
                await pace(0.05)

    assert up.downs == []


async def test_hung_call_does_not_hold_up_the_others_on_its_pipe() -> None:
    async with running(server(), timeout_s=0.5) as up, anyio.create_task_group() as group:

        async def mute() -> None:
            with pytest.raises(UpstreamTimeout):
                await up.call("mute")

        group.start_soon(mute)
        fine = [await up.call("fine") for _ in range(3)]

    assert [result.outcome for result in fine] == ["ok"] * 3


async def test_call_before_the_process_is_up_or_after_it_ended_is_refused() -> None:
    async with running(server()) as up:
        link = up.stdio._main
        assert link is not None
        link.stop()
        with anyio.fail_after(10):
            await link.ended.wait()
        with pytest.raises(UpstreamUnavailable, match="is not running"):
            await link.request(None)  # type: ignore[arg-type]  # it is refused before it is looked at


async def test_client_that_leaves_during_start_up_leaves_no_lock_behind(tmp_path: Path) -> None:
    make, record = process_of("legacy_asker", tmp_path)
    relay = FakeRelay("leaves", capabilities=ASKABLE)

    async with running(make) as up:
        async with anyio.create_task_group() as group:
            group.start_soon(up.call, "echo", relay)
            while not up.stdio._starting:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        result = await up.call("echo", relay, text="back")
        await noted(record, "called")

    assert text_of(result) == "back"
    assert up.stdio._starting == {}
