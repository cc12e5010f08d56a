"""The A2A half of a gateway as it is put together, on a store on disk and with an agent of the SDK, in this process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import TaskGroup

from adapters.stores.sql import SqlStore, open_store
from conformance.gateway import Plan, write_config
from gateway.a2a.directory import AgentEntry
from gateway.a2a.operations import CARD_READ, OPERATIONS
from gateway.app.a2a import A2a, CardDesk, open_a2a, open_chains
from gateway.app.agents import AgentFactory
from gateway.app.endpoints import Front, Parts, Receive, Scope, Send
from gateway.config import Settings, load
from gateway.events import Events
from gateway.identity.seal import Sealer
from gateway.listeners.a2a.catalogue import CATALOGUE_READ
from gateway.listeners.guards import Guards
from gateway.listeners.http import respond
from gateway.listeners.mcp.sessions import Sessions
from gateway.pipeline import Pipeline
from gateway.registry import Change, Registry
from gateway.types import Authorized, Call, Entity, FrozenDict, Identity, Permit, Resource, freeze
from tests.fakes import ANA, FakeDecider, FakeIdentifier, FakeRecorder, FakeUpstream
from tests.mcp.worlds import Choice

URL: Final = "http://127.0.0.1:8080"
NAME: Final = "planner"
PLANNER: Final = Identity(Entity("agent", f"agent:{NAME}"), method="api_key")
SEALER: Final = Sealer([b"k" * 32], "interlock")


async def rest(scope: Scope, receive: Receive, send: Send) -> None:
    """What is served where neither MCP nor an agent is."""
    if scope["type"] == "http":
        await respond(send, 418, (), b"the rest")


@dataclass
class AppWorld:
    """The parts, and what the registry said of its changes."""

    settings: Settings
    a2a: A2a
    group: TaskGroup
    store: SqlStore
    registry: Registry = field(default_factory=Registry)
    upstream: FakeUpstream = field(default_factory=lambda: FakeUpstream(payload=b"{}"))
    trail: FakeRecorder = field(default_factory=FakeRecorder)
    changed: anyio.Event = field(default_factory=anyio.Event)

    def __post_init__(self) -> None:
        names = list(self.settings.agents)
        self.registry.configure(names)
        self.a2a.shared.agents.configure(names)
        self.factory = AgentFactory(self.a2a.shared, self.registry, self.settings)
        self.a2a.shared.agents.on_change(lambda _: self._told())
        self.registry.on_change(self._heard)

    def _heard(self, change: Change) -> None:
        self._told()

    def _told(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def until_described(self, name: str = NAME) -> AgentEntry:
        """The agent once its card is there, or is known not to come."""
        with anyio.fail_after(10):
            while True:
                entry = self.a2a.shared.agents.get(name)
                state = self.registry.snapshot.upstream(name)
                if entry is not None and entry.card and state is not None and (state.catalog or state.down):
                    return entry
                await self.changed.wait()

    def desk(self, *hidden: str) -> CardDesk:
        """What shows cards, to somebody from whom these names are hidden."""
        return CardDesk(self.a2a, self.registry, Choice(FakeDecider(), set(hidden)), URL)

    def front(self, *, without: bool = False, url: str = URL) -> Front:
        """The ASGI application; `without` agents."""
        return Front(self.parts(without=without, url=url), rest)

    def parts(self, *, without: bool = False, url: str = URL) -> Parts:
        """What its endpoints stand on."""
        numbers, identifier, events = count(1), FakeIdentifier({"ana": ANA}), Events()
        desk = self.desk()
        pipeline = Pipeline(
            identifier=identifier,
            authz=FakeDecider(),
            upstream_for=lambda call: desk if call.method in {CARD_READ, CATALOGUE_READ} else self.upstream,
            trail=self.trail,
            new_id=lambda: f"inner-{next(numbers)}",
        )
        return Parts(
            registry=self.registry,
            handler=pipeline,
            identifier=identifier,
            sealer=SEALER,
            sessions=Sessions(sealer=SEALER, events=events, new_id=lambda: f"s{next(numbers)}", now_s=lambda: 0),
            events=events,
            guards=Guards(100_000, frozenset({"gate.example"})),
            url=url,
            new_id=lambda: f"call-{next(numbers)}",
            parked_ttl_s=60,
            a2a=None if without else self.a2a,
        )


def settings_of(directory: Path, **tables: Mapping[str, object]) -> Settings:
    """What a configuration with these sections says; `__` in a name stands for a dot."""
    named = {name.replace("__", "."): table for name, table in tables.items()}
    return load(write_config(Plan({}, named), directory, 8080))


@asynccontextmanager
async def opened(directory: Path, settings: Settings | None = None) -> AsyncIterator[AppWorld]:
    """Everything but the doors."""
    settings = settings or settings_of(directory)
    store = await open_store("", data_dir=directory, clock_s=time.time)
    try:
        async with anyio.create_task_group() as group:
            async with AsyncExitStack() as stack:
                chains = await open_chains(URL, store)
                a2a = await open_a2a(settings, URL, store, SEALER, chains, group, stack, lambda: False)
                yield AppWorld(settings, a2a, group, store)
            group.cancel_scope.cancel()
    finally:
        await store.aclose()


def asking(method: str, params: Mapping[str, object], who: Identity = ANA, *, parent: str = "") -> Authorized:
    """A permitted call of the agent."""
    frozen = freeze(dict(params))
    assert isinstance(frozen, FrozenDict)
    resource = Resource("agent", NAME, upstream=NAME, name=NAME)
    action = OPERATIONS[method].action if method in OPERATIONS else "a2a.card.read"
    call = Call("c-1", action, method, resource, frozen, "a2a", "1.0", parent_id=parent)
    return Authorized(call, who, Permit("d1", call.digest))


def of_mcp(authorized: Authorized, tool: str, arguments: dict[str, object]) -> Authorized:
    """The same as a call of a tool."""
    params = freeze({"name": tool, "arguments": arguments})
    assert isinstance(params, FrozenDict)
    call = replace(authorized.call, protocol="mcp", method="tools/call", action="mcp.tools.call", params=params)
    return Authorized(call, authorized.identity, Permit("d1", call.digest))
