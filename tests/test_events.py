"""Who hears of changes, and that nobody's slowness costs anybody else anything."""

from __future__ import annotations

import anyio

from gateway.events import Event, Events

TOOLS = Event("files", "tools")


async def test_every_subscription_hears_of_every_event_once() -> None:
    events = Events()

    with events.subscription() as one, events.subscription() as two:
        events.publish(TOOLS)
        events.publish(Event("files", "updated", "note://one"))
        with anyio.fail_after(5):
            heard = [await one.next(), await two.next()]

    assert heard == [[TOOLS, Event("files", "updated", "note://one")]] * 2


async def test_equal_events_that_wait_are_told_once() -> None:
    events = Events()

    with events.subscription() as subscription:
        for _ in range(1_000):
            events.publish(TOOLS)
        with anyio.fail_after(5):
            heard = await subscription.next()

    assert heard == [TOOLS]


async def test_event_that_comes_again_is_told_again() -> None:
    events = Events()

    with events.subscription() as subscription, anyio.fail_after(5):
        events.publish(TOOLS)
        first = await subscription.next()
        events.publish(TOOLS)
        second = await subscription.next()

    assert first == second == [TOOLS]


async def test_subscription_waits_until_there_is_something_to_tell() -> None:
    events, heard = Events(), list[list[Event]]()

    with events.subscription() as subscription, anyio.fail_after(5):
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                heard.append(await subscription.next())

            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert heard == []
            events.publish(TOOLS)

    assert heard == [[TOOLS]]


async def test_subscription_that_has_ended_hears_nothing() -> None:
    events = Events()
    with events.subscription() as gone:
        pass

    events.publish(TOOLS)

    assert gone._pending == {}


async def test_closing_ends_every_subscription_and_those_that_come_later() -> None:
    events = Events()

    with events.subscription() as before, anyio.fail_after(5):
        events.close()
        assert before.closed
        assert await before.next() == []
        with events.subscription() as after:
            assert after.closed
            assert await after.next() == []


async def test_resource_is_watched_until_its_last_watcher_has_gone() -> None:
    events, told = Events(), list[tuple[str, str]]()
    events.on_unwatched(lambda upstream, uri: told.append((upstream, uri)))
    events.watch("files", "note://one")
    events.watch("files", "note://one")
    events.watch("files", "note://two")
    events.watch("other", "note://one")

    events.unwatch("files", "note://one")
    halfway = (list(told), events.watched("files"))
    events.unwatch("files", "note://one")
    events.unwatch("files", "note://one")  # once too often

    assert halfway == ([], ["note://one", "note://two"])
    assert told == [("files", "note://one")]
    assert events.watched("files") == ["note://two"]
    assert events.watched("other") == ["note://one"]
