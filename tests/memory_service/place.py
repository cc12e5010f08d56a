"""A memory behind a real pipeline and real policies, without a listener: what its tests speak to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from adapters.embedders.hashing import Hashing
from adapters.memory.exact import ExactIndex
from adapters.memory.sqlite import SqliteMemory, open_memory
from adapters.pdp.bundle import load_bundle
from adapters.pdp.regorus import RegorusPdp
from gateway.authz.authz import Authz
from gateway.memory.keeping import Keeping
from gateway.memory.ports import MemoryStore, VectorIndex
from gateway.memory.recall import Terms
from gateway.memory.service import ACTIONS, MemoryService, Parts
from gateway.memory.sessions import Sessions
from gateway.memory.upkeep import Upkeep
from gateway.pipeline import Pipeline
from gateway.ports import Relay
from gateway.types import Authorized, Call, Entity, FrozenDict, Identity, Resource, Result, freeze
from tests.fake_memory import FakeIndex, FakeMemory
from tests.fakes import FakeExchange, FakeIdentifier, FakeRecorder

POLICIES = Path(__file__).parents[2] / "policies"
OPEN = 'package rules.team\n\ndefault allow := false\n\nallow if input.subject.id != ""\n'
PLAIN = Terms()
Json = dict[str, Any]


def person(name: str, *roles: str, tenant: str = "acme") -> Identity:
    """Somebody with a key of their own."""
    return Identity(Entity("user", f"user:{name}"), tenant, roles, method="api_key")


def agent(name: str, *roles: str, tenant: str = "acme", of: str = "") -> Identity:
    """An agent, perhaps on somebody's behalf."""
    whom = Entity("user", f"user:{of}") if of else None
    chain = (f"user:{of}", f"agent:{name}") if of else ()
    return Identity(
        Entity("agent", f"agent:{name}"), tenant, roles, on_behalf_of=whom, delegation=chain, method="api_key"
    )


class NoTrail:
    """Nobody looks into the audit log."""

    async def entries(self, calls: Sequence[str]) -> Mapping[str, int]:
        return {call: number for number, call in enumerate(calls, 1)}


class Reads:
    """A tool whose result has labels, as an upstream's that policy labels."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        return Result(b"{}", labels=self._labels)


@dataclass
class Clock:
    """Milliseconds, and the same as seconds."""

    ms: int = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def now_s(self) -> float:
        return self.ms / 1000


@dataclass
class World:
    """The memory with everything around it."""

    store: MemoryStore
    index: VectorIndex
    service: MemoryService
    upkeep: Upkeep
    authz: Authz
    clock: Clock
    sessions: Sessions
    trail: FakeRecorder = field(default_factory=FakeRecorder)

    def __post_init__(self) -> None:
        ids = count(1)
        self.pipeline = Pipeline(
            identifier=FakeIdentifier({}),
            authz=self.authz,
            upstream_for=lambda call: _Memory(self.service),
            trail=self.trail,
            clock_ns=lambda: self.clock.ms * 1_000_000,
            new_id=lambda: f"n{next(ids)}",
        )
        self._calls = count(1)

    def call(self, operation: str, given: Mapping[str, object], session: str, *, direct: bool) -> Call:
        params = freeze(dict(given) if direct else {"name": operation, "arguments": dict(given)})
        assert isinstance(params, FrozenDict)
        protocol, parent = ("memory", "") if direct else ("mcp", "outer")
        method, blank = f"memory/{operation}", Resource("memory", "*")
        name = f"c{next(self._calls)}"
        return Call(
            name, ACTIONS[operation], method, blank, params, protocol, session_id=session, parent_id=parent,
            traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
        )  # fmt: skip

    async def result(
        self, who: Identity, operation: str, given: Mapping[str, object], session: str = "s1", *, direct: bool = False
    ) -> Result:
        call = self.call(operation, given, session, direct=direct)
        call = replace(call, resource=await self.service.resource_for(call, who))
        return await self.pipeline.handle(call, who, FakeExchange())

    async def do(
        self, who: Identity, operation: str, session: str = "s1", *, direct: bool = False, **given: Any
    ) -> Json:
        """An operation, as an agent's tool call or (`direct`) as somebody's own HTTP request."""
        done = await self.result(who, operation, given, session, direct=direct)
        answer: Json = json.loads(done.payload)
        return answer

    async def taint(self, who: Identity, *labels: str, session: str = "s1") -> None:
        """Have the session read something with such labels."""
        resource = Resource("tool", "web/fetch", upstream="web", name="fetch")
        call = Call(f"t{next(self._calls)}", "mcp.tools.call", "tools/call", resource, session_id=session)
        await self.pipeline.handle(call, who, FakeExchange(), by=Reads(labels))

    async def recall(self, who: Identity, query: str, session: str = "s1", **given: Any) -> list[str]:
        found = await self.do(who, "recall", session, query=query, **given)
        return [record["text"] for record in found["records"]]


@dataclass(frozen=True)
class _Memory:
    service: MemoryService

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        return await self.service.carry_out(authorized, relay)


@asynccontextmanager
async def world(
    place: Path,
    *,
    rules: str = OPEN,
    packs: Sequence[str] = (),
    terms: Terms = PLAIN,
    holds: Sequence[str] = (),
    limits: Mapping[str, int] | None = None,
    fake: bool = False,
) -> AsyncIterator[World]:
    """A memory of its own, in files below `place` or (`fake`) in none."""
    async with AsyncExitStack() as stack:
        clock = Clock()
        store, index = await _stores(place, clock, fake, stack)
        (place / "rules").mkdir(exist_ok=True)
        (place / "rules" / "team.rego").write_text(rules)
        paths = [POLICIES / "lib", place / "rules", *(POLICIES / "packs" / pack for pack in packs)]
        new_id = count(1)
        authz = Authz(
            RegorusPdp(load_bundle(paths)),
            env="test",
            clock_ns=lambda: clock.ms * 1_000_000,
            monotonic_ns=lambda: clock.ms * 1_000_000,
            new_id=lambda: f"d{next(new_id)}",
            response_differs=lambda: True,
        )
        sessions, kept = Sessions(clock.now_s), frozenset(holds)
        embedder = Hashing()
        service = MemoryService(Parts(store, index, embedder, authz, sessions, NoTrail(), clock.now_ms, terms, kept))
        upkeep = Upkeep(store, Keeping(store, index, sessions, clock.now_ms, kept), embedder, limits or {})
        yield World(store, index, service, upkeep, authz, clock, sessions)


async def _stores(place: Path, clock: Clock, fake: bool, stack: AsyncExitStack) -> tuple[MemoryStore, VectorIndex]:
    embedder = Hashing()
    if fake:
        memory = FakeMemory(clock.now_ms)
        return memory, FakeIndex(memory, model=embedder.name)
    store: SqliteMemory = await open_memory(place / "memory.db", clock_ms=clock.now_ms)
    stack.push_async_callback(store.aclose)
    index = ExactIndex(store, model=embedder.name, dimensions=embedder.dimensions)
    stack.push_async_callback(index.aclose)
    return store, index
