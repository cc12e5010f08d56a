"""Changes at the server reach the gateway: lists are fetched anew, updates told once, subscriptions kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path

import anyio
import pytest

from gateway.boxes import BoxFacts
from gateway.errors import IsolationUnavailable
from gateway.events import Event, Subscription
from gateway.ports import Relay
from gateway.types import Authorized
from tests.servers.launch import Started, http_server, noted
from tests.servers.wire import read_journal
from tests.upstreams.harness import MakeServer, Running, at, payload, process_of, resource_call, running

ONE, PRIVATE = "note://one", "note://private"


@pytest.fixture(params=["legacy-http", "legacy-stdio", "modern-http", "modern-stdio"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[MakeServer, Path]]:
    era, _, transport = request.param.partition("-")
    if transport == "stdio":
        yield process_of(f"{era}_asker", tmp_path)
        return
    with http_server(f"{era}_asker", tmp_path) as server:
        yield at(server.url), server.record


async def subscribe(up: Running, uri: str) -> None:
    result = await up.execute(resource_call("resources/subscribe", uri))
    assert payload(result).get("resultType") == "complete"
    up.events.watch("x", uri)


async def test_subscription_is_held_to_what_its_permit_asks_of_the_box(place: tuple[MakeServer, Path]) -> None:
    asked: list[str] = []

    def refuse(box: BoxFacts | None, authorized: Authorized, relay: Relay) -> AbstractContextManager[object]:
        asked.append(authorized.call.method)
        raise IsolationUnavailable("policy asks for more")

    async with running(place[0], hold=refuse) as up:
        with pytest.raises(IsolationUnavailable):
            await up.execute(resource_call("resources/subscribe", ONE))

    assert asked == ["resources/subscribe"]


async def events_of(subscription: Subscription, wanted: int) -> list[Event]:
    events: list[Event] = []
    with anyio.fail_after(10):
        while len(events) < wanted:
            events += await subscription.next()
    return events


async def listening(record: Path, era: str) -> None:
    """Wait for the stream of changes: what changes before it is fetched with the first lists."""
    if "stdio" not in record.name or era == "modern":
        await noted(record, "listening")


async def test_changed_list_is_offered_anew(place: tuple[MakeServer, Path]) -> None:
    make, record = place

    async with running(make) as up:
        await listening(record, up.upstream.health.era)
        await up.call("change")
        await up.until(lambda: "extra_0" in up.tools)

    assert up.upstream.health.connects == 1


async def test_update_is_told_once_per_change(place: tuple[MakeServer, Path]) -> None:
    make, record = place

    async with running(make) as up:
        await listening(record, up.upstream.health.era)
        with up.events.subscription() as subscription:
            await subscribe(up, ONE)
            await up.call("touch", uri=ONE)
            first = await events_of(subscription, 1)
            await up.call("touch", uri="note://two")
            await up.call("touch", uri=ONE)
            second = await events_of(subscription, 1)

    assert first == second == [Event("x", "updated", ONE)]


async def test_second_subscription_keeps_the_first(place: tuple[MakeServer, Path]) -> None:
    make, _ = place

    async with running(make) as up:
        with up.events.subscription() as subscription:
            async with anyio.create_task_group() as group:
                group.start_soon(subscribe, up, ONE)
                group.start_soon(subscribe, up, PRIVATE)
                group.start_soon(subscribe, up, ONE)
            await up.call("touch", uri=ONE)
            await up.call("touch", uri=PRIVATE)
            events = await events_of(subscription, 2)

    assert {event.uri for event in events} == {ONE, PRIVATE}


async def test_last_watcher_that_goes_ends_the_subscription(place: tuple[MakeServer, Path]) -> None:
    make, record = place

    async with running(make) as up:
        await subscribe(up, ONE)
        await subscribe(up, PRIVATE)
        up.events.watch("x", ONE)
        up.events.unwatch("x", ONE)
        up.events.unwatch("x", ONE)
        if up.upstream.health.era == "legacy":
            calls = await until_called(record, "resources/unsubscribe")
            assert len(calls) == 1
        else:
            await until_listening_for(record, [PRIVATE])


async def until_called(record: Path, method: str) -> list[object]:
    seen = 0
    while True:
        await noted(record, "called", after=seen)
        calls = [entry for entry in read_journal(record) if entry["event"] == "called"]
        if found := [entry for entry in calls if entry["method"] == method]:
            return list(found)
        seen = len(calls)


async def until_listening_for(record: Path, uris: list[str]) -> None:
    seen = 0
    while True:
        entry = await noted(record, "listening", after=seen)
        wanted = entry["filter"]
        assert isinstance(wanted, dict)
        if wanted.get("resourceSubscriptions") == uris:
            return
        seen += 1


async def test_stream_that_the_server_ends_is_opened_again_with_what_is_watched(tmp_path: Path) -> None:
    with http_server("modern_asker", tmp_path) as server:
        async with running(at(server.url)) as up:
            await subscribe(up, ONE)
            before = sum(entry["event"] == "listening" for entry in server.journal())
            await up.call("hang_up")
            entry = await noted(server.record, "listening", after=before)
            with up.events.subscription() as subscription:
                await up.call("touch", uri=ONE)
                events = await events_of(subscription, 1)

    assert entry["filter"]["resourceSubscriptions"] == [ONE]  # type: ignore[index]  # an object in the journal
    assert events == [Event("x", "updated", ONE)]
    assert up.downs == []


async def test_subscriptions_survive_the_process(tmp_path: Path) -> None:
    make, record = process_of("legacy_asker", tmp_path)

    async with running(make) as up:
        await subscribe(up, ONE)
        before = sum(entry["event"] == "initialized" for entry in read_journal(record))
        with pytest.raises(Exception, match="exited with status 7"):
            await up.call("exit")
        await noted(record, "initialized", after=before)
        await up.until(lambda: up.upstream.health.connects == 2 or len(up.listings) >= 2)
        with anyio.fail_after(10):
            while up.upstream.health.state != "up":
                await anyio.lowlevel.checkpoint()
        with up.events.subscription() as subscription:
            await up.call("touch", uri=ONE)
            events = await events_of(subscription, 1)

    assert events == [Event("x", "updated", ONE)]


async def test_server_without_a_stream_refuses_subscriptions(faulty_site: Started) -> None:
    async with running(at(faulty_site.url)) as up:
        with pytest.raises(Exception, match="offers no subscriptions"):
            await up.execute(resource_call("resources/subscribe", ONE))
        with pytest.raises(Exception, match="offers no subscriptions"):
            await up.execute(resource_call("resources/subscribe", ONE))

    assert up.downs == []
