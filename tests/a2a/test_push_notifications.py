"""An agent's notification goes on to the caller in the caller's version, and no other body goes anywhere."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import codec
from tests.a2a.push_world import (
    AGENT,
    CONFIG,
    URL,
    World,
    as_json,
    authorized,
    by_03,
    status,
)
from tests.fakes import ANA


async def test_notification_goes_on_as_the_agents_bytes_with_the_callers_credentials() -> None:
    world = World()
    await world.task_of(ANA)
    told, _ = await world.create()
    body = b'{"statusUpdate": {"taskId":"t1","contextId":"ctx","n":9007199254740993,"status":{"x":null}}}'

    code = await world.notify(told, body, content_type="application/a2a+json; charset=utf-8")

    letter = await world.letter()
    headers = dict(letter.headers)
    assert code == 200
    assert (letter.url, letter.body) == (URL, body)
    assert headers[b"content-type"] == b"application/a2a+json"
    assert headers[b"x-a2a-notification-token"] == b"caller-token"
    assert headers[b"authorization"] == b"Bearer s3cr"
    assert headers[b"traceparent"].startswith(b"00-")


async def test_trace_of_the_agent_goes_on() -> None:
    world = World()
    await world.task_of(ANA)
    told, _ = await world.create()

    await world.notify(told, status("t1"), traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="v=1")

    assert world.posted[0].traceparent.startswith("00-" + "a" * 32)
    assert "v=1" in world.posted[0].tracestate


async def test_receiver_without_credentials_gets_no_header_of_theirs() -> None:
    world = World()
    await world.task_of(ANA)
    told, _ = await world.create({"id": "cfg", "url": URL})

    await world.notify(told, status("t1"))

    assert {name for name, _ in (await world.letter()).headers} == {b"content-type", b"traceparent", b"tracestate"} - (
        set() if world.posted[0].tracestate else {b"tracestate"}
    )


async def test_either_header_proves_the_agent_and_neither_does_not() -> None:
    world = World()
    await world.task_of(ANA)
    told, _ = await world.create()
    token = str(told["token"])
    nothing = {"x_a2a_notification_token": "", "x-a2a-notification-token": ""}

    assert await world.notify(told, status("t1"), **{**nothing, "authorization": f"bearer {token}"}) == 200
    assert await world.notify(told, status("t1"), **nothing) == 401
    for wrong in ("wrong", token[:-1], token + "x", "caller-token"):
        assert await world.notify({**told, "token": wrong}, status("t1")) == 401
    assert await world.notify(told, status("t1"), **{**nothing, "authorization": f"Basic {token}"}) == 401
    assert len(world.posted) == 1


async def test_unknown_relay_and_that_of_another_agent_do_not_exist() -> None:
    world = World()
    await world.task_of(ANA)
    told, _ = await world.create()
    relay_id = str(told["url"]).rpartition("/")[2]
    headers = {b"x-a2a-notification-token": [str(told["token"]).encode()]}
    body = codec.dumps(status("t1"))

    codes = [
        await world.inbox.received(AGENT, wrong, headers, body)
        for wrong in ("", "x", relay_id[:-1], relay_id + "A", "../" + relay_id, "\udc80" * 40)
    ]
    other = await world.inbox.received("other", relay_id, headers, body)

    assert {*codes, other} == {404}
    assert await world.inbox.received(AGENT, relay_id, headers, body) == 200


async def test_notification_about_another_task_is_refused() -> None:
    world = World()
    await world.task_of(ANA)
    await world.task_of(ANA, "t2")
    told, _ = await world.create()

    assert await world.notify(told, status("t2")) == 403
    assert await world.notify(told, {"task": {"id": "t2", "status": {"state": "TASK_STATE_WORKING"}}}) == 403
    assert world.posted == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"task":{"id":"t1","status":{}},"task":{"id":"t2","status":{}}}',
        b'{"task":{"id":"t1"},"statusUpdate":{"taskId":"t1"}}',
        b'{"id":"t1","status":{"state":"TASK_STATE_WORKING"}}',
        b'{"kind":"task","id":"t1"}',
        b'{"kind":"surprise","id":"t1"}',
        b'{"status_update":{"taskId":"t1"}}',
        b"\xff",
        b"[" * 5_000,
    ],
)
async def test_body_that_is_no_notification_is_refused(body: bytes) -> None:
    world = World()
    await world.task_of(ANA)
    told, _ = await world.create()

    assert await world.notify(told, body) == 400
    assert world.posted == []


async def test_body_over_the_limit_is_refused_unread() -> None:
    world = World()
    told, _ = await world.create()

    assert await world.notify(told, b"{" * (1_048_576 + 1)) == 413


async def test_full_outbox_tells_the_agent_to_come_again() -> None:
    world = World(room=False)
    await world.task_of(ANA)
    told, _ = await world.create()

    assert await world.notify(told, status("t1")) == 503


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.dictionaries(
    st.sampled_from(["task", "message", "statusUpdate", "taskId", "id", "status", "state", "kind", "contextId"]), inner
), max_leaves=12))  # fmt: skip
def test_whatever_an_agent_sends_gets_a_status_and_goes_nowhere_else(sent: object) -> None:
    async def main() -> None:
        world = World()
        await world.task_of(ANA)
        told, _ = await world.create()

        assert await world.notify(told, sent) in (200, 400, 403)
        assert all(slip.task_id == "t1" for slip in world.posted)

    anyio.run(main)


# Versions


async def test_receiver_of_the_agents_version_gets_its_bytes_and_of_another_a_translation() -> None:
    world = World()
    await world.task_of(ANA)
    call = by_03(authorized("CreateTaskPushNotificationConfig", {**CONFIG, "taskId": "t1"}))
    told = await world.relay.outgoing(call, call.call.params)
    await world.relay.incoming(call, as_json(told))
    legacy = (
        b'{"kind": "status-update", "taskId": "t1", "contextId": "ctx", "status": {"state": "working"}, "final": false}'
    )

    await world.notify(told, legacy)
    await world.notify(told, status("t1"))

    assert world.posted[0].body == legacy
    assert b'"kind":"status-update"' in world.posted[1].body
    assert world.posted[1].content_type == b"application/json"


async def test_caller_of_1_0_gets_the_events_of_a_0_3_agent_as_1_0() -> None:
    world = World()
    await world.task_of(ANA)
    told, _ = await world.create()

    await world.notify(
        told,
        {"kind": "status-update", "taskId": "t1", "contextId": "ctx", "status": {"state": "working"}, "final": False},
    )
    await world.notify(told, {"kind": "task", "id": "t1", "contextId": "ctx", "status": {"state": "completed"}})

    assert codec.loads(world.posted[0].body) == status("t1")
    assert b'"task":{"' in world.posted[1].body
    assert world.posted[0].content_type == b"application/a2a+json"
