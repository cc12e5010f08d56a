"""Agents of the configuration: described, judged and offered as tools, and what they refuse to carry out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from adapters.upstreams.wire.http import HttpPool
from adapters.upstreams.wire.origin import split_url
from gateway.a2a.directory import AgentEntry, Agents
from gateway.app.agents import ServersAsAgents, within_reach
from gateway.errors import ConfigError, PolicyDenied, UnknownResource, UpstreamUnavailable
from gateway.registry import Change, Registry
from gateway.running import Runnable
from gateway.types import Result
from tests.a2a.app_world import NAME, PLANNER, AppWorld, asking, of_mcp, opened, settings_of
from tests.a2a.worlds import message
from tests.e2e.sdk_agents import SdkAgent, Working, sdk_agent
from tests.fakes import ANA, BO, FakeRelay
from tests.registry.samples import catalog_of, tool


@asynccontextmanager
async def running(directory: Path, *skills: str, **more: object) -> AsyncIterator[tuple[AppWorld, SdkAgent, Runnable]]:
    """An agent of the SDK as the factory makes it of the configuration, once its card was looked at."""
    async with sdk_agent(NAME, Working(), *skills) as served:
        settings = settings_of(directory, **{f"agents__{NAME}": {"card_url": served.card_url, **more}})
        async with opened(directory, settings) as world:
            made = world.factory.make(NAME, settings.agents[NAME])
            world.group.start_soon(made.run)
            with anyio.fail_after(10):
                await made.settled.wait()
            yield world, served, made


def payload(result: Result) -> dict[str, object]:
    found: dict[str, object] = json.loads(result.payload)
    return found


def tools_in(world: AppWorld) -> list[str]:
    return [item.resource.name for item in world.registry.items(NAME, "tool")]


async def task_of(made: Runnable) -> dict[str, str]:
    """A task of Ana's at the agent."""
    told = payload(await made.execute(asking("SendMessage", {"message": message()}), FakeRelay()))
    task = told["task"]
    assert isinstance(task, dict)
    return task


async def test_agent_is_described_by_its_card_and_offers_its_skills_as_tools(tmp_path: Path) -> None:
    async with running(tmp_path, "cook", "clean", skills=["cook"], labels=["x"], risk="high") as (world, _, made):
        entry = world.a2a.shared.agents.get(NAME)
        report = made.report()
        tools, pinned = (
            tools_in(world),
            [item.resource.catalog["pinned"] for item in world.registry.items(NAME, "tool")],
        )

    assert entry is not None
    assert (entry.labels, entry.risk, entry.skills, entry.pinned) == (("x",), "high", ("cook",), True)
    assert report["state"] == "up"
    assert (tools, pinned) == (["cook"], [True])


async def test_calls_of_both_protocols_reach_the_agent(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, served, made):
        task = await task_of(made)
        relay = FakeRelay()
        relay.answers = {"a2a.message.send": Result(json.dumps({"task": task}).encode())}
        told = payload(await made.execute(of_mcp(asking("GetTask", {}), "ask", {"message": "x"}), relay))
        heard = len(served.heard)
        made.unwatched("nothing://")

    assert told["isError"] is False
    assert [action for action, *_ in relay.acted] == ["a2a.message.send"]
    assert heard == 1


async def test_what_a_bridged_message_names_must_be_its_callers(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, served, made):
        task = await task_of(made)
        heard = len(served.heard)
        for named in ({"taskId": task["id"]}, {"contextId": task["contextId"]}, {"referenceTaskIds": ["nobodys"]}):
            call = asking("SendMessage", {"message": message(**named)}, BO, parent="tool-call")
            with pytest.raises(UnknownResource):
                await made.execute(call, FakeRelay())
        asked = len(served.heard) - heard
        own = asking("SendMessage", {"message": message(taskId=task["id"])}, ANA, parent="tool-call")
        answered = payload(await made.execute(own, FakeRelay()))

    assert asked == 0
    assert "task" in answered


async def test_conversation_that_somebody_else_began_meanwhile_is_not_entered(tmp_path: Path) -> None:
    async with running(tmp_path) as (world, served, made):
        await world.a2a.shared.tasks.reserve(NAME, "c-9", ANA)
        with pytest.raises(UnknownResource, match="conversation"):
            await made.execute(asking("SendMessage", {"message": message(contextId="c-9")}, BO), FakeRelay())
        heard = len(served.heard)

    assert heard == 0


async def test_push_configuration_within_a_message_needs_its_own_permission(tmp_path: Path) -> None:
    config = {"url": "http://127.0.0.1:9/hook"}
    params = {"message": message(), "configuration": {"taskPushNotificationConfig": config}}
    async with running(tmp_path) as (_, served, made):
        refusing, allowing = FakeRelay(), FakeRelay()
        refusing.answers = {"a2a.push.create": PolicyDenied("no hooks", decision_id="d", reasons=())}
        with pytest.raises(PolicyDenied, match="no hooks"):
            await made.execute(asking("SendMessage", params), refusing)
        heard = len(served.heard)
        allowing.answers = {"a2a.push.create": Result(b"{}")}
        told = payload(await made.execute(asking("SendMessage", params), allowing))

    assert heard == 0
    assert "task" in told
    assert [action for action, *_ in allowing.acted] == ["a2a.push.create"]


async def test_agent_whose_credential_cannot_be_read_is_down_and_says_why(tmp_path: Path) -> None:
    table = {"card_url": "http://127.0.0.1:9/card", "headers": {"authorization": "Bearer env:NOT_SET_FOR_THIS_TEST"}}
    settings = settings_of(tmp_path, **{f"agents__{NAME}": table})
    async with opened(tmp_path, settings) as world:
        made = world.factory.make(NAME, settings.agents[NAME])
        with pytest.raises(ConfigError, match="NOT_SET_FOR_THIS_TEST"):
            await made.run()
        with pytest.raises(UpstreamUnavailable, match="NOT_SET_FOR_THIS_TEST"):
            await made.execute(asking("GetTask", {"id": "t"}), FakeRelay())
        made.unwatched("nothing://")
        world.factory.judge_again()
        entry, report = world.a2a.shared.agents.get(NAME), made.report()

    assert made.settled.is_set()
    assert entry is not None
    assert "NOT_SET_FOR_THIS_TEST" in entry.down
    assert report["state"] == "down"


async def test_agent_that_was_replaced_has_no_say_any_more(tmp_path: Path) -> None:
    async with sdk_agent(NAME, Working(), "old") as old, sdk_agent(NAME, Working(), "new") as new:
        settings = settings_of(tmp_path, **{f"agents__{NAME}": {"card_url": new.card_url}})
        async with opened(tmp_path, settings) as world:
            former = world.factory.make(NAME, settings.agents[NAME].model_copy(update={"card_url": old.card_url}))
            made = world.factory.make(NAME, settings.agents[NAME])
            for runnable in (made, former):
                world.group.start_soon(runnable.run)
                with anyio.fail_after(10):
                    await runnable.settled.wait()
            tools = tools_in(world)

    assert tools == ["new"]


async def test_changed_card_is_quarantined_with_its_tools(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, "cook") as (world, _, made):
        before = tools_in(world)
        await made.execute(asking("SendMessage", {"message": message()}), FakeRelay())
    async with running(tmp_path, "cook", "steal") as (world, _, made):
        entry, state = world.a2a.shared.agents.get(NAME), world.registry.snapshot.upstream(NAME)
        with pytest.raises(UpstreamUnavailable):
            await made.execute(asking("SendMessage", {"message": message()}), FakeRelay())
        world.factory.judge_again()
        world.factory.crashed(NAME)
        crashed = world.registry.snapshot.upstream(NAME)

    assert before == ["cook"]
    assert entry is not None
    assert "steal" in entry.quarantine
    assert state is not None
    assert "quarantined" in state.down
    assert "its card is quarantined" in caplog.text
    assert crashed is not None
    assert "could not be started" in crashed.down


async def test_agent_that_is_not_there_offers_no_tools(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, **{f"agents__{NAME}": {"card_url": "http://127.0.0.1:9/card"}})
    async with opened(tmp_path, settings) as world:
        made = world.factory.make(NAME, settings.agents[NAME])
        world.group.start_soon(made.run)
        with anyio.fail_after(10):
            await made.settled.wait()
        state = world.registry.snapshot.upstream(NAME)

    assert state is not None
    assert state.down


@pytest.mark.parametrize(
    ("home", "address", "reached"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("10.1.2.3", "192.168.0.1", True),
        ("127.0.0.1", "8.8.8.8", True),
        ("8.8.8.8", "8.8.4.4", True),
        ("8.8.8.8", "127.0.0.1", False),
        ("8.8.8.8", "10.0.0.1", False),
        ("8.8.8.8", "no address", False),
        ("", "127.0.0.1", False),
        ("127.0.0.1", "169.254.169.254", False),
    ],
)
def test_agent_from_elsewhere_leads_to_no_door_of_ours(home: str, address: str, reached: bool) -> None:
    pool = HttpPool(split_url("http://agent.example:1/card")[0], label=NAME)
    pool.peer = home

    assert within_reach(pool, address) is reached


async def test_which_agent_a_chain_may_come_from_is_known_as_agents_come_and_go(tmp_path: Path) -> None:
    async with running(tmp_path) as (world, _, _made):
        chains, agents = world.a2a.shared.chains, world.a2a.shared.agents
        with chains.entering(asking("SendMessage", {"message": message()}), NAME) as token:
            known = chains.extended(PLANNER, token)
            agents.configure(())
            forgotten = chains.extended(PLANNER, "")

    assert known.delegation == ("user:ana", f"agent:{NAME}")
    assert forgotten == PLANNER


def test_servers_are_agents_while_they_are_heard_of() -> None:
    registry, agents = Registry(), Agents()
    registry.configure(["time", "files"])
    agents.configure(["time", "files"])
    servers = ServersAsAgents(agents, registry, lambda: ("time",))
    shown: list[AgentEntry | None] = []

    servers.show("time")
    shown.append(agents.get("time"))
    registry.put(catalog_of("time", tools=[tool("now")]))
    servers.follow(Change(frozenset({"tool"}), "time", 1))
    servers.follow(Change(frozenset({"tool"}), "files", 1))
    shown.append(agents.get("time"))
    registry.down("time", "it fell over")
    servers.show("time")
    shown.append(agents.get("time"))

    assert [entry.down if entry else None for entry in shown] == ["not connected yet", "", "it fell over"]
    assert [bool(entry and entry.card) for entry in shown] == [False, True, False]
    assert agents.get("files") == AgentEntry("files", down="not fetched yet")
