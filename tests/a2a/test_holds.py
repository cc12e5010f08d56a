"""Held messages as tasks in `TASK_STATE_AUTH_REQUIRED`, in both bindings and both versions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import anyio
import pytest

from gateway.errors import ApprovalPending, UpstreamTimeout, UpstreamUnavailable
from gateway.ports import Relay
from gateway.types import Authorized, Result
from tests.a2a.worlds import World, message, old_message
from tests.approvals.waiting import Waiting, page
from tests.fakes import ANA
from tests.mcp.asgi import Json

BO: Final = (b"authorization", b"Bearer bo")
OLD: Final = (b"a2a-version", b"0.3")


@dataclass
class Desk:
    """An agent whose messages policy holds, and the people who decide."""

    world: World
    people: Waiting

    async def sent(self, **more: str) -> Json:
        """The task that a message is answered with."""
        task: Json = (await self.world.rpc("SendMessage", {"message": message(**more)})).result["task"]
        return task

    async def get(self, task_id: str) -> Json:
        task: Json = (await self.world.rpc("GetTask", {"id": task_id})).result
        return task

    async def refused(self, method: str, params: Json, *extra: Any) -> int:
        code: int = (await self.world.rpc(method, params, *extra)).error["code"]
        return code

    def makes(self, task_id: str, state: str = "WORKING") -> None:
        """Have the agent answer with a task of its own."""
        self.world.answer(json.dumps({"task": a_task(task_id, state)}).encode())


def a_task(task_id: str, state: str) -> Json:
    said = {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "x"}], "taskId": task_id, "contextId": "c-9"}
    status = {"state": f"TASK_STATE_{state}", "message": said}
    artifact = {"artifactId": "a", "parts": [{"data": {"taskId": task_id}}]}
    return {"id": task_id, "contextId": "c-9", "status": status, "artifacts": [artifact]}


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    people = Waiting()
    async with anyio.create_task_group() as group:
        world = World(decider=people.decider, gate=people.gate, held=people.calls(group))
        yield Desk(world, people)
        group.cancel_scope.cancel()


async def learned(desk: Desk, task_id: str) -> None:
    """What the adapter does when the agent names a task."""
    await desk.world.own(task_id, ANA, context_id="c-9")


async def test_held_message_is_a_task_that_says_who_is_asked_and_where(desk: Desk) -> None:
    task = await desk.sent(contextId="c-1")
    waiting = await desk.get(task["id"])

    assert task["status"]["state"] == "TASK_STATE_AUTH_REQUIRED"
    assert task["contextId"] == "c-1"
    assert "group:finance" in task["status"]["message"]["parts"][0]["text"]
    assert task["metadata"]["interlock"]["ticket"] == task["id"]
    assert task["metadata"]["interlock"]["url"] == page(task["id"])
    assert task["metadata"]["interlock"]["expires"].endswith("Z")
    assert waiting == task
    assert desk.world.upstream.executed == []


async def test_message_of_the_agent_completes_the_task(desk: Desk) -> None:
    desk.world.answer(b'{"message":{"messageId":"m","role":"ROLE_AGENT","parts":[{"text":"done"}]}}')
    task = await desk.sent()
    await desk.people.approved(task["id"])

    told = [await desk.get(task["id"]) for _ in range(2)]

    assert told[0] == told[1]
    assert told[0]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert told[0]["status"]["message"]["parts"] == [{"text": "done"}]
    assert (told[0]["id"], told[0]["contextId"]) == (task["id"], task["contextId"])
    assert desk.world.call.method == "SendMessage"


async def test_task_of_the_agent_stands_behind_the_id_from_then_on(desk: Desk) -> None:
    desk.makes("t-7")
    task = await desk.sent()
    await desk.people.approved(task["id"])
    first = await desk.get(task["id"])
    await learned(desk, "t-7")
    desk.world.answer(json.dumps(a_task("t-7", "COMPLETED")).encode())

    after = await desk.get(task["id"])

    assert (first["id"], first["status"]["state"]) == (task["id"], "TASK_STATE_WORKING")
    assert first["status"]["message"]["taskId"] == task["id"]
    assert (after["id"], after["status"]["state"]) == (task["id"], "TASK_STATE_COMPLETED")
    assert after["artifacts"][0]["parts"][0]["data"] == {"taskId": "t-7"}
    assert [each.call.params.get("id") for each in desk.world.upstream.executed] == [None, "t-7"]


async def test_message_to_the_held_id_asks_after_it_and_later_goes_to_the_agents_task(desk: Desk) -> None:
    desk.makes("t-7", "INPUT_REQUIRED")
    task = await desk.sent()

    still = await desk.sent(taskId=task["id"], contextId=task["contextId"])
    await desk.people.approved(task["id"])
    done = await desk.sent(taskId=task["id"])
    await learned(desk, "t-7")
    next_one = await desk.sent(taskId=task["id"], contextId=task["contextId"])

    assert still["status"]["state"] == "TASK_STATE_AUTH_REQUIRED"
    assert (done["id"], done["status"]["state"]) == (task["id"], "TASK_STATE_INPUT_REQUIRED")
    assert next_one["status"]["state"] == "TASK_STATE_AUTH_REQUIRED"  # held as a message of its own
    assert next_one["id"] != task["id"]
    assert len(desk.world.upstream.executed) == 1


async def test_same_message_again_is_the_same_task_and_goes_through_once_people_agreed(desk: Desk) -> None:
    desk.makes("t-7")
    first, second = await desk.sent(), await desk.sent(messageId="m-2")
    await desk.people.approved(first["id"])

    assert first["id"] == second["id"]
    assert (await desk.sent(messageId="m-3"))["id"] == "t-7"
    assert (await desk.get(first["id"]))["status"]["state"] == "TASK_STATE_FAILED"


async def test_stream_of_a_held_message_is_its_task_and_ends(desk: Desk) -> None:
    answer = await desk.world.rpc("SendStreamingMessage", {"message": message()})

    (event,) = answer.messages
    task = event["result"]["task"]
    assert task["status"]["state"] == "TASK_STATE_AUTH_REQUIRED"
    desk.world.stream(
        json.dumps({"task": a_task("t-7", "WORKING")}).encode(),
        b'{"statusUpdate":{"taskId":"t-7","contextId":"c-9","status":{"state":"TASK_STATE_COMPLETED"}}}',
    )
    await desk.people.approved(task["id"])
    assert (await desk.get(task["id"]))["id"] == task["id"]
    assert desk.world.call.method == "SendStreamingMessage"


async def test_subscriber_is_told_how_it_stands_and_then_what_came_of_it(desk: Desk) -> None:
    desk.world.answer(b'{"message":{"messageId":"m","role":"ROLE_AGENT","parts":[{"text":"done"}]}}')
    task = await desk.sent()

    async with desk.world.open("POST", "/tasks/" + task["id"] + ":subscribe", None) as stream:
        with anyio.fail_after(10):
            first = await stream.message(0)
            await desk.people.approved(task["id"])
            last = await stream.message(1)

    assert first["task"]["status"]["state"] == "TASK_STATE_AUTH_REQUIRED"
    assert last["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert await desk.refused("SubscribeToTask", {"id": task["id"]}) == -32004


async def test_message_is_not_sent_for_a_subscriber_whose_key_is_no_more(desk: Desk) -> None:
    task = await desk.sent()

    async with desk.world.open("POST", "/tasks/" + task["id"] + ":subscribe", None) as stream:
        with anyio.fail_after(10):
            await stream.message(0)
            del desk.world.identifier.known["ana"]
            await desk.people.approved(task["id"])
            last = await stream.message(1)

    assert last["error"]["code"] == 401
    assert desk.world.upstream.executed == []
    assert (await desk.people.ticket(task["id"])).state == "approved"


async def test_message_that_policy_lets_pass_by_now_is_sent_once_even_if_its_agent_breaks_off(desk: Desk) -> None:
    task = await desk.sent()
    await desk.people.approved(task["id"])
    desk.people.decider.holds = False
    desk.world.upstream.fail_with = UpstreamUnavailable("closed the connection before its answer was complete")

    told = [await desk.get(task["id"]) for _ in range(3)]

    assert [each["status"]["state"] for each in told] == ["TASK_STATE_FAILED"] * 3
    assert len(desk.world.upstream.executed) == 1


async def test_subscriber_of_the_agents_task_hears_of_it_by_the_held_id(desk: Desk) -> None:
    desk.makes("t-7")
    task = await desk.sent()
    await desk.people.approved(task["id"])
    await desk.get(task["id"])
    await learned(desk, "t-7")
    desk.world.stream(b'{"statusUpdate":{"taskId":"t-7","contextId":"c-9","status":{"state":"TASK_STATE_COMPLETED"}}}')

    (event,) = (await desk.world.rpc("SubscribeToTask", {"id": task["id"]})).messages

    assert event["result"]["statusUpdate"]["taskId"] == task["id"]


async def test_cancelled_task_withdraws_the_ticket(desk: Desk) -> None:
    task = await desk.sent()

    told = (await desk.world.rpc("CancelTask", {"id": task["id"]})).result

    assert told["status"]["state"] == "TASK_STATE_CANCELED"
    assert (await desk.people.ticket(task["id"])).state == "withdrawn"
    assert await desk.refused("CancelTask", {"id": task["id"]}) == -32002


async def test_denied_message_is_a_rejected_task_with_the_reason(desk: Desk) -> None:
    task = await desk.sent()
    await desk.people.denied(task["id"])

    told = await desk.get(task["id"])

    assert told["status"]["state"] == "TASK_STATE_REJECTED"
    assert told["status"]["message"]["parts"][0]["text"] == "user:bo said no: not today"


async def test_failure_of_the_agent_is_a_failed_task_and_not_tried_again(desk: Desk) -> None:
    task = await desk.sent()
    await desk.people.approved(task["id"])
    desk.world.upstream.fail_with = UpstreamTimeout("too slow")

    told = [await desk.get(task["id"]) for _ in range(2)]

    assert [each["status"]["state"] for each in told] == ["TASK_STATE_FAILED"] * 2
    assert told[0]["status"]["message"]["parts"][0]["text"] == "too slow"
    assert len(desk.world.upstream.executed) == 1


async def test_held_task_of_somebody_else_is_not_found(desk: Desk) -> None:
    task = await desk.sent()
    await desk.people.approved(task["id"])

    for method in ("GetTask", "CancelTask", "SubscribeToTask"):
        assert await desk.refused(method, {"id": task["id"]}, BO) == -32001
        assert await desk.refused(method, {"id": "apr-none"}) == -32001
    assert await desk.refused("SendMessage", {"message": message(taskId=task["id"])}, BO) == -32001
    assert desk.world.upstream.executed == []


async def test_push_notifications_are_not_for_a_task_that_its_agent_does_not_know(desk: Desk) -> None:
    task = await desk.sent()

    params = {"taskId": task["id"], "id": "p", "url": "https://example.com/hook"}

    assert await desk.refused("CreateTaskPushNotificationConfig", params) == -32004


async def test_policy_decides_on_who_asks_after_a_held_message(desk: Desk) -> None:
    task = await desk.sent()

    await desk.get(task["id"])

    asked = desk.people.decider.asked[-1]
    assert (asked.action, asked.resource.type, asked.resource.id) == ("a2a.tasks.get", "a2a_task", task["id"])
    assert asked.resource.catalog["task"] == {
        "owner": "user:ana",
        "context": task["contextId"],
        "state": "TASK_STATE_AUTH_REQUIRED",
        "tenant": "acme",
    }


async def test_client_of_0_3_reads_auth_required_and_later_the_result(desk: Desk) -> None:
    desk.world.answer(b'{"message":{"messageId":"m","role":"ROLE_AGENT","parts":[{"text":"done"}]}}')

    task = (await desk.world.rpc("message/send", {"message": old_message()}, OLD)).result
    await desk.people.approved(task["id"])
    done = (await desk.world.rpc("tasks/get", {"id": task["id"]}, OLD)).result

    assert (task["kind"], task["status"]["state"]) == ("task", "auth-required")
    assert (done["kind"], done["status"]["state"]) == ("task", "completed")


async def test_client_of_http_json_reads_the_same(desk: Desk) -> None:
    sent = await desk.world.send("POST", "/message:send", {"message": message()})
    task = json.loads(sent.body)["task"]
    got = json.loads((await desk.world.send("GET", f"/tasks/{task['id']}")).body)

    assert task["status"]["state"] == got["status"]["state"] == "TASK_STATE_AUTH_REQUIRED"


async def test_agent_that_is_still_at_it_shows_a_working_task(desk: Desk) -> None:
    go_on = anyio.Event()

    async def slowly(_: Authorized, relay: Relay) -> Result:
        await go_on.wait()
        return Result(b'{"message":{"messageId":"m","role":"ROLE_AGENT","parts":[{"text":"done"}]}}')

    desk.world.upstream.answer = slowly
    async with anyio.create_task_group() as group:
        desk.world = World(
            decider=desk.people.decider,
            gate=desk.people.gate,
            held=desk.people.calls(group, settle_s=0.01),
            upstream=desk.world.upstream,
        )
        task = await desk.sent()
        await desk.people.approved(task["id"])
        working = await desk.get(task["id"])
        cannot = await desk.refused("CancelTask", {"id": task["id"]})
        go_on.set()

    assert working["status"]["state"] == "TASK_STATE_WORKING"
    assert cannot == -32002
    assert (await desk.get(task["id"]))["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_request_of_another_kind_that_is_held_is_refused_with_its_ticket() -> None:
    world = World()
    await world.own("t-1", ANA)
    world.deny(ApprovalPending("held", decision_id="d-1", ticket_id="apr-1", url=page("apr-1"), retry_after_s=5))

    answer = await world.send("GET", "/tasks/t-1")

    (info, again) = json.loads(answer.body)["error"]["details"]
    assert answer.status == 202
    assert answer.header("retry-after") == "5"
    assert info["metadata"] == {"decisionId": "d-1", "ticket": "apr-1", "url": page("apr-1")}
    assert again["retryDelay"] == "5s"
