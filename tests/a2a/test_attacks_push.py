"""Push notifications under attack: as a way past policy, for secrets that come with them, and to fill us up."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import anyio
import pytest

from gateway import codec
from gateway.a2a.push_outbox import Delivered, Letter, Limits, Outbox, Receipt, Slip
from gateway.a2a.push_records import MAX_PENDING, PENDING_MS
from gateway.errors import QuotaExceeded
from gateway.types import Authorized, Call, FrozenDict, Obligation, Resource, freeze
from tests.a2a.push_world import CONFIG, World, authorized, inline, sending, status
from tests.fakes import ANA, BO

REDACT = Obligation("redact", FrozenDict({"patterns": ("email",)}))
CREATE = "CreateTaskPushNotificationConfig"


def redacting(call: Authorized) -> Authorized:
    """The same, under a permit that redacts."""
    return replace(call, permit=replace(call.permit, obligations=(REDACT,)))


def telling(text: str) -> dict[str, Any]:
    """A status that says more than a state."""
    told = {"state": "TASK_STATE_COMPLETED", "message": {"messageId": "m", "parts": [{"text": text}]}}
    return {"statusUpdate": {"taskId": "t1", "contextId": "ctx", "status": told, "metadata": {"note": text}}}


def of(method: str, params: dict[str, Any]) -> Call:
    frozen = freeze(params)
    assert isinstance(frozen, FrozenDict)
    return Call("c1", "a2a.x", method, Resource("agent", "planner"), frozen, "a2a", "1.0")


async def test_receiver_hears_no_more_than_its_maker_may_see() -> None:
    world = World()
    await world.task_of(ANA)
    call = redacting(authorized(CREATE, {**CONFIG, "taskId": "t1"}))
    told = await world.relay.outgoing(call, call.call.params)
    await world.relay.incoming(call, {"id": "cfg", "taskId": "t1"})

    answers = [await world.notify(told, telling("ana@example.com"))]
    chunk = {"artifactUpdate": {"taskId": "t1", "contextId": "ctx", "artifact": {"parts": [{"text": "ana@example"}]}}}
    answers.append(await world.notify(told, chunk))

    assert answers == [200, 200]
    assert [codec.loads((await world.letter(slip)).body) for slip in world.posted] == [status("t1", "COMPLETED")]


async def test_receiver_that_speaks_0_3_hears_no_more_either() -> None:
    world = World()
    await world.task_of(ANA)
    call = redacting(authorized(CREATE, {**CONFIG, "taskId": "t1"}))
    legacy = replace(call.call, protocol_version="0.3")
    call = Authorized(legacy, ANA, replace(call.permit, call_digest=legacy.digest))
    told = await world.relay.outgoing(call, legacy.params)
    await world.relay.incoming(call, {"id": "cfg", "taskId": "t1"})

    await world.notify(told, telling("ana@example.com"))

    (slip,) = world.posted
    assert b"ana@example.com" not in slip.body
    assert json.loads(slip.body)["status"] == {"state": "completed"}


async def test_policy_that_came_to_read_results_holds_for_configurations_made_before() -> None:
    world = World()
    await world.task_of(ANA)
    told, _ = await world.create()
    await world.notify(told, telling("before"))

    world.results_judged = True
    await world.notify(told, telling("after"))

    assert [b"before" in slip.body for slip in world.posted] == [True, False]
    assert codec.loads(world.posted[1].body) == status("t1", "COMPLETED")


@pytest.mark.parametrize("inside", [False, True])
def test_policy_and_records_see_that_there_are_secrets_and_not_which(*, inside: bool) -> None:
    call = of("SendMessage", dict(sending())) if inside else of(CREATE, {**CONFIG, "taskId": "t1"})

    text = codec.dumps(call.arguments).decode()
    config = call.arguments["configuration"]["taskPushNotificationConfig"] if inside else call.arguments  # type: ignore[index]
    assert "caller-token" not in text
    assert "s3cr" not in text
    assert (config["token"], config["url"]) == ("[secret]", CONFIG["url"])
    assert config["authentication"] == {"scheme": "Bearer", "credentials": "[secret]"}
    assert "caller-token" in codec.dumps(call.params).decode()


def test_digest_of_arguments_does_not_let_secrets_be_guessed() -> None:
    one, other = (of(CREATE, {**CONFIG, "taskId": "t1", "token": token}) for token in ("1234", "4321"))

    assert one.arguments_digest == other.arguments_digest
    assert one.digest != other.digest


def test_parameters_without_secrets_are_read_as_they_are() -> None:
    for call in (of("GetTask", {"id": "t1"}), of("SendMessage", {"message": {"parts": [{"url": "u", "token": "x"}]}})):
        assert call.arguments is call.params


async def test_configurations_that_come_to_nothing_do_not_pile_up() -> None:
    world = World()
    for number in range(MAX_PENDING):
        call = authorized("SendMessage", sending(), ANA, f"c{number}")
        await world.relay.outgoing(call, call.call.params)
        world.relay.over(call)

    one_more = authorized("SendMessage", sending(), ANA, "more")
    with pytest.raises(QuotaExceeded):
        await world.relay.outgoing(one_more, one_more.call.params)

    others = authorized("SendMessage", sending(), BO, "bo")
    await world.relay.outgoing(others, others.call.params)
    world.now_ms += PENDING_MS + 1
    await world.relay.outgoing(one_more, one_more.call.params)


async def test_call_that_ends_without_an_answer_still_has_its_notifications() -> None:
    world = World()
    call = authorized("SendMessage", sending())
    told = inline(await world.relay.outgoing(call, call.call.params))
    world.relay.over(call)

    answered = await world.notify(told, status("t1"))

    assert answered == 200
    assert [slip.task_id for slip in world.posted] == ["t1"]


async def test_agent_with_large_notifications_leaves_room_for_those_of_others() -> None:
    async def addressed(slip: Slip) -> Letter:
        return Letter(slip.relay, (), slip.body)

    async def deliver(letter: Letter) -> Receipt:
        await anyio.sleep_forever()
        raise AssertionError

    def note(delivered: Delivered) -> None:
        assert delivered.fate == "lost"

    limits = Limits(waiting_bytes=100, waiting_bytes_per_agent=40)
    outbox = Outbox(addressed, deliver, note=note, random=lambda: 0.5, limits=limits)
    async with anyio.create_task_group() as group:
        group.start_soon(outbox.run)
        await anyio.wait_all_tasks_blocked()
        of_one = [outbox.put(Slip("greedy", "ana", "t", "c", f"r{n}", b"x" * 15, b"")) for n in range(5)]
        of_other = outbox.put(Slip("modest", "ana", "t", "c", "m", b"x" * 15, b""))
        group.cancel_scope.cancel()

    assert of_one == [True, True, False, False, False]
    assert of_other
