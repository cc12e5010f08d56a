"""Streams under attack: of an agent whose card changes under them, and of a caller who wants all of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import anyio
import pytest

from adapters.upstreams.a2a.caller import Terms
from adapters.upstreams.a2a.site import site_of
from adapters.upstreams.wire.http import HttpPool
from adapters.upstreams.wire.origin import Origin
from gateway.a2a.directory import Interface
from gateway.app.agents import within_reach
from gateway.errors import InterlockError, QuotaExceeded, UpstreamProtocolError, UpstreamUnavailable
from tests.a2a.agents import (
    QUICK,
    SEND,
    STREAM,
    FixedSource,
    Script,
    Seen,
    World,
    authorized,
    entry_of,
    event,
    gives,
    interface_of,
    running,
    task,
    world,
)
from tests.fakes import BO, FakeRelay
from tests.mcp.asgi import Json
from tests.wire.upstreams import Conversation, upstream

STREAMING, SUBSCRIBE = "SendStreamingMessage", "SubscribeToTask"


class Listening(FakeRelay):
    """A client that says when it has heard something."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = anyio.Event()

    async def emit(self, event: bytes) -> None:
        await super().emit(event)
        self.heard.set()


def endless() -> Script:
    """An agent whose streams begin, each with a task and a context of its own, and never end."""
    numbers = count(1)

    async def answer(conversation: Conversation, seen: Seen) -> None:
        name = seen.params.get("id") or f"t{next(numbers)}"
        await conversation.send(STREAM + event(seen, task("WORKING", name).replace(b'"c1"', f'"c-{name}"'.encode())))
        await anyio.sleep_forever()

    return Script({STREAMING: answer, SUBSCRIBE: answer})


async def follow(made: World, relay: FakeRelay, ends: list[Exception], method: str, params: Json) -> None:
    try:
        await made.agent.execute(authorized(method, params), relay)
    except InterlockError as exc:
        ends.append(exc)


@pytest.mark.parametrize("how", ["quarantined", "refused"])
async def test_agent_whose_card_is_no_longer_good_is_not_heard_on_streams_that_began_before(how: str) -> None:
    script, ends = endless(), list[Exception]()
    async with upstream(script.serve) as served:
        good = entry_of(interface_of(served, "JSONRPC", "1.0"))
        source = FixedSource(good)
        async with running(source, script, revalidate_s=0.05) as made, anyio.create_task_group() as group:
            sender, subscriber = Listening(), Listening()
            group.start_soon(follow, made, sender, ends, STREAMING, SEND)
            with anyio.fail_after(5):
                await sender.heard.wait()
            group.start_soon(follow, made, subscriber, ends, SUBSCRIBE, {"id": "t1"})
            with anyio.fail_after(5):
                await subscriber.heard.wait()

            tampered = replace(good, quarantine="its skills changed", digest="sha256:2")
            source.entry = tampered if how == "quarantined" else UpstreamProtocolError("its signature does not hold")
            with anyio.fail_after(5):
                await made.until(lambda: len(ends) == 2)

            with pytest.raises(UpstreamUnavailable):
                await made.call(SUBSCRIBE, {"id": "t1"})
            assert made.agent.report()["streams"] == 0

    assert [type(end) for end in ends] == [UpstreamUnavailable, UpstreamUnavailable]
    assert script.count(SUBSCRIBE) == 0


async def test_agent_that_is_accepted_again_is_called_again() -> None:
    script = Script({"SendMessage": gives(task("COMPLETED"))})
    async with upstream(script.serve) as served:
        good = entry_of(interface_of(served, "JSONRPC", "1.0"))
        source = FixedSource(good)
        async with running(source, script, revalidate_s=0.05) as made:
            source.entry = replace(good, quarantine="its skills changed")
            await made.until(lambda: bool(made.offered[-1].quarantine))
            source.entry = good
            await made.until(lambda: not made.offered[-1].quarantine)
            result = await made.call("SendMessage", SEND)

    assert result.payload == task("COMPLETED")


async def test_caller_who_opens_streams_without_end_leaves_room_for_others() -> None:
    script, ends = endless(), list[Exception]()
    pace = replace(QUICK, streams_per_owner=3)
    async with world(script.answers, pace=pace) as made, anyio.create_task_group() as group:
        for _ in range(3):
            relay = Listening()
            group.start_soon(follow, made, relay, ends, STREAMING, SEND)
            with anyio.fail_after(5):
                await relay.heard.wait()

        with pytest.raises(QuotaExceeded, match="3 streams"):
            await made.call(STREAMING, SEND)

        others = Listening()
        group.start_soon(made.call, STREAMING, SEND, others, BO)
        with anyio.fail_after(5):
            await others.heard.wait()
        group.cancel_scope.cancel()

    assert ends == []


async def test_streams_that_were_given_up_count_until_they_end() -> None:
    script = endless()
    async with world(script.answers, pace=replace(QUICK, streams_per_owner=1)) as made:
        with anyio.move_on_after(0.1):
            await made.call(STREAMING, SEND)
        with pytest.raises(QuotaExceeded):
            await made.call(STREAMING, SEND)
        with anyio.fail_after(5):
            while made.agent.report()["streams"]:
                await anyio.lowlevel.checkpoint()

        with pytest.raises(TimeoutError), anyio.fail_after(0.1):
            await made.call(STREAMING, SEND)


async def test_one_stream_is_not_followed_without_bounds() -> None:
    script, ends = endless(), list[Exception]()
    async with world(script.answers, pace=replace(QUICK, followers=2)) as made, anyio.create_task_group() as group:
        for method, params in ((STREAMING, SEND), (SUBSCRIBE, {"id": "t1"})):
            relay = Listening()
            group.start_soon(follow, made, relay, ends, method, params)
            with anyio.fail_after(5):
                await relay.heard.wait()

        with pytest.raises(QuotaExceeded, match="followed 2 times"):
            await made.call(SUBSCRIBE, {"id": "t1"})
        group.cancel_scope.cancel()

    assert ends == []


@pytest.mark.parametrize(
    ("home", "address", "within"),
    [
        ("203.0.113.9", "127.0.0.1", True),
        ("93.184.216.34", "127.0.0.1", False),
        ("93.184.216.34", "10.1.2.3", False),
        ("93.184.216.34", "::ffff:10.1.2.3", False),
        ("93.184.216.34", "169.254.169.254", False),
        ("93.184.216.34", "1.1.1.1", True),
        ("10.0.0.1", "10.1.2.3", True),
        ("10.0.0.1", "1.1.1.1", True),
        ("10.0.0.1", "169.254.169.254", False),
        ("127.0.0.1", "169.254.169.254", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("", "10.1.2.3", False),
        ("10.0.0.1", "", False),
    ],
)
def test_card_from_the_internet_does_not_lead_into_our_networks(home: str, address: str, *, within: bool) -> None:
    pool = HttpPool(Origin.parse("https://cards.example"))
    pool.peer = home

    assert within_reach(pool, address) is within


async def test_no_request_is_sent_to_where_a_card_may_not_lead() -> None:
    async with upstream(Script({}).serve) as served:
        away = Interface(served.url.replace("127.0.0.1", "localhost"), "JSONRPC", "1.0")
        terms = Terms(timeout_s=5, home="https://agent.example/card.json", reach=lambda address: False)
        site = site_of("planner", away, terms)
        with pytest.raises(UpstreamUnavailable, match="not one that it may have us connect to") as caught:
            await site.pool.post("/", [], b"{}", deadline_s=5, max_bytes=100)
        await site.aclose()

    assert served.requests == []
    assert "localhost" not in str(caught.value)
