"""Tasks, contexts and references of somebody else look as if they did not exist, and their agent hears nothing."""

from __future__ import annotations

import pytest

from tests.a2a.worlds import World, message, request
from tests.fakes import ANA, BO
from tests.mcp.asgi import Answer, Json

HOOK = "https://client.example/hook"
CONFIGS = "/tasks/T/pushNotificationConfigs"
FOLLOW_UP = {"message": message(taskId="T")}
REFERENCE = {"message": message(referenceTaskIds=["mine", "T"])}
ON_A_TASK = [
    ("GetTask", {"id": "T"}, "GET", "/tasks/T", None),
    ("CancelTask", {"id": "T"}, "POST", "/tasks/T:cancel", None),
    ("SubscribeToTask", {"id": "T"}, "GET", "/tasks/T:subscribe", None),
    ("CreateTaskPushNotificationConfig", {"taskId": "T", "url": HOOK}, "POST", CONFIGS, {"url": HOOK}),
    ("GetTaskPushNotificationConfig", {"taskId": "T", "id": "p"}, "GET", CONFIGS + "/p", None),
    ("ListTaskPushNotificationConfigs", {"taskId": "T"}, "GET", CONFIGS, None),
    ("DeleteTaskPushNotificationConfig", {"taskId": "T", "id": "p"}, "DELETE", CONFIGS + "/p", None),
    ("SendMessage", FOLLOW_UP, "POST", "/message:send", FOLLOW_UP),
    ("SendStreamingMessage", FOLLOW_UP, "POST", "/message:stream", FOLLOW_UP),
    ("SendMessage", REFERENCE, "POST", "/message:send", REFERENCE),
]


async def worlds() -> tuple[World, World]:
    """One where the task is Bo's, and one where it is nobody's; Ana has a task of her own in both."""
    foreign, missing = World(), World()
    for world in (foreign, missing):
        await world.own("mine", ANA, context_id="c-mine")
    await foreign.own("T", BO, context_id="c-bo")
    return foreign, missing


def seen(answer: Answer) -> tuple[object, ...]:
    """All that a caller can tell one answer from another by."""
    return answer.status, sorted(answer.headers), answer.body


@pytest.mark.parametrize(("method", "params", "verb", "path", "body"), ON_A_TASK)
async def test_a_foreign_task_looks_like_a_missing_one(
    method: str, params: Json, verb: str, path: str, body: Json | None
) -> None:
    foreign, missing = await worlds()

    over_rpc = [await world.rpc(method, params) for world in (foreign, missing)]
    over_http = [await world.send(verb, path, body) for world in (foreign, missing)]

    assert seen(over_rpc[0]) == seen(over_rpc[1])
    assert seen(over_http[0]) == seen(over_http[1])
    assert over_rpc[0].error["code"] == -32001
    assert over_rpc[0].error["data"][0]["reason"] == "TASK_NOT_FOUND"
    assert over_http[0].status == 404
    for world in (foreign, missing):
        assert world.upstream.executed == []
        assert world.decider.asked == []
        assert {record.error for record in world.trail.records} == {"unknown_resource"}
        assert {record.identity for record in world.trail.records} == {ANA}


async def test_a_message_in_a_foreign_context_is_refused() -> None:
    foreign, _ = await worlds()

    got = await foreign.rpc("SendMessage", {"message": message(contextId="c-bo")})

    assert got.error["code"] == -32001
    assert foreign.upstream.executed == []


@pytest.mark.parametrize(("method", "params", "verb", "path", "body"), ON_A_TASK)
async def test_the_owner_is_let_through(method: str, params: Json, verb: str, path: str, body: Json | None) -> None:
    world = World()
    await world.own("T", ANA, context_id="c-1")
    await world.own("mine", ANA, context_id="c-1")
    world.answer(b"{}")

    got = await world.rpc(method, params)

    assert b"error" not in got.body
    assert len(world.upstream.executed) == 1


async def test_old_clients_cannot_reach_a_foreign_task_either() -> None:
    foreign, missing = await worlds()

    answers = [
        await world.send("POST", "", request("tasks/get", {"id": "T"}), (b"a2a-version", b"-"))
        for world in (foreign, missing)
    ]

    assert seen(answers[0]) == seen(answers[1])
    assert answers[0].error["code"] == -32001


async def test_a_store_that_is_lost_is_never_a_yes() -> None:
    world = World()
    await world.own("T", ANA)
    world.store.fail_with = ConnectionError("database is gone")

    got = await world.rpc("GetTask", {"id": "T"})

    assert got.error["code"] == -32603
    assert world.upstream.executed == []
