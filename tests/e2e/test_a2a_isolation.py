"""What one principal's tasks are to another: nothing, by every operation, binding and version, whatever is named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from anyio import to_thread

from conformance.gateway import Plan
from conformance.processes import free_port
from gateway.audit.reader import Filter, Tail
from tests.conformance.talking import Json
from tests.e2e.a2a_doors import BINDINGS, Binding, Doors, doors, message
from tests.e2e.eventually import eventually
from tests.e2e.place import ALLOW_ALL, Place, new_key, prepare, rules
from tests.e2e.sdk_agents import SdkAgent, Working, process_of, sdk_agent

pytestmark = pytest.mark.slow

NAME: Final = "planner"
TOOL: Final = f"{NAME}__ask"
MISSING: Final = {
    "T": "11111111-2222-4333-8444-555555555555",
    "C": "11111111-2222-4333-8444-666666666666",
    "P": "11111111-2222-4333-8444-777777777777",
}
"""Ids that nobody has, of a task, a context and a push configuration."""
HOOK: Final = "http://127.0.0.1:9/hook"
AT_ONCE: Final = {"returnImmediately": True}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to get at a task. T, C and P in the parameters stand for ids."""

    operation: str
    params: Mapping[str, Any]
    action: str
    in_03: bool = True

    def naming(self, ids: Mapping[str, str]) -> dict[str, Any]:
        """The parameters with these ids."""
        named = _named(self.params, ids)
        assert isinstance(named, dict)
        return named


def _named(value: object, ids: Mapping[str, str]) -> object:
    if isinstance(value, Mapping):
        return {name: _named(item, ids) for name, item in value.items()}
    if isinstance(value, list):
        return [_named(item, ids) for item in value]
    return ids.get(value, value) if isinstance(value, str) else value


def _saying(**named: object) -> Mapping[str, Any]:
    return message(**named)


ATTEMPTS: Final = {
    "read": Attempt("GetTask", {"id": "T"}, "a2a.tasks.get"),
    "cancel": Attempt("CancelTask", {"id": "T"}, "a2a.tasks.cancel"),
    "subscribe": Attempt("SubscribeToTask", {"id": "T"}, "a2a.tasks.subscribe"),
    "follow up": Attempt("SendMessage", _saying(taskId="T"), "a2a.message.send"),
    "follow up in its context": Attempt("SendMessage", _saying(taskId="T", contextId="C"), "a2a.message.send"),
    "follow up in a stream": Attempt("SendStreamingMessage", _saying(taskId="T"), "a2a.message.stream"),
    "refer": Attempt("SendMessage", _saying(referenceTaskIds=["T"]), "a2a.message.send"),
    "refer in a stream": Attempt("SendStreamingMessage", _saying(referenceTaskIds=["T"]), "a2a.message.stream"),
    "push create": Attempt("CreateTaskPushNotificationConfig", {"taskId": "T", "url": HOOK}, "a2a.push.create"),
    "push get": Attempt("GetTaskPushNotificationConfig", {"taskId": "T", "id": "P"}, "a2a.push.get"),
    "push list": Attempt("ListTaskPushNotificationConfigs", {"taskId": "T"}, "a2a.push.list"),
    "push delete": Attempt("DeleteTaskPushNotificationConfig", {"taskId": "T", "id": "P"}, "a2a.push.delete"),
}
"""What has to be answered as for a task that does not exist."""

CONTEXTS: Final = {
    "say": Attempt("SendMessage", _saying(contextId="C"), "a2a.message.send"),
    "stream": Attempt("SendStreamingMessage", _saying(contextId="C"), "a2a.message.stream"),
}
"""A context that nobody has is free to use, so somebody else's is answered as a task that does not exist."""

TABLE: Final = [(binding, name) for binding in BINDINGS for name in ATTEMPTS]


@dataclass
class World:
    """A gateway before one agent, a task of Ana's, and Bo, who may use the agent as well."""

    place: Place
    gateway: ExitStack
    """Closing it ends the gateway."""
    agent: SdkAgent
    keys: Mapping[str, str]
    ana: Doors
    bo: Doors
    ids: Mapping[str, str]

    async def task(self) -> Json:
        """Ana's task as she sees it."""
        return await self.ana.result("GetTask", {"id": self.ids["T"]})

    async def configs(self) -> Json:
        """Its push configurations."""
        return await self.ana.result("ListTaskPushNotificationConfigs", {"taskId": self.ids["T"]})

    def refusals(self) -> list[Json]:
        """What is on record of Bo's calls that were refused."""
        found = Tail(self.place.state / "audit", Filter(subject="user:bo")).last(10_000)
        return [content for body in found if (content := json.loads(body))["error"] == "unknown_resource"]


@asynccontextmanager
async def opened_doors(place: Place, keys: Mapping[str, str], grpc_port: int) -> AsyncIterator[tuple[Doors, Doors]]:
    async with (
        doors(place.url, NAME, keys["ana"], grpc_port) as ana,
        doors(place.url, NAME, keys["bo"], grpc_port) as bo,
    ):
        yield ana, bo


@asynccontextmanager
async def started(directory: Path) -> AsyncIterator[World]:
    """The gateway as a process, and Ana's task with a push configuration."""
    async with sdk_agent(NAME, Working()) as upstream, AsyncExitStack() as stack:
        grpc_port = free_port()
        place = prepare(
            directory,
            Plan(
                {},
                {
                    "policy": rules(directory, all=ALLOW_ALL),
                    "listen": {"grpc_port": grpc_port},
                    f"agents.{NAME}": {"card_url": upstream.card_url},
                },
            ),
        )
        keys = {name: await new_key(place, name) for name in ("ana", "bo")}
        gateway = stack.enter_context(await to_thread.run_sync(process_of, place))
        ana, bo = await stack.enter_async_context(opened_doors(place, keys, grpc_port))
        made = (await ana.result("SendMessage", {**message(), "configuration": AT_ONCE}))["task"]
        config = await ana.result("CreateTaskPushNotificationConfig", {"taskId": made["id"], "url": HOOK})
        ids = {"T": made["id"], "C": made["contextId"], "P": config["id"]}
        yield World(place, gateway, upstream, keys, ana, bo, ids)


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with started(tmp_path_factory.mktemp("isolation")) as made:
        yield made


@pytest.mark.parametrize(("binding", "name"), TABLE)
async def test_somebody_elses_task_is_answered_as_one_that_does_not_exist(
    world: World, binding: Binding, name: str
) -> None:
    attempt = ATTEMPTS[name]
    task, configs, told = await world.task(), await world.configs(), world.refusals()
    heard = len(world.agent.heard)

    foreign = await world.bo.ask(binding, attempt.operation, attempt.naming(world.ids))
    missing = await world.bo.ask(binding, attempt.operation, attempt.naming(MISSING))

    assert foreign.naming(**world.ids) == missing.naming(**MISSING)
    assert "not found" in foreign.body.lower()
    assert len(world.agent.heard) == heard
    assert await world.task() == task
    assert await world.configs() == configs
    recorded = await eventually(lambda: recorded_since(world, len(told)))
    assert [(row["call"]["action"], row["outcome"]) for row in recorded] == [(attempt.action, "denied")] * 2
    assert world.ids["T"] in recorded[0]["resource"]["id"]


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("name", CONTEXTS)
async def test_somebody_elses_context_is_answered_as_a_task_that_does_not_exist(
    world: World, binding: Binding, name: str
) -> None:
    attempt, heard, told = CONTEXTS[name], len(world.agent.heard), world.refusals()
    lost = ATTEMPTS["follow up" if name == "say" else "follow up in a stream"]

    foreign = await world.bo.ask(binding, attempt.operation, attempt.naming(world.ids))
    missing = await world.bo.ask(binding, lost.operation, lost.naming(MISSING))

    assert foreign.naming(**world.ids) == missing.naming(**MISSING)
    assert len(world.agent.heard) == heard
    recorded = await eventually(lambda: recorded_since(world, len(told)))
    assert [row["call"]["action"] for row in recorded] == [attempt.action] * 2


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON", "GRPC"])
async def test_lists_have_ones_own_tasks_whatever_context_they_are_asked_for(world: World, binding: Binding) -> None:
    heard = len(world.agent.heard)

    of_bo = [await world.bo.ask(binding, "ListTasks", params) for params in ({}, {"contextId": world.ids["C"]})]
    of_nobody = await world.bo.ask(binding, "ListTasks", {"contextId": MISSING["C"]})
    asked_for_bo = len(world.agent.heard) - heard
    of_ana = await world.ana.ask(binding, "ListTasks", {"contextId": world.ids["C"]})

    assert of_bo == [of_nobody] * 2
    assert asked_for_bo == 0
    assert world.ids["T"] in of_ana.body


@pytest.mark.parametrize("binding", BINDINGS)
async def test_card_for_known_callers_says_the_same_to_both(world: World, binding: Binding) -> None:
    of_ana, of_bo = [await caller.ask(binding, "GetExtendedAgentCard", {}) for caller in (world.ana, world.bo)]

    assert of_ana == of_bo


async def test_tools_made_of_the_agent_keep_tasks_and_contexts_apart_too(world: World) -> None:
    heard, told = len(world.agent.heard), world.refusals()
    named = ({"task_id": "T"}, {"context_id": "C"}, {"task_id": "T", "context_id": "C"})
    answers = []
    async with world.place.caller(world.keys["bo"]) as bo, world.place.caller(world.keys["ana"]) as ana:
        for arguments in named:
            for ids in (world.ids, {**MISSING, "C": world.ids["C"]}):
                got = await bo.call(TOOL, {"message": "x", **{key: ids[value] for key, value in arguments.items()}})
                answers.append((got.status, got.message.get("error"), got.text))
        asked_for_bo = len(world.agent.heard) - heard
        own = await ana.call(TOOL, {"message": "x", "task_id": world.ids["T"]})

    assert all(answer == answers[0] for answer in answers)
    assert "does not exist for you" in answers[0][2]
    assert asked_for_bo == 0
    assert not own.failed
    recorded = await eventually(lambda: recorded_since(world, len(told)))
    assert "a2a.message.send" in {row["call"]["action"] for row in recorded}


async def test_ownership_outlives_the_gateway(tmp_path: Path) -> None:
    async with started(tmp_path) as made:
        made.gateway.close()
        with await to_thread.run_sync(process_of, made.place):
            heard = len(made.agent.heard)
            answers = [
                (await made.bo.ask(binding, attempt.operation, attempt.naming(ids))).naming(**ids)
                for binding in BINDINGS
                for attempt in (*ATTEMPTS.values(), *CONTEXTS.values())
                for ids in (made.ids, {**MISSING, "C": made.ids["C"]})
            ]
            asked_for_bo = len(made.agent.heard) - heard
            task, configs = await made.task(), await made.configs()
            ended = await made.ana.result("CancelTask", {"id": made.ids["T"]})

    assert answers[::2] == answers[1::2]
    assert asked_for_bo == 0
    assert task["id"] == made.ids["T"]
    assert [config["id"] for config in configs["configs"]] == [made.ids["P"]]
    assert ended["status"]["state"] == "TASK_STATE_CANCELED"


async def recorded_since(world: World, count: int) -> list[Json]:
    found = world.refusals()[count:]
    return found if len(found) >= 2 else []
