"""How a legacy session hears of changes: subscriptions, and the stream for what belongs to no request."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gateway.errors import PolicyDenied, UpstreamUnavailable
from gateway.events import Event, Events
from gateway.listeners import http
from tests.mcp.sessions import Client, begun
from tests.mcp.worlds import World
from tests.registry.samples import catalog_of, resource

OPENED = len(b": keep-alive\n\n")


async def subscribed(world: World, *uris: str) -> Client:
    client = await begun(world)
    for uri in uris:
        assert "result" in (await client.ask("resources/subscribe", uri=uri)).message
    return client


@pytest.mark.requirement("mcp:2025-11-25:get-stream", "mcp:2025-11-25:tools-changed")
async def test_stream_tells_of_changed_lists_and_carries_no_answers() -> None:
    world = World()
    client = await begun(world)

    async with client.listen() as stream:
        await stream.grown(OPENED)
        for change in ("tools", "prompts", "resources"):
            world.events.publish(Event("files", change))
        called = await client.send(client.call())
        heard = [(await stream.message(number)) for number in range(3)]
        world.events.close()
        answer = await stream.finished()

    assert (answer.status, answer.is_stream, answer.complete) == (200, True, True)
    assert heard == [
        {"jsonrpc": "2.0", "method": f"notifications/{change}/list_changed", "params": {}}
        for change in ("tools", "prompts", "resources")
    ]
    assert "result" in called.message
    assert len(answer.messages) == 3


@pytest.mark.requirement("mcp:2025-11-25:updated", "mcp:2025-11-25:subscribe")
async def test_update_reaches_the_sessions_that_subscribed_and_no_other() -> None:
    world = World()
    one, two = await subscribed(world, "note://one"), await subscribed(world, "note://two", "note://one")
    await two.ask("resources/unsubscribe", uri="note://one")

    async with one.listen() as ones, two.listen() as twos:
        await ones.grown(OPENED)
        await twos.grown(OPENED)
        for event in (
            Event("files", "updated", "note://one"),
            Event("other", "updated", "note://two"),
            Event("files", "tools"),
        ):
            world.events.publish(event)
        heard = [await ones.message(0), await ones.message(1), await twos.message(0)]

    assert [message["method"].partition("/")[2] for message in heard] == [
        "resources/updated",
        "tools/list_changed",
        "tools/list_changed",
    ]
    assert heard[0]["params"] == {"uri": "note://one"}


async def test_session_of_one_upstream_hears_nothing_of_another() -> None:
    world = World()
    client = await begun(world, path="/servers/files/mcp")

    async with client.listen() as stream:
        await stream.grown(OPENED)
        world.events.publish(Event("other", "tools"))
        world.events.publish(Event("", "prompts"))
        first = await stream.message(0)

    assert first["method"] == "notifications/prompts/list_changed"


async def test_resource_is_watched_while_any_session_subscribes_to_it() -> None:
    told: list[tuple[str, str]] = []
    events = Events()
    events.on_unwatched(lambda upstream, uri: told.append((upstream, uri)))
    world = World(events=events)
    one, two = await subscribed(world, "note://one", "note://one"), await subscribed(world, "note://one")

    await one.ask("resources/unsubscribe", uri="note://one")
    await one.ask("resources/unsubscribe", uri="note://one")
    while_two = (list(told), events.watched("files"))
    await two.end()

    assert while_two == ([], ["note://one"])
    assert told == [("files", "note://one")]


async def test_unsubscribing_ends_what_the_uri_stood_for_when_it_was_subscribed() -> None:
    world = World()
    client = await subscribed(world, "note://one")
    world.registry.configure(("notes",))
    world.registry.put(catalog_of("notes", resources=[resource("note://one")], capabilities={"resources": {}}))

    await client.ask("resources/unsubscribe", uri="note://one")

    assert world.events.watched("files") == []
    assert world.events.watched("notes") == []


@pytest.mark.parametrize("error", [PolicyDenied("no"), UpstreamUnavailable("gone")])
async def test_resource_that_could_not_be_subscribed_to_is_not_watched(error: Exception) -> None:
    world = World()
    client = await begun(world)
    world.upstream.fail_with = error

    answer = await client.ask("resources/subscribe", uri="note://one")

    assert answer.status == 200
    assert "error" in answer.message
    assert world.events.watched("files") == []


@pytest.mark.parametrize("uri", [None, 5, "nowhere:x"])
async def test_subscription_to_nothing_is_refused(uri: Any) -> None:
    client = await begun(World())

    answer = await client.ask("resources/subscribe", uri=uri)

    assert answer.error["code"] == -32602


async def test_session_has_one_such_stream_at_a_time() -> None:
    client = await begun(World())

    async with client.listen() as first:
        await first.grown(OPENED)
        async with client.listen() as second:
            refused = await second.finished()
        first.leave()
        await first.finished()
    async with client.listen() as third:
        await third.grown(OPENED)
        taken = third.answer.status

    assert (refused.status, taken) == (409, 200)


async def test_stream_that_its_client_left_ends_quietly() -> None:
    world = World()
    client = await begun(world)

    async with client.listen() as stream:
        await stream.grown(OPENED)
        stream.leave()
        await stream.finished()

    assert world.events._subscriptions == set()


async def test_quiet_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEEP_ALIVE_S", 0.01)
    client = await begun(World())

    async with client.listen() as stream:
        await stream.grown(3 * OPENED)

        assert stream.answer.messages == []


async def test_change_that_comes_right_after_the_stream_opened_is_not_missed() -> None:
    world = World()
    client = await begun(world)

    async with client.listen() as stream:
        await stream.opened()
        world.events.publish(Event("files", "tools"))
        with anyio.fail_after(5):
            heard = await stream.message(0)

    assert heard["method"] == "notifications/tools/list_changed"
