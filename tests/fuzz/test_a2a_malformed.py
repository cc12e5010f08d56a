"""Malformed A2A requests in great number, over both bindings and versions: always an answer, never a fault of ours."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any, Final

import pytest

from gateway.a2a.operations import OPERATIONS
from gateway.a2a.v03 import request_to_03
from gateway.ports import Relay
from gateway.types import Authorized, Result
from tests.a2a.worlds import World, card, message, request
from tests.fakes import ANA
from tests.fuzz.test_mcp_requests import DAMAGES, GARBAGE, INSIDE, damaged_headers, value
from tests.mcp.asgi import Answer, Header, fetch

REQUESTS: Final = 4_000
PARTS: Final = 4
PARAMS: Final[tuple[dict[str, Any], ...]] = (
    {"message": message()},
    {"message": message(taskId="t-1", contextId="c-1", referenceTaskIds=["t-1"]), "configuration": {}},
    {
        "message": message(metadata={"a": [1, {"b": None}]}),
        "configuration": {"historyLength": 3, "taskPushNotificationConfig": {"url": "https://example.com/"}},
    },
    {"id": "t-1", "historyLength": 1},
    {"taskId": "t-1", "id": "h-1", "url": "https://example.com/"},
    {"contextId": "c-1", "pageSize": 5, "status": "TASK_STATE_WORKING"},
)
PATHS: Final = (
    "/message:send", "/message:stream", "/tasks", "/tasks/t-1", "/tasks/t-1:cancel", "/tasks/t-1:subscribe",
    "/tasks/t-1/pushNotificationConfigs", "/tasks/t-1/pushNotificationConfigs/h-1", "/extendedAgentCard", "/v1/card",
    "/v1/message:send", "/.well-known/agent-card.json", "/.well-known/agent.json", "/push/x", "/push/%2e%2e", "/push//",
    "/%00", "/tasks/%ff", "/tasks/t-1%2F..", "/tasks/" + "x" * 5_000, "/counter/tasks", "//", "/tasks/:cancel", "/é",
)  # fmt: skip
QUERIES: Final = (
    "",
    "?pageSize=x",
    "?historyLength=-1",
    "?a&a&a",
    "?tenant=other",
    "?%ff=%00",
    "?pageToken=" + "y" * 9_000,
)
VERBS: Final = ("GET", "POST", "POST", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD", "X" * 50)
VERSIONS: Final = (b"1.0", b"1.0", b"0.3", b"2.0", b"", b"-")
MEMBERS: Final = ("message", "messageId", "parts", "role", "taskId", "contextId", "id", "metadata", "configuration",
    "tenant", "referenceTaskIds", "extensions", "kind", "url", "token", "authentication", "historyLength")  # fmt: skip
ALLOWED: Final = frozenset({200, 204, 304, 400, 401, 403, 404, 405, 406, 409, 413, 414, 415, 421, 422, 429})


def wrong_members(rng: random.Random, body: dict[str, Any]) -> bytes:
    """The request with members replaced, at whatever depth."""
    for _ in range(rng.randrange(1, 4)):
        places: list[Any] = [body]
        while isinstance(places[-1], dict | list) and places[-1] and rng.random() < 0.7:
            last = places[-1]
            places.append(last[rng.choice([*last])] if isinstance(last, dict) else rng.choice(last))
        place = next(each for each in reversed(places) if isinstance(each, dict))
        place[rng.choice([*place, rng.choice(MEMBERS)])] = value(rng)
    return json.dumps(body).encode()


def damaged(rng: random.Random, body: dict[str, Any]) -> bytes:
    """The request, as somebody would send it who means harm."""
    return wrong_members(rng, body) if rng.random() < 0.7 else rng.choice(DAMAGES)(rng, body)


def a_body(rng: random.Random, *, envelope: bool) -> dict[str, Any]:
    params = deepcopy(rng.choice(PARAMS))
    if not envelope:
        return params
    method = rng.choice([*OPERATIONS, "message/send", "message/stream", "tasks/get", "tasks/cancel", "", "\x00"])
    if rng.random() < 0.2 and method in OPERATIONS and "message" in params:
        method, told = request_to_03("SendMessage", {"message": params["message"]})
        params = json.loads(json.dumps(told))
    return request(method, params)


def headers_for(rng: random.Random) -> list[Header]:
    headers = {
        b"host": b"127.0.0.1:8080",
        b"authorization": b"Bearer ana",
        b"content-type": rng.choice([b"application/json", b"application/json", b"application/a2a+json", *GARBAGE]),
        b"a2a-version": rng.choice(VERSIONS),
        b"a2a-extensions": rng.choice([b"", b"https://example.com/x, https://example.com/y", *GARBAGE]),
    }
    return damaged_headers(rng, list(headers.items()))


async def soundly(authorized: Authorized, relay: Relay) -> Result:
    """What a sound agent answers: what goes wrong is ours."""
    task: dict[str, Any] = {"id": "t-1", "contextId": "c-1", "status": {"state": "TASK_STATE_WORKING"}}
    config = {"id": "h-1", "taskId": "t-1", "url": "https://example.com/"}
    results: dict[str, Any] = {
        "GetExtendedAgentCard": card(),
        "GetTask": task,
        "CancelTask": task,
        "ListTasks": {"tasks": [task], "nextPageToken": "", "pageSize": 50, "totalSize": 1},
        "CreateTaskPushNotificationConfig": config,
        "GetTaskPushNotificationConfig": config,
        "ListTaskPushNotificationConfigs": {"configs": [config]},
        "DeleteTaskPushNotificationConfig": {},
    }
    answer = json.dumps(results.get(authorized.call.method, {"task": task})).encode()
    if OPERATIONS[authorized.call.method].streams:
        await relay.emit(answer)
        return Result(b"{}")
    return Result(answer)


def check(answer: Answer, seed: object) -> None:
    """An answer as the protocol allows it, that says nothing of the gateway's inside."""
    assert answer.complete, seed
    assert answer.status in ALLOWED, (seed, answer.status, answer.body)
    assert not INSIDE.search(answer.body.replace(b"gateway.example", b"")), (seed, answer.body)
    for told in answer.messages if answer.body else ():
        assert isinstance(told, dict), seed


@pytest.mark.parametrize("part", range(PARTS))
async def test_malformed_requests_get_an_answer_of_the_protocol(part: int, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.upstream.answer = soundly
    await world.own("t-1", ANA)
    served = 0

    for number in range(part * REQUESTS // PARTS, (part + 1) * REQUESTS // PARTS):
        rng = random.Random(f"a2a {number}")
        rpc = rng.random() < 0.6
        raw = damaged(rng, a_body(rng, envelope=rpc))
        verb = "POST" if rpc and rng.random() < 0.95 else rng.choice(VERBS)
        path = "" if rpc else rng.choice(PATHS) + rng.choice(QUERIES)
        answer = await fetch(world.app, raw, headers_for(rng), method=verb, path=f"/agents/cook{path}")
        check(answer, (number, verb, path[:60], raw[:200]))
        served += answer.status == 200

    assert caplog.records == []
    assert served > REQUESTS // PARTS // 20  # not all of them fail at the door
    assert {executed.identity for executed in world.upstream.executed} <= {ANA}


async def test_request_that_is_sound_is_served_after_all_that() -> None:
    world = World()
    for number in range(50):
        rng = random.Random(number)
        raw = damaged(rng, a_body(rng, envelope=True))
        await fetch(world.app, raw, headers_for(rng), method="POST", path="/agents/cook")

    answer = await world.rpc("SendMessage", {"message": message()})

    assert answer.messages[0]["result"] == {"task": {"id": "t-1"}}
