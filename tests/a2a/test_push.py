"""Agents notify the gateway, and the gateway notifies the caller: neither learns what belongs to the other."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from adapters.stores.sql import open_store
from gateway import codec
from gateway.a2a.push import MAX_PER_TASK, creates
from gateway.a2a.push_records import PENDING_MS
from gateway.codec import JsonObject, JsonValue
from gateway.errors import InvalidCall, PolicyDenied, QuotaExceeded, UnknownResource, UpstreamProtocolError
from gateway.ports import TaskStore
from tests.a2a.push_world import (
    AGENT,
    CONFIG,
    NOW_MS,
    OWN,
    URL,
    Addresses,
    World,
    as_json,
    authorized,
    inline,
    sending,
    status,
)
from tests.fakes import ANA, BO, FakeTaskStore

GET = "GetTaskPushNotificationConfig"
LIST = "ListTaskPushNotificationConfigs"
DELETE = "DeleteTaskPushNotificationConfig"
SECRETS = (b"caller-token", b"s3cr", b"hooks.example", b"team=red")
NAMED = {"taskId": "t1", "id": "cfg"}


@asynccontextmanager
async def a_store(directory: Path) -> AsyncIterator[TaskStore]:
    store = await open_store("", data_dir=directory, clock_s=time.time)
    try:
        yield store.tasks
    finally:
        await store.aclose()


def contents(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir() if path.is_file())


# To the agent


async def test_agent_is_told_an_address_and_a_token_of_ours_and_nothing_of_the_callers() -> None:
    world = World()

    told, _ = await world.create()

    assert set(told) == {"id", "taskId", "url", "token", "authentication"}
    assert str(told["url"]).startswith(OWN)
    assert told["authentication"] == {"scheme": "Bearer", "credentials": told["token"]}
    assert not any(secret in codec.dumps(told) for secret in SECRETS)
    assert len(str(told["url"]).removeprefix(OWN)) >= 43  # 256 bits


async def test_inline_configuration_is_replaced_and_the_rest_of_the_message_kept() -> None:
    world = World()
    call = authorized("SendMessage", {**sending(), "metadata": {"url": URL}})

    told = await world.relay.outgoing(call, call.call.params)

    assert told["message"] == call.call.params["message"]
    assert told["metadata"] == {"url": URL}
    assert str(inline(told)["url"]).startswith(OWN)
    assert inline(told)["id"] == "cfg"


async def test_call_without_configuration_passes_as_the_same_object() -> None:
    world = World()
    call = authorized("SendMessage", {"message": {"messageId": "m"}})
    result: JsonObject = {"task": {"id": "t1"}}

    told = await world.relay.outgoing(call, call.call.params)
    shown = await world.relay.incoming(call, result)

    assert told is call.call.params
    assert shown is result


@pytest.mark.parametrize("method", ["SendMessage", "CreateTaskPushNotificationConfig"])
async def test_refused_address_never_reaches_the_agent_or_the_store(method: str) -> None:
    store = FakeTaskStore()
    world = World(store, Addresses(refused=frozenset({URL})))
    call = authorized(method, sending() if method == "SendMessage" else {**CONFIG, "taskId": "t1"})

    with pytest.raises(PolicyDenied, match="not public"):
        await world.relay.outgoing(call, call.call.params)

    assert store.writes == 0


BAD: list[Mapping[str, object]] = [
    {},
    {"url": ""},
    {"url": 7},
    {"url": "https://x.example/" + "a" * 3_000},
    {"url": URL, "pushUrl": "https://evil.example"},
    {"url": URL, "token": "a\r\nx-admin: 1"},
    {"url": URL, "token": " padded"},
    {"url": URL, "token": "snow☃"},
    {"url": URL, "id": "a\x1fb"},
    {"url": URL, "authentication": "Bearer x"},
    {"url": URL, "authentication": {"credentials": "x"}},
    {"url": URL, "authentication": {"scheme": "Bearer x", "credentials": "y"}},
    {"url": URL, "authentication": {"scheme": "Bearer", "credentials": "y\nz"}},
    {"url": URL, "authentication": {"scheme": "Bearer", "schemes": ["Basic"]}},
]


@pytest.mark.parametrize("config", BAD)
async def test_configuration_that_cannot_be_sent_as_written_is_refused(config: Mapping[str, object]) -> None:
    world = World()
    created = authorized("CreateTaskPushNotificationConfig", {**config, "taskId": "t1"})
    sent = authorized("SendMessage", sending(config))

    for call in (created, sent):
        with pytest.raises(InvalidCall):
            await world.relay.outgoing(call, call.call.params)

    assert world.addresses.asked == []


async def test_inline_configuration_cannot_name_another_task_than_its_message() -> None:
    world = World()
    call = authorized("SendMessage", sending({**CONFIG, "taskId": "t2"}, taskId="t1"))

    with pytest.raises(InvalidCall, match="taskId"):
        await world.relay.outgoing(call, call.call.params)


async def test_task_has_a_bounded_number_of_configurations_and_each_can_be_replaced() -> None:
    world = World()
    for number in range(MAX_PER_TASK):
        await world.create({**CONFIG, "id": f"c{number}"}, call_id=f"call{number}")

    await world.create({**CONFIG, "id": "c3"})

    with pytest.raises(QuotaExceeded, match="delete one first"):
        await world.create({**CONFIG, "id": "one-more"})


def test_extra_question_for_an_inline_configuration_holds_its_address_and_no_secret() -> None:
    asked = creates("SendMessage", sending(taskId="t1"))

    assert asked == {"url": URL, "id": "cfg", "taskId": "t1", "authentication": {"scheme": "Bearer"}}
    assert creates("SendMessage", {"message": {}}) is None
    assert creates("CreateTaskPushNotificationConfig", CONFIG) is None


# From the agent


async def test_owner_sees_a_configuration_as_it_was_made_but_for_the_credentials() -> None:
    world = World()
    own = {"id": "cfg", "taskId": "t1", "url": URL, "token": "caller-token", "authentication": {"scheme": "Bearer"}}
    told, shown = await world.create()

    got = await world.ask(GET, NAMED, as_json(told))
    listed = await world.ask(LIST, {"taskId": "t1"}, {"configs": [as_json(told)], "nextPageToken": "n"})

    assert shown == own
    assert got == own
    assert listed == {"configs": [own], "nextPageToken": "n"}


async def test_configuration_without_an_id_gets_that_of_the_agent() -> None:
    world = World()

    told, shown = await world.create({"url": URL})

    assert "id" not in told
    assert shown == {"id": "agent-made", "taskId": "t1", "url": URL}


async def test_configurations_of_others_and_those_made_elsewhere_never_appear() -> None:
    world = World()
    told, shown = await world.create()
    stray: JsonObject = {"id": "elsewhere", "taskId": "t1", "url": "http://10.0.0.5/internal"}
    all_of_them: JsonObject = {"configs": [as_json(told), stray, "junk", {"id": 7}]}

    assert await world.ask(LIST, {"taskId": "t1"}, all_of_them, BO) == {"configs": []}
    own = await world.ask(LIST, {"taskId": "t1"}, all_of_them)
    assert isinstance(own, dict)
    assert own["configs"] == [shown]
    for method in (GET, DELETE):
        with pytest.raises(UnknownResource):
            await world.ask(method, NAMED, as_json(told), BO)
    with pytest.raises(UnknownResource):
        await world.ask(GET, {"taskId": "t1", "id": "elsewhere"}, stray)


@pytest.mark.parametrize("value", [None, [], "x", {"configs": {}}, {"configs": 3}])
async def test_answer_of_another_shape_is_not_handed_out(value: JsonValue) -> None:
    world = World()

    with pytest.raises(UpstreamProtocolError):
        await world.ask(LIST, {"taskId": "t1"}, value)


async def test_answer_for_another_task_makes_no_configuration() -> None:
    world = World()
    call = authorized("CreateTaskPushNotificationConfig", {**CONFIG, "taskId": "t1"})
    told = await world.relay.outgoing(call, call.call.params)

    with pytest.raises(UpstreamProtocolError, match="another task"):
        await world.relay.incoming(call, {**as_json(told), "taskId": "t2"})

    assert await world.records.of_task(AGENT, "t1") == ()


async def test_refused_call_leaves_no_relay_behind() -> None:
    world = World()
    call = authorized("SendMessage", sending())
    told = await world.relay.outgoing(call, call.call.params)

    await world.relay.failed(call)

    assert await world.notify(inline(told), status("t1")) == 404


async def test_answer_with_a_message_leaves_no_relay_behind() -> None:
    world = World()
    call = authorized("SendMessage", sending())
    told = await world.relay.outgoing(call, call.call.params)

    await world.relay.incoming(call, {"message": {"messageId": "m", "role": "ROLE_AGENT"}})

    assert await world.notify(inline(told), status("t1")) == 404


# Tasks that are not named yet


async def test_notification_that_overtakes_the_answer_is_relayed_and_names_the_task() -> None:
    world = World()
    call = authorized("SendMessage", sending())
    told = inline(await world.relay.outgoing(call, call.call.params))

    early = await world.notify(told, status("t9"))
    await world.relay.incoming(call, {"task": {"id": "t9", "contextId": "ctx", "status": {}}})

    task = await world.index.find(AGENT, "t9", ANA)
    assert early == 200
    assert task is not None
    assert await world.index.find(AGENT, "t9", BO) is None
    assert [push.config_id for push in await world.records.of_task(AGENT, "t9")] == ["cfg"]
    assert await world.notify(told, status("t8")) == 403
    assert await world.notify(told, status("t9")) == 200


async def test_early_notification_cannot_take_a_task_of_somebody_else() -> None:
    world = World()
    await world.task_of(BO, "t5")
    call = authorized("SendMessage", sending())
    told = inline(await world.relay.outgoing(call, call.call.params))

    assert await world.notify(told, status("t5")) == 403
    assert world.posted == []


async def test_first_event_names_the_task_and_later_ones_cost_no_store() -> None:
    store = FakeTaskStore()
    world = World(store)
    call = authorized("SendStreamingMessage", sending())
    told = inline(await world.relay.outgoing(call, call.call.params))
    await world.relay.incoming(call, status("t1"))
    before = (store.reads, store.writes)
    event = status("t1", "COMPLETED")

    shown = await world.relay.incoming(call, event)

    after = (store.reads, store.writes)
    await world.task_of(ANA)
    assert shown is event
    assert after == before
    assert await world.notify(told, status("t1")) == 200


async def test_inline_configuration_without_an_id_is_given_one_that_can_be_deleted() -> None:
    world = World()
    call = authorized("SendMessage", sending({"url": URL}))
    told = inline(await world.relay.outgoing(call, call.call.params))
    await world.relay.incoming(call, {"task": {"id": "t1", "status": {}}})

    await world.ask(DELETE, {"taskId": "t1", "id": told["id"]}, {})

    assert await world.notify(told, status("t1")) == 404


async def test_follow_up_configuration_is_only_for_the_task_of_its_message() -> None:
    world = World()
    await world.task_of(ANA)
    call = authorized("SendMessage", sending(taskId="t1"))
    told = inline(await world.relay.outgoing(call, call.call.params))

    assert await world.notify(told, status("t2")) == 403
    assert await world.notify(told, status("t1")) == 200


async def test_task_that_is_not_named_within_a_day_is_not_waited_for() -> None:
    world = World()
    call = authorized("SendMessage", sending())
    told = inline(await world.relay.outgoing(call, call.call.params))

    world.now_ms = NOW_MS + PENDING_MS + 1

    assert await world.notify(told, status("t1")) == 404
    assert await world.records.sweep(AGENT) == 1
    assert await world.records.sweep(AGENT) == 0


# Deletion and replacement


async def test_deleted_configuration_takes_nothing_and_what_waits_is_withdrawn() -> None:
    world = World()
    await world.task_of(ANA)
    told, _ = await world.create()
    await world.notify(told, status("t1"))

    await world.ask(DELETE, NAMED, {})
    await world.ask(DELETE, NAMED, {})

    assert await world.notify(told, status("t1")) == 404
    assert await world.inbox.addressed(world.posted[0]) is None


async def test_replaced_configuration_ends_its_old_relay() -> None:
    world = World()
    await world.task_of(ANA)
    old, _ = await world.create()

    new, _ = await world.create({**CONFIG, "url": "https://other.example/"}, call_id="c2")

    assert await world.notify(old, status("t1")) == 404
    assert await world.notify(new, status("t1")) == 200
    assert (await world.letter()).url == "https://other.example/"


# At rest


async def test_neither_secrets_nor_addresses_are_in_the_database(tmp_path: Path) -> None:
    async with a_store(tmp_path) as store:
        world = World(store)
        told, _ = await world.create()
        call = authorized("SendMessage", sending(), call_id="c2")
        pending = inline(await world.relay.outgoing(call, call.call.params))

    data = contents(tmp_path)
    relays = [str(config["url"]).rpartition("/")[2].encode() for config in (told, pending)]
    tokens = [str(config["token"]).encode() for config in (told, pending)]
    assert AGENT.encode() in data
    assert not any(secret in data for secret in (*SECRETS, *relays, *tokens))


async def test_replicas_share_what_one_of_them_was_told(tmp_path: Path) -> None:
    async with a_store(tmp_path) as store:
        one, two = World(store), World(store)
        call = authorized("SendMessage", sending())
        told = inline(await one.relay.outgoing(call, call.call.params))

        with anyio.fail_after(10):
            early = await two.notify(told, status("t1"))
            await one.relay.incoming(call, {"task": {"id": "t1", "contextId": "ctx", "status": {}}})
            late = await one.notify(told, status("t1", "COMPLETED"))

    assert (early, late) == (200, 200)
    assert (len(two.posted), len(one.posted)) == (1, 1)


async def test_notifications_during_the_move_from_pending_find_their_relay(tmp_path: Path) -> None:
    async with a_store(tmp_path) as store:
        world = World(store)
        await world.task_of(ANA)
        codes: list[int] = []
        call = authorized("SendMessage", sending())
        told = inline(await world.relay.outgoing(call, call.call.params))

        async def notify() -> None:
            codes.append(await world.notify(told, status("t1")))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(notify)
                await world.relay.incoming(call, {"task": {"id": "t1", "contextId": "ctx", "status": {}}})

    assert codes == [200] * 10
