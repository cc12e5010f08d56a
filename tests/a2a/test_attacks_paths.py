"""Ways around policy: what calls cause, what chains forget, what hosts are forged, and what cards let slip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gateway import codec
from gateway.a2a.as_agent import ToolAgent
from gateway.a2a.card_shelf import CardShelf
from gateway.a2a.cards import Places, security_of
from gateway.a2a.directory import Agents
from gateway.a2a.push import PushRelay
from gateway.app.a2a import A2a, CardDesk
from gateway.app.agents import BridgedAgent, ServersAsAgents, Shared
from gateway.errors import PolicyDenied, Unauthenticated
from gateway.identity import chain
from gateway.identity.card_keys import CardKeys
from gateway.identity.chain import Chains, Hops
from gateway.identity.identifier import Anonymous, Identification
from gateway.identity.token_cache import TokenCache
from gateway.listeners.guards import Guards
from gateway.ports import Relay
from gateway.registry import Registry
from gateway.types import (
    Authorized,
    Call,
    Credentials,
    Entity,
    FrozenDict,
    Identity,
    Obligation,
    Permit,
    Resource,
    Result,
    freeze,
)
from tests.a2a.agents import SEND, Seen, bare, gives, task, world
from tests.a2a.agents import World as RunningAgent
from tests.a2a.push_world import World as PushWorld
from tests.a2a.push_world import inline, status
from tests.fakes import ANA, FakeRelay, FakeUpstream, permit_for
from tests.registry.samples import catalog_of, tool
from tests.spine import CREDENTIALS, World
from tests.wire.upstreams import Conversation

AGENT = Resource("agent", "planner", upstream="planner", name="planner")
HOOK = "https://hooks.example/notify"


def sending(**configuration: object) -> Call:
    params = freeze({**SEND, **({"configuration": configuration} if configuration else {})})
    assert isinstance(params, FrozenDict)
    return Call("c1", "a2a.message.send", "SendMessage", AGENT, params, "a2a", "1.0")


async def bridged(made: RunningAgent, call: Call, gateway: World, pushes: PushRelay | None = None) -> Result:
    """The call, down the governed path to a bridged agent."""
    push = pushes or PushWorld().relay
    agent = BridgedAgent("planner", made.agent, None, made.tasks, push)  # type: ignore[arg-type]  # no call of MCP comes

    async def execute(authorized: Authorized, relay: Relay) -> Result:
        return await agent.execute(authorized, relay)

    gateway.upstream.answer = execute
    return await gateway.handle(call)


async def test_configuration_inside_a_message_is_judged_by_its_host_and_without_its_secrets() -> None:
    gateway = World()
    config = {"url": HOOK, "token": "t0k", "authentication": {"scheme": "Bearer", "credentials": "s3cr"}}
    async with world({"SendMessage": gives(task())}) as made:
        await bridged(made, sending(taskPushNotificationConfig=config), gateway)

    sent, asked = gateway.decider.asked
    assert (asked.action, asked.parent_id) == ("a2a.push.create", sent.id)
    assert (asked.facts["push"], asked.facts["push_scheme"], asked.facts["push_host"]) == (
        *(True, "https"),
        "hooks.example",
    )
    for call in (sent, asked):
        assert "t0k" not in str(call.arguments)
        assert "s3cr" not in str(call.arguments)


async def test_configuration_that_policy_refuses_keeps_the_message_from_the_agent() -> None:
    def decide(call: Call, identity: Identity) -> Permit:
        if call.facts.get("push_host") == "hooks.example" and call.action == "a2a.push.create":
            raise PolicyDenied("not there", decision_id="d")
        return permit_for(call, identity)

    gateway = World()
    gateway.decider.decide_with = decide
    async with world({"SendMessage": gives(task())}) as made:
        with pytest.raises(PolicyDenied):
            await bridged(made, sending(taskPushNotificationConfig={"url": HOOK}), gateway)

        assert made.script.seen == []


async def test_redaction_that_policy_wants_of_a_configuration_holds_for_the_message_that_makes_it() -> None:
    redact = Obligation("redact", FrozenDict({"patterns": ("email",)}))
    pushes = PushWorld()
    told: list[Mapping[str, object]] = []

    def decide(call: Call, identity: Identity) -> Permit:
        permit = permit_for(call, identity)
        return replace(permit, obligations=(redact,)) if call.action == "a2a.push.create" else permit

    class Agent:
        settled = None

        async def execute(self, authorized: Authorized, relay: Relay) -> Result:
            told.append(await pushes.relay.outgoing(authorized, authorized.call.params))
            await pushes.relay.incoming(authorized, {"task": {"id": "t1", "contextId": "ctx"}})
            return Result(b"{}")

    gateway = World()
    gateway.decider.decide_with = decide
    await pushes.task_of(ANA)
    async with world({}) as made:
        made.agent = Agent()  # type: ignore[assignment]  # only what stands before the agent is looked at
        await bridged(made, sending(taskPushNotificationConfig={"url": HOOK}), gateway, pushes.relay)
    noted = {
        "taskId": "t1",
        "contextId": "ctx",
        "status": {"state": "TASK_STATE_COMPLETED"},
        "metadata": {"n": "a@b.c"},
    }
    await pushes.notify(inline(told[0]), {"statusUpdate": noted})
    (slip,) = pushes.posted

    assert codec.loads(slip.body) == status("t1", "COMPLETED")


async def test_list_shows_the_tasks_that_may_be_got_each_permitted_and_on_record() -> None:
    def decide(call: Call, identity: Identity) -> Permit:
        if call.action == "a2a.tasks.get" and call.resource.id == "t2":
            raise PolicyDenied("not that one", decision_id="d")
        return permit_for(call, identity)

    async def sends(conversation: Conversation, seen: Seen) -> None:
        number = made.script.count("SendMessage")
        await gives(task("WORKING", f"t{number}", contextId=f"c-t{number}"))(conversation, seen)

    async def gets(conversation: Conversation, seen: Seen) -> None:
        wanted = seen.params["id"]
        await gives(bare(task("WORKING", wanted, contextId=f"c-{wanted}")))(conversation, seen)

    gateway = World()
    gateway.decider.decide_with = decide
    async with world({"SendMessage": sends, "GetTask": gets}) as made:
        for _ in range(3):
            await bridged(made, sending(), gateway)
        everything = Resource("a2a_task", "*", upstream="planner", name="*")
        listing = Call("c9", "a2a.tasks.list", "ListTasks", everything, FrozenDict(), "a2a", "1.0")
        shown = json.loads((await bridged(made, listing, gateway)).payload)

    asked = [call for call in gateway.decider.asked if call.action == "a2a.tasks.get"]
    assert {one["id"] for one in shown["tasks"]} == {"t1", "t3"}
    assert {(call.resource.id, call.parent_id) for call in asked} == {("t1", "c9"), ("t2", "c9"), ("t3", "c9")}
    assert all("TASK_STATE_WORKING" in str(call.resource.catalog["task"]) for call in asked)
    assert made.script.count("GetTask") == 2
    assert sum(record.call.method == "GetTask" for record in gateway.trail.records) == 3


async def test_facts_that_rules_read_stand_in_calls_across_a_bridge_too() -> None:
    async def ask(authorized: Authorized, relay: Relay) -> Result:
        if authorized.call.protocol == "a2a":
            return Result(b"{}")
        return await relay.act("a2a.message.send", "SendMessage", AGENT, SEND)

    gateway = World(upstream=FakeUpstream(ask))
    await gateway.handle()

    _, caused = gateway.decider.asked
    assert (caused.protocol, caused.facts["bytes"], caused.facts["part_kinds"]) == ("a2a", 4, ["text"])


async def test_tool_that_a_message_names_is_called_by_the_name_that_policy_was_asked_about() -> None:
    def resolve(upstream: str, name: str) -> Resource:
        return Resource("tool", f"{upstream}/read", upstream, "read")

    agent = ToolAgent("files", resolve)
    called: list[Mapping[str, object]] = []

    async def execute(authorized: Authorized, relay: Relay) -> Result:
        if authorized.call.protocol == "a2a":
            return await agent.execute(authorized, relay)
        called.append(authorized.call.params)
        return Result(codec.dumps({"content": []}))

    params: Any = freeze({"message": {"messageId": "m", "parts": [{"data": {"tool": "files__READ"}}]}})
    call = Call("c1", "a2a.message.send", "SendMessage", replace(AGENT, upstream="files"), params, "a2a", "1.0")
    gateway = World(upstream=FakeUpstream(execute))
    await gateway.pipeline.handle(call, CREDENTIALS, gateway.exchange)

    assert [params["name"] for params in called] == ["read"]


class Clock:
    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


def test_tasks_that_never_end_neither_fill_memory_nor_make_a_chain_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "MAX_WORK", 10)
    clock = Clock()
    chains = Chains(b"k" * 32, "https://gateway.example", {"planner", "writer"}.__contains__, clock)
    flood, late = Hops(("user:eve",), ("planner",)), Hops(("user:ana", "agent:writer"), ("writer", "planner"))
    for number in range(100):
        chains.works_on("planner", f"t{number}", flood)
    for number in range(100):
        chains.works_on("planner", f"late{number}", late)

    found = chains.extended(Identity(Entity("agent", "agent:planner"), method="api_key"), "")

    assert len(chains._work["planner"]) <= 12  # what takes the memory
    assert set(found.hops) == {"planner", "writer"}
    clock.now_s += chain.TTL_S + 1
    chains.works_on("planner", "new", flood)
    assert len(chains._work["planner"]) == 1


async def test_agent_that_leads_back_here_does_not_become_a_caller_without_a_credential() -> None:
    chains = Chains(b"k" * 32, "https://gateway.example", {"planner"}.__contains__, Clock())
    call = sending()
    identification = Identification(cache=TokenCache(clock_s=Clock()), anonymous=Anonymous("dev"), chains=chains)

    handed = chains.entering(Authorized(call, ANA, Permit("d", call.digest)), "planner")
    with handed as token, pytest.raises(Unauthenticated, match="handed to another agent"):
        await identification.identify(Credentials("", "127.0.0.1", on_loopback=True, chain=token))


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("planner.localhost:8080", True),
        ("PLANNER.localhost:8080", True),
        ("writer.localhost:8080", False),
        ("planner.localhost:8080.evil.example", False),
        ("planner.localhost.evil.example", False),
        ("evil.example", False),
        ("planner.localhost:8080@evil.example", False),
        ("planner.localhost:8080, evil.example", False),
        ("", False),
    ],
)
def test_host_of_an_agent_is_served_and_no_name_that_is_like_it(host: str, *, served: bool) -> None:
    guards = Guards(100).with_host("planner.localhost:8080")

    refused = guards.refusal({b"host": [host.encode()]}) is not None

    assert refused is not served
    assert guards.refusal({b"host": [host.encode(), b"localhost"]}) is not None
    assert guards.refusal({b"host": [host.encode()], b"origin": [b"https://evil.example"]}) is not None


@dataclass
class Chosen:
    """A chooser that hides these."""

    hidden: set[str]

    async def visible(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]:
        return frozenset(i for i, candidate in enumerate(candidates) if candidate.name not in self.hidden)


async def card_of_server(hidden: set[str], quarantined: set[str]) -> dict[str, Any]:
    """The card of a server with three tools, as somebody sees it."""
    registry, agents, keys = Registry(("calc",)), Agents(), CardKeys(b"k" * 32, "https://gateway.example")
    agents.configure(["calc"])
    catalog = catalog_of("calc", tools=[tool(name, description=f"It does {name}.") for name in ("add", "div", "sub")])
    items = [replace(item, quarantine="changed" if item.name in quarantined else "") for item in catalog.items["tool"]]
    registry.put(catalog.with_items(items))
    ServersAsAgents(agents, registry, lambda: ("calc",)).show("calc")
    index: Any = None
    shared = Shared(agents, index, index, index, index, index, None)
    a2a = A2a(shared, CardShelf(keys.sign, security_of()), keys, index, Places("https://gateway.example"))
    desk = CardDesk(a2a, registry, Chosen(hidden), "https://gateway.example")
    call = Call("c1", "a2a.card.read", "card/read", agents.resource("calc"), protocol="a2a")
    result = await desk.execute(Authorized(call, ANA, Permit("d", call.digest)), FakeRelay())
    card = codec.loads(result.payload)
    assert isinstance(card, dict)
    return card


@pytest.mark.parametrize(
    ("hidden", "quarantined", "shown"),
    [
        (set[str](), set[str](), ["add", "div", "sub"]),
        ({"div"}, set[str](), ["add", "sub"]),
        (set[str](), {"div"}, ["add", "sub"]),
        ({"add"}, {"div"}, ["sub"]),
        ({"add", "sub"}, {"div"}, ["calc"]),
        ({"add", "div", "sub"}, set[str](), ["calc"]),
    ],
)
async def test_card_of_a_server_names_no_tool_that_its_reader_may_not_use(
    hidden: set[str], quarantined: set[str], shown: list[str]
) -> None:
    card = await card_of_server(hidden, quarantined)

    assert [skill["id"] for skill in card["skills"]] == shown
    for name in hidden | quarantined:
        assert f"It does {name}." not in str(card)
