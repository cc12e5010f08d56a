"""`subscriptions/listen`: what a listener hears, and what it does not."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gateway.errors import PolicyDenied
from gateway.events import Event, Events
from gateway.ports import Relay
from gateway.types import Authorized, Call, Identity, Permit, Result
from tests.fakes import permit_for
from tests.mcp.asgi import Exchange, Json
from tests.mcp.worlds import PREFIX, World, request

TAG = PREFIX + "subscriptionId"
EVERYTHING = {
    "toolsListChanged": True,
    "promptsListChanged": True,
    "resourcesListChanged": True,
    "resourceSubscriptions": ["note://one"],
}


def listen(wanted: object, *, identifier: int | str = 1) -> Json:
    return {**request("subscriptions/listen", {"notifications": wanted}), "id": identifier}


class Watching(Events):
    """Events that remember who stopped watching what."""

    def __init__(self) -> None:
        super().__init__()
        self.unwatched: list[tuple[str, str]] = []
        self.on_unwatched(lambda upstream, uri: self.unwatched.append((upstream, uri)))


async def first(exchange: Exchange) -> Json:
    return await exchange.message(0)


@pytest.mark.requirement("mcp:2026-07-28:listen-ack", "mcp:2026-07-28:listen-tagged", "mcp:2026-07-28:listen-closed")
async def test_stream_begins_with_the_acknowledgement_and_ends_with_a_result() -> None:
    world = World()

    async with world.open(listen(EVERYTHING, identifier="sub-1")) as exchange:
        acknowledged = await exchange.message(0)
        world.events.close()
        answer = await exchange.finished()

    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"] == {"_meta": {TAG: "sub-1"}, "notifications": EVERYTHING}
    assert answer.message == {
        "jsonrpc": "2.0",
        "id": "sub-1",
        "result": {"resultType": "complete", "_meta": {TAG: "sub-1"}},
    }
    assert (answer.is_stream, answer.complete) == (True, True)


@pytest.mark.requirement("mcp:2026-07-28:listen-list-changed", "mcp:2026-07-28:listen-resource")
async def test_listener_hears_of_every_change_it_asked_for_tagged_with_its_id() -> None:
    world = World()

    async with world.open(listen(EVERYTHING)) as exchange:
        await first(exchange)
        for event in (
            Event("files", "tools"),
            Event("files", "prompts"),
            Event("", "resources"),
            Event("files", "updated", "note://one"),
        ):
            world.events.publish(event)
        heard = [await exchange.message(number) for number in range(1, 5)]

    assert [message["method"] for message in heard] == [
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
    ]
    assert all(message["params"]["_meta"] == {TAG: 1} for message in heard)
    assert heard[3]["params"]["uri"] == "note://one"


@pytest.mark.requirement("mcp:2026-07-28:listen-filter")
async def test_listener_does_not_hear_what_it_did_not_ask_for() -> None:
    world = World()
    wanted = {"promptsListChanged": True, "toolsListChanged": "true", "resourceSubscriptions": ["note://two"]}

    async with world.open(listen(wanted)) as exchange:
        acknowledged = await first(exchange)
        world.events.publish(Event("files", "tools"))
        world.events.publish(Event("files", "updated", "note://one"))
        world.events.publish(Event("other", "updated", "note://two"))
        world.events.publish(Event("files", "prompts"))
        heard = await exchange.message(1)

    assert acknowledged["params"]["notifications"] == {
        "promptsListChanged": True,
        "resourceSubscriptions": ["note://two"],
    }
    assert heard["method"] == "notifications/prompts/list_changed"


async def test_listener_of_one_upstream_hears_nothing_of_another() -> None:
    world = World()

    async with world.open(listen({"toolsListChanged": True}), path="/servers/files/mcp") as exchange:
        await first(exchange)
        world.events.publish(Event("other", "tools"))
        world.events.publish(Event("files", "tools"))
        await exchange.message(1)
        world.events.close()
        answer = await exchange.finished()

    assert len(answer.messages) == 3


async def test_resource_that_may_not_be_watched_is_left_out_of_the_acknowledgement() -> None:
    world = World()

    def not_one(call: Call, identity: Identity) -> Permit:
        if call.resource.id == "note://one":
            raise PolicyDenied("not this one")
        return permit_for(call, identity)

    world.decider.decide_with = not_one
    uris = ["note://one", "note://two", "nowhere:x", "note://two", 5]

    async with world.open(listen({"resourceSubscriptions": uris})) as exchange:
        acknowledged = await first(exchange)
        world.events.publish(Event("files", "updated", "note://one"))
        world.events.publish(Event("files", "updated", "note://two"))
        heard = await exchange.message(1)

    assert acknowledged["params"]["notifications"] == {"resourceSubscriptions": ["note://two"]}
    assert heard["params"]["uri"] == "note://two"
    subscribed = [record for record in world.trail.records if record.call.method == "resources/subscribe"]
    assert [(record.call.resource.id, record.outcome) for record in subscribed] == [
        ("note://one", "denied"),
        ("note://two", "ok"),
        ("nowhere:x", "denied"),
    ]
    (listened,) = [record for record in world.trail.records if record.call.method == "subscriptions/listen"]
    assert {record.call.parent_id for record in subscribed} == {listened.call.id}
    assert {record.call.root_id for record in subscribed} == {listened.call.id}


async def test_nobody_can_be_asked_and_nothing_told_on_behalf_of_a_subscription() -> None:
    world = World()

    async def ask(authorized: Authorized, relay: Relay) -> Result:
        await relay.notify("notifications/message", {"level": "info", "data": "x"})
        return await relay.ask("roots/list", {})

    world.upstream.answer = ask

    async with world.open(listen(EVERYTHING)) as exchange:
        acknowledged = await first(exchange)

    assert "resourceSubscriptions" not in acknowledged["params"]["notifications"]


async def test_denied_listener_gets_an_error_and_no_stream() -> None:
    world = World()
    world.deny(action="mcp.subscriptions.listen", error=PolicyDenied("no"))

    answer = await world.post(listen(EVERYTHING))

    assert (answer.status, answer.error["code"], answer.is_stream) == (403, -31403, False)
    assert world.upstream.executed == []


WRONG: list[Any] = [[], "x", {"resourceSubscriptions": "note://one"}, {"resourceSubscriptions": 5}]


@pytest.mark.parametrize("wanted", [*WRONG, {"resourceSubscriptions": ["note://one"] * 257}])
async def test_wish_of_a_wrong_shape_is_refused(wanted: object) -> None:
    answer = await World().post(listen(wanted))

    assert (answer.status, answer.error["code"]) == (400, -32602)


async def test_listener_that_leaves_stops_watching() -> None:
    events = Watching()
    world = World(events=events)

    async with world.open(listen(EVERYTHING)) as exchange:
        await first(exchange)
        assert events.watched("files") == ["note://one"]
        exchange.leave()
        await exchange.finished()

    assert events.watched("files") == []
    assert events.unwatched == [("files", "note://one")]


async def test_listener_that_leaves_while_subscribing_stops_watching_what_it_had() -> None:
    events, waiting = Watching(), anyio.Event()
    world = World(events=events)

    async def stuck_at_two(authorized: Authorized, relay: Relay) -> Result:
        if authorized.call.resource.id == "note://two":
            waiting.set()
            await anyio.sleep_forever()
        return Result(b"{}")

    world.upstream.answer = stuck_at_two

    async with world.open(listen({"resourceSubscriptions": ["note://one", "note://two"]})) as exchange:
        with anyio.fail_after(5):
            await waiting.wait()
        exchange.leave()
        await exchange.finished()

    assert events.watched("files") == []
    assert events.unwatched == [("files", "note://one")]


async def test_change_during_subscribing_is_not_missed() -> None:
    world = World()

    async def change_at_once(authorized: Authorized, relay: Relay) -> Result:
        world.events.publish(Event("files", "updated", "note://one"))
        return Result(b"{}")

    world.upstream.answer = change_at_once

    async with world.open(listen(EVERYTHING)) as exchange:
        heard = [(await exchange.message(number))["method"] for number in range(2)]

    assert heard == ["notifications/subscriptions/acknowledged", "notifications/resources/updated"]


async def test_listener_that_comes_while_the_gateway_ends_is_ended_too() -> None:
    world = World()
    world.events.close()

    answer = await world.post(listen(EVERYTHING))

    assert [message.get("method", "result") for message in answer.messages] == [
        "notifications/subscriptions/acknowledged",
        "result",
    ]
