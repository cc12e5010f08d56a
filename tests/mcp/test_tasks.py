"""Held tool calls as tasks (extension `io.modelcontextprotocol/tasks`, 2026-07-28)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import anyio
import pytest

from gateway.errors import UpstreamTimeout, UpstreamUnavailable
from gateway.tickets import TicketQuery
from gateway.types import Result
from tests.approvals.waiting import HoldingCalls, Waiting, page
from tests.fakes import FakeUpstream
from tests.mcp.asgi import Answer, Json
from tests.mcp.test_rounds import asking
from tests.mcp.worlds import World, call, request

EXTENSION: Final = "io.modelcontextprotocol/tasks"
TASKS: Final[Json] = {"extensions": {EXTENSION: {}}}
CAN_OPEN: Final[Json] = {**TASKS, "elicitation": {"url": {}}}
BO: Final = (b"authorization", b"Bearer bo")


@dataclass
class Desk:
    """A gateway whose policy holds tool calls, and the people who decide."""

    world: World
    people: Waiting

    async def began(self, capabilities: Json = TASKS, **arguments: object) -> Json:
        """The task that a call is answered with."""
        task: Json = (await self.world.post(call(arguments=arguments, clientCapabilities=capabilities))).result
        return task

    async def ask(self, method: str, task_id: str, *extra: Any, capabilities: Json = TASKS, **more: object) -> Answer:
        return await self.world.post(
            request(method, {"taskId": task_id, **more}, clientCapabilities=capabilities), *extra
        )

    async def get(self, task_id: str, capabilities: Json = TASKS) -> Json:
        task: Json = (await self.ask("tasks/get", task_id, capabilities=capabilities)).result
        return task


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    people = Waiting()
    async with anyio.create_task_group() as group:
        upstream = FakeUpstream(payload=b'{"content":[{"type":"text","text":"paid"}],"resultType":"complete"}')
        held = people.calls(group)
        yield Desk(World(decider=people.decider, upstream=upstream, gate=people.gate, held=held), people)
        group.cancel_scope.cancel()


async def test_held_call_is_a_task_whose_result_is_the_one_of_the_call(desk: Desk) -> None:
    task = await desk.began(a=1)
    waiting = await desk.get(task["taskId"])
    await desk.people.approved(task["taskId"])
    done = [await desk.get(task["taskId"]) for _ in range(2)]

    assert task["resultType"] == "task"
    assert waiting["resultType"] == "complete"
    assert task["status"] == waiting["status"] == "working"
    assert "group:finance" in waiting["statusMessage"]
    assert page(task["taskId"]) in waiting["statusMessage"]
    assert (task["pollIntervalMs"], task["createdAt"][-1], task["ttlMs"] > 0) == (5_000, "Z", True)
    assert [each["status"] for each in done] == ["completed"] * 2
    assert done[0]["result"] == {"content": [{"type": "text", "text": "paid"}], "resultType": "complete"}
    (executed,) = desk.world.upstream.executed
    assert executed.call.arguments == {"a": 1}


async def test_same_call_again_is_the_same_task(desk: Desk) -> None:
    first, second = await desk.began(a=1), await desk.began(a=1)

    assert first["taskId"] == second["taskId"]
    assert (await desk.began(a=2))["taskId"] != first["taskId"]


async def test_task_is_preferred_by_a_client_that_can_open_addresses_and_carries_the_question(desk: Desk) -> None:
    task = await desk.began(CAN_OPEN)
    asked = await desk.get(task["taskId"], CAN_OPEN)
    told = (
        await desk.ask(
            "tasks/update",
            task["taskId"],
            capabilities=CAN_OPEN,
            inputResponses={"approval": {"action": "accept"}, "another": {}},
        )
    ).result
    after = await desk.get(task["taskId"], CAN_OPEN)

    assert task["resultType"] == "task"
    assert asked["status"] == "input_required"
    question = asked["inputRequests"]["approval"]
    assert (question["method"], question["params"]["mode"]) == ("elicitation/create", "url")
    assert question["params"]["url"] == page(task["taskId"])
    assert told == {"resultType": "complete"}
    assert after["status"] == "working"


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_user_who_will_not_go_to_the_page_takes_the_call_back(desk: Desk, action: str) -> None:
    task = await desk.began(CAN_OPEN)

    await desk.ask("tasks/update", task["taskId"], inputResponses={"approval": {"action": action}})

    assert (await desk.get(task["taskId"]))["status"] == "cancelled"


async def test_cancelled_task_withdraws_the_ticket(desk: Desk) -> None:
    task = await desk.began()

    told = (await desk.ask("tasks/cancel", task["taskId"])).result

    assert told == {"resultType": "complete"}
    assert (await desk.get(task["taskId"]))["status"] == "cancelled"
    assert (await desk.people.ticket(task["taskId"])).state == "withdrawn"
    assert desk.world.upstream.executed == []


async def test_denial_is_a_result_that_the_model_can_read(desk: Desk) -> None:
    task = await desk.began()
    await desk.people.denied(task["taskId"])

    told = await desk.get(task["taskId"])

    assert told["status"] == "completed"
    assert told["result"]["isError"] is True
    assert "user:bo said no: not today" in told["result"]["content"][0]["text"]


async def test_failure_of_the_upstream_is_told_as_the_call_would_have_told_it(desk: Desk) -> None:
    task = await desk.began()
    await desk.people.approved(task["taskId"])
    desk.world.upstream.fail_with = UpstreamTimeout("too slow")

    told = [await desk.get(task["taskId"]) for _ in range(2)]

    assert [each["result"]["isError"] for each in told] == [True] * 2
    assert len(desk.world.upstream.executed) == 1


async def test_error_of_the_protocol_makes_the_task_failed(desk: Desk) -> None:
    task = await desk.began()
    await desk.people.approved(task["taskId"])

    async def refuse(*_: object) -> Result:
        return Result(b'{"code":-32602,"message":"no such tool"}', "rpc_error")

    desk.world.upstream.answer = refuse
    told = await desk.get(task["taskId"])

    assert told["status"] == "failed"
    assert told["error"] == {"code": -32602, "message": "no such tool"}


async def test_task_of_somebody_else_is_as_one_that_there_is_not(desk: Desk) -> None:
    task = await desk.began()
    await desk.people.approved(task["taskId"])

    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        foreign, missing = [await desk.ask(method, each, BO) for each in (task["taskId"], "apr-none")]
        assert (foreign.status, foreign.error["code"]) == (missing.status, -32602)
        assert foreign.error["message"].replace(task["taskId"], "") == missing.error["message"].replace("apr-none", "")
    assert desk.world.upstream.executed == []


async def test_client_that_did_not_declare_the_extension_gets_no_task_and_no_answer_about_one(desk: Desk) -> None:
    task = await desk.began()

    plain = (await desk.world.post(call())).result
    refused = await desk.ask("tasks/get", task["taskId"], capabilities={})
    listen = request("subscriptions/listen", {"notifications": {"taskIds": [task["taskId"]]}})
    listening = await desk.world.post(listen)

    assert plain["isError"] is True
    for answer in (refused, listening):
        assert answer.status == 400
        assert answer.error["code"] == -32021
        assert answer.error["data"] == {"requiredCapabilities": TASKS}


async def test_name_in_the_header_is_that_of_the_task(desk: Desk) -> None:
    task = await desk.began()

    wrong = await desk.ask("tasks/get", task["taskId"], (b"mcp-name", b"another"))
    none = await desk.ask("tasks/get", task["taskId"], (b"mcp-name", b"-"))

    assert [wrong.error["code"], none.error["code"]] == [-32020] * 2


async def test_extension_is_announced_where_it_is_served_and_nowhere_else(desk: Desk) -> None:
    served = (await desk.world.post(request("server/discover"))).result
    plain = World()
    not_served = (await plain.post(request("server/discover"))).result

    assert served["capabilities"]["extensions"] == {EXTENSION: {}}
    assert "extensions" not in not_served["capabilities"]
    answer = await plain.post(request("tasks/get", {"taskId": "t"}, clientCapabilities=TASKS))
    assert (answer.status, answer.error["code"]) == (404, -32601)


@pytest.mark.parametrize("method", ["tasks/result", "tasks/list"])
async def test_methods_of_the_experiment_are_gone(desk: Desk, method: str) -> None:
    assert (await desk.ask(method, "t")).error["code"] == -32601


async def test_policy_decides_on_who_asks_after_a_task(desk: Desk) -> None:
    task = await desk.began()

    await desk.get(task["taskId"])

    asked = desk.people.decider.asked[-1]
    assert (asked.action, asked.resource.type, asked.resource.id) == ("mcp.tasks.get", "mcp_task", task["taskId"])
    assert asked.resource.upstream == "files"
    assert asked.resource.catalog["task"] == {"owner": "user:ana", "state": "waiting"}
    assert asked.facts == {"granted": True}


async def test_call_whose_rules_changed_is_held_again_and_goes_on_when_people_agree_to_that(desk: Desk) -> None:
    task = await desk.began()
    await desk.people.approved(task["taskId"])
    desk.people.decider.revision = "r2"

    meanwhile = await desk.get(task["taskId"])
    (other,) = await desk.people.tickets.tickets(TicketQuery(state="pending"))
    await desk.people.approved(other.id)
    done = await desk.get(task["taskId"])

    assert meanwhile["status"] == "working"
    assert done["status"] == "completed"
    assert len(desk.world.upstream.executed) == 1


async def test_task_outlives_the_gateway_that_made_it(desk: Desk) -> None:
    task = await desk.began()
    await desk.people.approved(task["taskId"])

    async with anyio.create_task_group() as group:
        people = desk.people
        held = people.calls(group, instance="two")
        second = Desk(World(decider=HoldingCalls(), gate=people.gate, held=held), people)
        done = await second.get(task["taskId"])
        group.cancel_scope.cancel()

    assert done["status"] == "completed"
    assert (await desk.get(task["taskId"]))["result"] == done["result"]


async def test_answer_that_is_no_json_is_an_error_and_ends_nothing_else(desk: Desk) -> None:
    first, second = await desk.began(a=1), await desk.began(a=2)
    await desk.people.approved(first["taskId"])
    desk.world.upstream.payload = b"nonsense"

    broken = await desk.get(first["taskId"])
    desk.world.upstream.payload = b'{"content":[],"resultType":"complete"}'
    await desk.people.approved(second["taskId"])

    assert (broken["status"], broken["error"]["code"]) == ("failed", -32603)
    assert (await desk.get(second["taskId"]))["status"] == "completed"


async def test_call_that_policy_lets_pass_by_now_is_made_once_even_if_its_upstream_breaks_off(desk: Desk) -> None:
    task = await desk.began()
    await desk.people.approved(task["taskId"])
    desk.people.decider.holds = False
    desk.world.upstream.fail_with = UpstreamUnavailable("closed the connection before its answer was complete")

    told = [await desk.get(task["taskId"]) for _ in range(3)]

    assert len(desk.world.upstream.executed) == 1
    assert [each["status"] for each in told] == ["completed"] * 3
    assert told[0]["result"]["isError"] is True
    assert (await desk.people.ticket(task["taskId"])).state == "spent"


async def test_call_that_policy_lets_pass_by_now_is_not_made_again_when_its_gateway_ends(desk: Desk) -> None:
    task = await desk.began()
    await desk.people.approved(task["taskId"])
    desk.people.decider.holds = False

    async def working(*_: object) -> Result:
        await anyio.sleep_forever()
        raise AssertionError("nobody wakes it")

    async with anyio.create_task_group() as group:
        held = desk.people.calls(group, instance="two", settle_s=0.01)
        world = World(decider=desk.people.decider, upstream=FakeUpstream(working), gate=desk.people.gate, held=held)
        await Desk(world, desk.people).get(task["taskId"])
        group.cancel_scope.cancel()
    told = await desk.get(task["taskId"])

    assert len(world.upstream.executed) == 1
    assert desk.world.upstream.executed == []
    assert "not known whether it took effect" in told["result"]["content"][0]["text"]


async def test_tool_that_asks_its_caller_fails_the_task_and_is_not_called_again(desk: Desk) -> None:
    task = await desk.began()
    await desk.people.approved(task["taskId"])
    desk.world.upstream.answer = asking

    told, again = [await desk.get(task["taskId"]) for _ in range(2)]

    assert told == again
    assert told["status"] == "failed"
    assert "without that extension" in told["error"]["message"]
    assert told["statusMessage"] == told["error"]["message"]
    assert len(desk.world.upstream.executed) == 1


async def test_answer_that_cannot_be_kept_ends_nothing_else(desk: Desk) -> None:
    first, second = await desk.began(a=1), await desk.began(a=2)
    await desk.people.approved(first["taskId"])
    await desk.people.approved(second["taskId"])
    deep = 1_000  # can be read, and not be written
    desk.world.upstream.payload = b'{"structuredContent":' + b"[" * deep + b"]" * deep + b"}"

    broken = await desk.get(first["taskId"])
    desk.world.upstream.payload = b'{"content":[],"resultType":"complete"}'

    assert "not known whether it took effect" in broken["result"]["content"][0]["text"]
    assert (await desk.get(second["taskId"]))["status"] == "completed"
    assert len(desk.world.upstream.executed) == 2
