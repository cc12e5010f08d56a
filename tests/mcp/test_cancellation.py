"""What ends a legacy call before its answer, and what of it the client still sees."""

from __future__ import annotations

import anyio
import pytest

from gateway.ports import Relay
from gateway.types import Authorized, Result
from tests.mcp.sessions import begun
from tests.mcp.worlds import World

DONE = Result(b'{"content":[]}')


def waiting(world: World) -> tuple[dict[str, anyio.Event], dict[str, anyio.Event], anyio.Event]:
    """Let calls wait: (running, cancelled) by the argument `n`, and what lets the others finish."""
    running, cancelled, go = {n: anyio.Event() for n in "12"}, {n: anyio.Event() for n in "12"}, anyio.Event()

    async def wait(authorized: Authorized, relay: Relay) -> Result:
        name = str(authorized.call.arguments["n"])
        running[name].set()
        try:
            await go.wait()
        except anyio.get_cancelled_exc_class():
            cancelled[name].set()
            raise
        return DONE

    world.upstream.answer = wait
    return running, cancelled, go


async def all_of(*events: anyio.Event) -> None:
    with anyio.fail_after(5):
        for event in events:
            await event.wait()


@pytest.mark.requirement("mcp:2025-11-25:cancel")
async def test_cancellation_ends_only_the_call_of_its_own_session() -> None:
    world = World()
    running, cancelled, go = waiting(world)
    one, two = await begun(world), await begun(world)
    first, second = {**one.call(n="1"), "id": 7}, {**two.call(n="2"), "id": 7}

    async with one.open(first) as ones, two.open(second) as twos:
        await all_of(running["1"], running["2"])
        await one.tell("notifications/cancelled", requestId=7)
        await one.tell("notifications/cancelled", requestId=7)
        gone = await ones.finished()
        go.set()
        served = await twos.finished()

    assert (gone.status, gone.body) == (202, b"")
    assert cancelled["1"].is_set()
    assert not cancelled["2"].is_set()
    assert served.result == {"content": []}
    assert sorted(record.outcome for record in world.trail.records if record.call.method == "tools/call") == [
        "cancelled",
        "ok",
    ]


async def test_stream_of_a_cancelled_call_ends_without_an_empty_message() -> None:
    world, told = World(), anyio.Event()

    async def tell_and_wait(authorized: Authorized, relay: Relay) -> Result:
        await relay.notify("notifications/message", {"level": "info", "data": "x"})
        told.set()
        await anyio.sleep_forever()
        raise AssertionError

    world.upstream.answer = tell_and_wait
    client = await begun(world)
    body = client.call()

    async with client.open(body) as exchange:
        await all_of(told)
        await client.tell("notifications/cancelled", requestId=body["id"])
        answer = await exchange.finished()

    assert [message.get("method") for message in answer.messages] == ["notifications/message"]
    assert answer.body.count(b"data:") == 1
    assert answer.complete


async def test_id_that_is_in_use_is_refused() -> None:
    world = World()
    running, _, go = waiting(world)
    client = await begun(world)
    body = client.call(n="1")

    async with client.open(body) as exchange:
        await all_of(running["1"])
        second = await client.send({**client.call(n="2"), "id": body["id"]})
        go.set()
        first = await exchange.finished()

    assert (second.status, second.error["code"]) == (200, -32600)
    assert first.result == {"content": []}
    assert not running["2"].is_set()


async def test_client_that_leaves_ends_its_call() -> None:
    world = World()
    running, cancelled, _ = waiting(world)
    client = await begun(world)

    async with client.open(client.call(n="1")) as exchange:
        await all_of(running["1"])
        exchange.leave()
        await exchange.finished()

    assert cancelled["1"].is_set()
    assert world.trail.records[-1].outcome == "cancelled"


async def test_cancellation_from_outside_is_not_taken_for_the_clients() -> None:
    world = World()
    running, _, _ = waiting(world)
    client = await begun(world)
    after: list[str] = []

    async def served() -> None:
        await client.send(client.call(n="1"))
        after.append("went on")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(served)
            await running["1"].wait()
            group.cancel_scope.cancel()

    assert after == []
