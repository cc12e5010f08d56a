"""Agents behind the gateway: their cards fetched, judged and kept, their calls carried out, MCP on the other side."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_network
from typing import Final, TypeAlias

import anyio

from adapters.upstreams.a2a.agent import A2aAgent
from adapters.upstreams.a2a.caller import Caller, Terms
from adapters.upstreams.a2a.card_source import CardFacts, CardSource
from adapters.upstreams.a2a.kept_card import KeptCard
from adapters.upstreams.a2a.parts import Parts
from adapters.upstreams.wire.http import HttpPool
from adapters.upstreams.wire.origin import split_url
from gateway.a2a.as_agent import MAX_SKILLS, entry_of
from gateway.a2a.as_tools import AgentTools, tools_of
from gateway.a2a.directory import AgentEntry, Agents, Interface
from gateway.a2a.operations import OPERATIONS
from gateway.a2a.push import PushRelay, creates
from gateway.a2a.strict import tasks_named
from gateway.a2a.tasks import TaskIndex
from gateway.addresses import parsed, passes
from gateway.app.cards import judged
from gateway.config.secrets import resolve_value
from gateway.config.tree import Agent, Settings
from gateway.errors import ConfigError, UnknownResource, UpstreamUnavailable
from gateway.identity.chain import Chains
from gateway.identity.discovery import KeySource
from gateway.ports import Relay, StateStore
from gateway.registry import Change, Item, Listing, Registry, Unusable, UpstreamCatalog, build_catalog
from gateway.running import Runnable
from gateway.types import Authorized, Call, Obligation, Result

log = logging.getLogger("interlock.upstreams")

_EVERYWHERE: Final = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_SENDS: Final = frozenset({"SendMessage", "SendStreamingMessage"})

GrpcCallers: TypeAlias = Callable[[str, Interface, Terms], Caller]


@dataclass(frozen=True, slots=True)
class Shared:
    """What all agents of one gateway work with."""

    agents: Agents
    tasks: TaskIndex
    chains: Chains
    push: PushRelay
    keys: KeySource
    store: StateStore
    grpc: GrpcCallers | None


class BridgedAgent:
    """One agent, for A2A clients and as the tools of an MCP server."""

    def __init__(self, name: str, agent: A2aAgent, tools: AgentTools, tasks: TaskIndex, push: PushRelay) -> None:
        self._push = push
        self._name = name
        self._agent = agent
        self._tools = tools
        self._tasks = tasks
        self.settled = agent.settled

    async def run(self) -> None:
        """Keep the card current until cancelled."""
        await self._agent.run()

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Carry out a call of either protocol. What a bridged message names must be its caller's, too."""
        call = authorized.call
        if call.protocol == "mcp":
            return await self._tools.execute(authorized, relay)
        operation = OPERATIONS.get(call.method)
        if operation is not None and call.parent_id:
            refs = tasks_named(operation, call.params)
            if not await self._tasks.admits(self._name, refs, authorized.identity):
                raise UnknownResource(f"the task or conversation at agent {self._name!r} does not exist for you")
        if call.method in _SENDS and (config := creates(call.method, call.params)) is not None:
            # A configuration inside a message is one all the same: policy is asked for it, and it is on record.
            action, method = "a2a.push.create", "CreateTaskPushNotificationConfig"
            permission = _Permission()
            await relay.act(action, method, call.resource, config, by=permission)
            if any(obligation.type == "redact" for obligation in permission.obligations):
                with self._push.guarding(call.id):
                    return await self._sent(authorized, relay)
        return await self._sent(authorized, relay)

    async def _sent(self, authorized: Authorized, relay: Relay) -> Result:
        call = authorized.call
        if not await self._tasks.reserve(self._name, _context_of(call), authorized.identity):
            raise UnknownResource(f"the conversation at agent {self._name!r} does not exist for you")
        return await self._agent.execute(authorized, relay)

    def unwatched(self, uri: str) -> None:
        """Agents have no resources to watch."""
        self._agent.unwatched(uri)

    def report(self) -> Mapping[str, object]:
        """How it fares, for people."""
        return self._agent.report()

    def look_again(self) -> None:
        """Something about its card may have changed: a pin was accepted."""
        self._agent.look_again()


def within_reach(pool: HttpPool, address: str) -> bool:
    """Whether a card may name an interface at this address, on another host than its own.

    Not where clouds keep credentials; and on the networks of this machine only if the card comes from there as well:
    agents elsewhere must not have us knock at our own doors.
    """
    home, found = parsed(pool.peer), parsed(address)
    at_home = home is not None and not passes(home, ())
    return found is not None and passes(found, _EVERYWHERE if at_home else ())


class _Permission:
    """Nothing is to be done: it was only to be permitted. What it was permitted under holds for its cause."""

    def __init__(self) -> None:
        self.obligations: tuple[Obligation, ...] = ()

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Policy has said yes."""
        self.obligations = authorized.permit.obligations
        return Result(b"{}")


def _context_of(call: Call) -> str:
    message = call.params.get("message")
    context = message.get("contextId") if call.method in _SENDS and isinstance(message, Mapping) else ""
    return context if isinstance(context, str) else ""


class NotConfigured:
    """An agent whose credentials cannot be read: it is down, and says why."""

    def __init__(self, name: str, fault: ConfigError) -> None:
        self._name = name
        self._fault = fault
        self.settled = anyio.Event()

    async def run(self) -> None:
        """There is nothing to run."""
        self.settled.set()
        raise self._fault

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Nothing can be carried out."""
        raise UpstreamUnavailable(f"agent {self._name!r} cannot be called: {self._fault}")

    def unwatched(self, uri: str) -> None:
        """There is nothing to watch."""

    def report(self) -> Mapping[str, object]:
        """Why it does not run."""
        return {"state": "down", "reason": str(self._fault)}

    def look_again(self) -> None:
        """There is nothing to look at."""


@dataclass(frozen=True, slots=True)
class AgentFactory:
    """Turns `[agents.NAME]` into something that runs, and keeps the directory and the registry informed."""

    shared: Shared
    registry: Registry
    settings: Settings
    newest: dict[str, BridgedAgent | NotConfigured] = field(default_factory=dict)
    """The agent that a name stands for now; one that it replaced has no say any more."""

    def make(self, name: str, spec: Agent) -> Runnable:
        """An agent that is not running yet."""
        made: BridgedAgent | NotConfigured
        try:
            made = self._bridged(name, spec)
        except ConfigError as exc:  # of this one; a reload must not take the others down
            made = NotConfigured(name, exc)
            self.shared.agents.put(AgentEntry(name, down=str(exc)))
        self.newest[name] = made
        return made

    def _bridged(self, name: str, spec: Agent) -> BridgedAgent:
        shared = self.shared
        headers = tuple((key.lower().encode(), resolve_value(value).encode()) for key, value in spec.headers.items())
        pool = HttpPool(split_url(spec.card_url)[0], label=name, max_connections=4)
        source = CardSource(spec.card_url, pool, shared.keys, headers, timeout_s=min(spec.timeout_s, 10.0))
        facts = CardFacts(name, spec.labels, spec.risk, spec.skills)
        made: BridgedAgent

        async def offer(entry: AgentEntry) -> None:
            if self.newest.get(name) is made:
                shared.agents.put(entry)
                self._show_tools(entry)

        agent = A2aAgent(
            name,
            source=KeptCard(source, facts, partial(self._judged, spec), time.time),
            offer=offer,
            terms=Terms(
                timeout_s=min(spec.timeout_s, self.settings.limits.call_timeout_s),
                max_bytes=spec.max_result_bytes,
                headers=headers,
                home=spec.card_url,
                reach=partial(within_reach, pool),
            ),
            parts=Parts(shared.tasks, shared.chains, shared.push, shared.grpc),
            random=random.random,
        )
        made = BridgedAgent(name, agent, AgentTools(name, shared.agents), shared.tasks, shared.push)
        return made

    async def _judged(self, spec: Agent, entry: AgentEntry) -> AgentEntry:
        entry = await judged(self.shared.store, entry, spec.pin, now_s=int(time.time()))
        if entry.quarantine:
            log.warning("agent %r: its card is quarantined; see `interlock agents show %s`", entry.name, entry.name)
        return entry

    def _show_tools(self, entry: AgentEntry) -> None:
        """The agent's tools, for MCP clients. The card was judged, and they are made of it and hidden with it."""
        if entry.down:
            self.registry.down(entry.name, entry.down)
            return
        try:
            catalog = build_catalog(entry.name, Listing(tools=tools_of(entry)), header_check=lambda _: None)
        except Unusable as exc:
            self.registry.down(entry.name, str(exc))
            return
        tools = catalog.items["tool"]
        items = [replace(item, pinned=entry.pinned, quarantine=entry.quarantine) for item in tools]
        self.registry.put(catalog.with_items(items))
        if entry.quarantine:
            self.registry.down(entry.name, "its card is quarantined")

    def crashed(self, name: str) -> None:
        """An agent does not run any more."""
        self.registry.down(name, "it could not be started; see the log")

    def judge_again(self) -> None:
        """Apply a card that somebody accepted meanwhile."""
        for agent in self.newest.values():
            agent.look_again()


@dataclass(frozen=True, slots=True)
class ServersAsAgents:
    """Keeps what MCP servers are as agents in step with what they offer."""

    agents: Agents
    registry: Registry
    servers: Callable[[], Sequence[str]]

    def follow(self, change: Change) -> None:
        """Take what a server offers now."""
        if change.upstream in self.servers():
            self.show(change.upstream)

    def show(self, name: str) -> None:
        """Put the server into the directory, if it has been heard of."""
        state = self.registry.snapshot.upstream(name)
        if state is None or state.catalog is None or state.down:
            down = state.down if state is not None else ""
            self.agents.put(AgentEntry(name, down=down or "not connected yet"))
            return
        self.agents.put(_as_agent(name, state.catalog))


def offered(catalog: UpstreamCatalog) -> list[Item]:
    """The tools that are skills."""
    return [item for item in catalog.items["tool"] if not item.quarantine][:MAX_SKILLS]


def _as_agent(name: str, catalog: UpstreamCatalog) -> AgentEntry:
    tools = [item.definition for item in offered(catalog)]
    version = catalog.server_info.get("version")
    return entry_of(name, tools, version=version if isinstance(version, str) else "")
