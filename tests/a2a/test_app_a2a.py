"""What the A2A half of a gateway is made of: whose cards are shown to whom, and the door for gRPC."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

import gateway.app.a2a as assembled
from adapters.upstreams.a2a.caller import Terms
from conformance.processes import free_port
from gateway import codec
from gateway.a2a.directory import AgentEntry, Interface
from gateway.app.a2a import grpc_door, open_chains
from gateway.app.agents import ServersAsAgents
from gateway.codec import JsonObject
from gateway.errors import ConfigError, UpstreamUnavailable
from gateway.listeners.a2a.catalogue import CATALOGUE_READ
from gateway.types import Authorized, FrozenDict
from tests.a2a.app_world import NAME, URL, AppWorld, asking, opened, settings_of
from tests.a2a.card_samples import card_of, entry_of
from tests.e2e.a2a_doors import Doors, doors, message
from tests.fakes import ANA, FakeRelay
from tests.registry.samples import catalog_of, tool


def reading(name: str = NAME, method: str = "card/read", **params: object) -> Authorized:
    """A permitted read of a card."""
    asked = asking("GetTask", {})
    resource = replace(asked.call.resource, id=name, upstream=name, name=name)
    call = replace(asked.call, method=method, action="a2a.card.read", resource=resource, params=FrozenDict(params))
    return Authorized(call, ANA, replace(asked.permit, call_digest=call.digest))


async def shown(world: AppWorld, asked: Authorized, *hidden: str) -> JsonObject:
    """What somebody sees from whom these names are hidden."""
    found = codec.loads((await world.desk(*hidden).execute(asked, FakeRelay())).payload)
    assert isinstance(found, dict)
    return found


def with_agents(world: AppWorld, *entries: AgentEntry) -> None:
    world.a2a.shared.agents.configure([entry.name for entry in entries])
    for entry in entries:
        world.a2a.shared.agents.put(entry)


def with_server(world: AppWorld) -> None:
    """An MCP server with two tools, which is an agent, too."""
    world.registry.configure(["time"])
    world.a2a.shared.agents.configure(["time"])
    world.registry.put(catalog_of("time", tools=[tool("now"), tool("set")]))
    ServersAsAgents(world.a2a.shared.agents, world.registry, lambda: ("time",)).show("time")


async def test_card_has_the_addresses_of_the_gateway_or_of_the_agents_own_host(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        with_agents(world, entry_of(card_of(), name=NAME))
        below = await shown(world, reading())
        at_host = await shown(world, reading(host_url="http://planner.localhost:8080"))
        odd = await shown(world, reading(host_url=7))

    assert f"{URL}/agents/{NAME}" in str(below["supportedInterfaces"])
    assert "http://planner.localhost:8080" in str(at_host["supportedInterfaces"])
    assert odd == below


async def test_there_is_no_card_of_an_agent_that_is_down_or_unknown(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        with_agents(world, AgentEntry(NAME, down="it is asleep"))
        with pytest.raises(UpstreamUnavailable, match="asleep"):
            await shown(world, reading())
        with pytest.raises(UpstreamUnavailable, match="not configured"):
            await shown(world, reading("nobody"))


@pytest.mark.parametrize(("hidden", "skills"), [((), 2), (("set",), 1), (("now", "set"), 1)])
async def test_tools_of_a_server_are_skills_to_who_may_call_them(
    tmp_path: Path, hidden: tuple[str, ...], skills: int
) -> None:
    async with opened(tmp_path) as world:
        with_server(world)
        card = await shown(world, reading("time"), *hidden)

    found = card.get("skills", [])
    assert isinstance(found, list)
    assert len(found) == skills
    assert not any(name in str(found) for name in hidden)


async def test_catalogue_lists_what_its_reader_may_use_and_nothing_that_is_quarantined(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        good, changed = entry_of(card_of(), name=NAME), entry_of(card_of(), name="changed", quarantine="it changed")
        with_agents(world, good, changed, AgentEntry("down", down="asleep"))
        everything = str(await shown(world, reading("*", CATALOGUE_READ)))
        nothing = str(await shown(world, reading("*", CATALOGUE_READ), NAME))
        with_server(world)
        servers = str(await shown(world, reading("*", CATALOGUE_READ)))

    assert f"/agents/{NAME}/" in everything
    assert "changed" not in everything
    assert "/agents/down" not in everything
    assert f"/agents/{NAME}/" not in nothing
    assert "/servers/time/mcp" in servers


async def test_without_a_port_there_is_no_door_for_grpc(tmp_path: Path) -> None:
    async with grpc_door(settings_of(tmp_path), dict) as port:
        assert port == 0


async def test_port_that_is_taken_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = settings_of(tmp_path, listen={"grpc_port": taken.getsockname()[1]})
        with pytest.raises(ConfigError, match="cannot be listened on"):
            async with grpc_door(settings, dict):
                pass


async def test_port_without_the_library_is_a_fault_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembled, "find_spec", lambda name: None)
    settings = settings_of(tmp_path, listen={"grpc_port": free_port()})

    with pytest.raises(ConfigError, match="extra `grpc`"):
        async with grpc_door(settings, dict):
            pass
    async with opened(tmp_path) as world:
        assert world.a2a.shared.grpc is None


async def test_calls_over_grpc_take_the_same_path_and_get_the_same_refusals(tmp_path: Path) -> None:
    port = free_port()
    settings = settings_of(
        tmp_path, listen={"grpc_port": port}, **{f"agents__{NAME}": {"card_url": "http://a.example"}}
    )
    async with opened(tmp_path, settings) as world:
        world.a2a.shared.agents.put(entry_of(card_of(), name=NAME))
        front = world.front()
        front.offer((), (NAME,))
        async with grpc_door(settings, front.calls), doors(URL, NAME, "ana", port) as ana:
            missing = await ana.ask("GRPC", "GetTask", {"id": "t-9"})
            world.upstream.payload = b'{"message":{"messageId":"m","role":"ROLE_AGENT","parts":[{"text":"hi"}]}}'
            answered = await ana.ask("GRPC", "SendMessage", message())
            stranger = Doors(ana.url, NAME, "stranger", ana.http, ana.channel)
            refused = await stranger.ask("GRPC", "GetTask", {"id": "t-9"})
            world.upstream.fail_with = ValueError("a fault of ours")
            failed = await ana.ask("GRPC", "SendMessage", message())

    assert "NOT_FOUND" in str(missing.status)
    assert '"text": "hi"' in answered.body
    assert "UNAUTHENTICATED" in str(refused.status)
    assert ("INTERNAL" in str(failed.status), "a fault of ours" in failed.body) == (True, False)


async def test_agents_are_called_over_grpc_where_the_library_is_installed(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        make = world.a2a.shared.grpc
        assert make is not None
        caller = make(NAME, Interface("127.0.0.1:9", "GRPC", "1.0"), Terms())
        await caller.aclose()


async def test_replicas_sign_the_same_chains(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        again = await open_chains(URL, world.store)
        again.is_agent = lambda name: name == NAME
        with world.a2a.shared.chains.entering(asking("SendMessage", {}), NAME) as token:
            found = again.extended(replace(ANA, subject=replace(ANA.subject, type="agent", id=f"agent:{NAME}")), token)

    assert found.hops == (NAME,)
