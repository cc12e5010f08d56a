"""The built-in server `memory`, put together from what configuration says; nothing of it is imported without one."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

import anyio
from anyio import to_thread
from starlette.routing import BaseRoute

from gateway.app.audit_search import AuditSearch
from gateway.app.memory_tools import listing, place_in, resource_result, tool_result
from gateway.config.memory import FILE, MemorySettings, load_memory
from gateway.config.secrets import resolve_secret, resolve_value
from gateway.config.tree import Settings, Upstream
from gateway.embedding import Embedder, EmbeddingUnavailable
from gateway.errors import ConfigError, InvalidCall, UnknownResource, UpstreamUnavailable
from gateway.listeners.guards import Guards
from gateway.listeners.memory import Handler, MemoryCalls, memory_routes
from gateway.memory.arguments import TOOLS
from gateway.memory.keeping import Keeping
from gateway.memory.ports import MemoryStore, VectorFeed, VectorIndex
from gateway.memory.recall import Policy, Terms
from gateway.memory.records import Hit, View
from gateway.memory.service import ACTIONS, PREFIX, MemoryService, Parts
from gateway.memory.sessions import Sessions
from gateway.memory.upkeep import Upkeep
from gateway.ports import Identifier, Relay
from gateway.registry import Listing
from gateway.running import Runnable
from gateway.types import Authorized, Call, FrozenDict, Identity, Resource, Result, freeze

log = logging.getLogger("interlock.memory")

DATABASE: Final = "memory.db"
VECTORS: Final = "memory-vectors"
CLOSE_S: Final = 10.0
_DAY_MS: Final = 86_400_000

Offer = Callable[[Listing], Awaitable[None]]


class Store(MemoryStore, VectorFeed, Protocol):
    """A store that an index can be made from."""


class PolicyToCome:
    """The authorization stage for a memory that is put together before it."""

    def __init__(self) -> None:
        self.policy: Policy | None = None

    async def visible(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]:
        """See `Policy`."""
        return await self._there().visible(call, identity, candidates)

    def labels_of(self, call: Call, identity: Identity) -> Sequence[str]:
        """See `Policy`."""
        return self._there().labels_of(call, identity)

    def _there(self) -> Policy:
        if self.policy is None:
            raise UpstreamUnavailable("the gateway is still starting")
        return self.policy


@dataclass(slots=True)
class MemoryHost:
    """What of the memory is there whether or not one is configured: its place, its policy, its routes."""

    settings: Settings
    policy: PolicyToCome = field(default_factory=PolicyToCome)
    current: MemoryServer | None = None
    faulty: str = ""
    """The name of one that is configured and cannot run as it is."""
    turn: anyio.Lock = field(default_factory=anyio.Lock)
    """Held by the server that has the files: the next one waits for it to end."""

    def make(self, name: str, spec: Upstream, offer: Offer, failed: Callable[[str], None]) -> MemoryServer:
        """The server of `[upstreams.NAME] type = "memory"`. Raises `ConfigError`."""
        if self.current is not None and self.current.name != name:
            words = f"there is one memory, and it is upstreams.{self.current.name}: use namespaces"
            raise ConfigError([(f"upstreams.{name}.type", words)])
        self.faulty = name
        settings = load_memory(self.settings.environments.parent / FILE)
        self.faulty = ""
        self.current = MemoryServer(name, spec, settings, self, offer, failed)
        return self.current

    def service(self) -> MemoryService:
        """The memory that runs. Raises `UnknownResource` where none is configured, else `UpstreamUnavailable`."""
        if self.current is None and self.faulty:
            raise UpstreamUnavailable(f"upstream {self.faulty!r} cannot run: `interlock check` and the log say why")
        if self.current is None:
            raise UnknownResource('there is no memory here: configure [upstreams.memory] type = "memory"')
        return self.current.service()

    def routes(
        self, handler: Handler, identifier: Identifier, guards: Guards, new_id: Callable[[], str]
    ) -> list[BaseRoute]:
        """The HTTP API."""
        return memory_routes(MemoryCalls(handler, identifier, new_id, self.service), guards)


class MemoryServer:
    """The built-in MCP server. `run` must be running for as long as it is used."""

    def __init__(  # what it is called, what is said of it, and who is told
        self,
        name: str,
        spec: Upstream,
        settings: MemorySettings,
        host: MemoryHost,
        offer: Offer,
        failed: Callable[[str], None],
    ) -> None:
        self.name = name
        self._spec, self._settings, self._host, self._offer, self._failed = spec, settings, host, offer, failed
        self._service: MemoryService | None = None
        self._embedder = ""
        self.settled = anyio.Event()
        """Set when the tools are offered."""

    async def run(self) -> None:
        """Keep the memory until cancelled; then everything is on disk. Raises `ConfigError`."""
        try:
            async with self._host.turn, AsyncExitStack() as stack:
                await self._kept(stack)
        except ConfigError as exc:
            self._host.faulty = self.name
            self._failed(str(exc))
            raise
        finally:
            if self._host.current is self:
                self._host.current = None

    async def _kept(self, stack: AsyncExitStack) -> None:
        embedder = await stack.enter_async_context(_embedder(self._settings))
        store = await self._opened(stack)
        index = await self._indexed(store, embedder, stack)
        parts, upkeep = self._parts(store, index, embedder)
        self._service, self._embedder = MemoryService(parts), embedder.name
        stack.callback(self._end)
        async with anyio.create_task_group() as group:
            group.start_soon(upkeep.run)
            await self._offer(listing())
            self.settled.set()
            await anyio.sleep_forever()

    def service(self) -> MemoryService:
        """What carries operations out. Raises `UpstreamUnavailable` while it does not run."""
        if self._service is None:
            raise UpstreamUnavailable(f"upstream {self.name!r} is not running")
        return self._service

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Carry out a tool call or a read, by way of policy; or the operation itself, when it comes back from there."""
        service, call = self.service(), authorized.call
        if call.method.startswith(PREFIX):
            return await service.carry_out(authorized, relay)
        if call.method == "resources/read":
            namespace, key = place_in(call.params.get("uri"))
            given = {"namespace": namespace, "key": key}
            return resource_result(str(call.params["uri"]), await self._done("get", given, authorized, relay))
        if call.method != "tools/call" or call.resource.name not in TOOLS:
            raise InvalidCall(f"upstream {self.name!r} has tools and records, so it cannot do {call.method}")
        operation = call.resource.name
        return tool_result(operation, await self._done(operation, call.arguments, authorized, relay))

    def unwatched(self, uri: str) -> None:
        """Nobody watches this resource any more; none is watched."""

    def report(self) -> Mapping[str, object]:
        """How it fares, for people."""
        state = "up" if self._service is not None else "down"
        return {"state": state, "reason": "", "era": "built-in", "embedder": self._embedder}

    async def _done(self, operation: str, given: Mapping[str, object], authorized: Authorized, relay: Relay) -> Result:
        """The operation as a call of its own."""
        action, method = ACTIONS[operation], f"{PREFIX}{operation}"
        params = freeze({"name": operation, "arguments": dict(given)})
        planned = replace(
            authorized.call,
            action=action,
            method=method,
            params=params if isinstance(params, FrozenDict) else FrozenDict(),
            parent_id=authorized.call.id,
        )
        resource = await self.service().resource_for(planned, authorized.identity)
        return await relay.act(action, method, resource, planned.params)

    def _parts(self, store: Store, index: VectorIndex, embedder: Embedder) -> tuple[Parts, Upkeep]:
        spaces = self._settings.namespaces
        sessions = Sessions(time.monotonic)
        holds = frozenset(name for name, one in spaces.items() if one.legal_hold)
        limits = {name: one.retention_days * _DAY_MS for name, one in spaces.items() if one.retention_days}
        residency = {name: one.residency for name, one in spaces.items() if one.residency}
        parts = Parts(
            store=store,
            index=index,
            embedder=embedder,
            policy=self._host.policy,
            sessions=sessions,
            trail=AuditSearch(self._host.settings.state.dir),
            clock_ms=_now_ms,
            terms=Terms(self.name, self._spec.risk, self._spec.labels, residency),
            legal_holds=holds,
        )
        return parts, Upkeep(store, Keeping(store, index, sessions, _now_ms, holds), embedder, limits)

    async def _opened(self, stack: AsyncExitStack) -> Store:
        from adapters.memory.sqlite import open_memory

        store = await open_memory(self._host.settings.state.dir / DATABASE, clock_ms=_now_ms)
        stack.push_async_callback(_closed, store.aclose)
        return store

    async def _indexed(self, store: Store, embedder: Embedder, stack: AsyncExitStack) -> VectorIndex:
        wanted, index = self._settings.index, None
        if wanted.kind == "chroma":
            index = await self._chroma(store, embedder)
        else:
            index = _exact(store, embedder)
        stack.push_async_callback(_closed, index.aclose)
        return index

    async def _chroma(self, store: Store, embedder: Embedder) -> VectorIndex:
        try:
            from adapters.memory.chroma import open_chroma
            from adapters.memory.chroma_places import LocalChroma, RemoteChroma
        except ImportError as exc:
            words = f"needs {exc.name}, which is not installed: install the extra 'memory'"
            raise ConfigError([(f"{FILE}: index.kind", words)]) from exc
        wanted, root = self._settings.index, self._host.settings.state.dir / VECTORS
        headers = [(name, resolve_value(value)) for name, value in wanted.headers.items()]
        place = await to_thread.run_sync(
            lambda: RemoteChroma(wanted.url, headers) if wanted.url else LocalChroma(Path(root))
        )
        return await open_chroma(store, place, model=embedder.name, dimensions=embedder.dimensions)

    def _end(self) -> None:
        self._service = None


def _exact(store: Store, embedder: Embedder) -> VectorIndex:
    try:
        from adapters.memory.exact import ExactIndex
    except ImportError as exc:
        log.warning("recall is by words alone: %s is not installed (extra 'memory')", exc.name)
        return NoIndex()
    return ExactIndex(store, model=embedder.name, dimensions=embedder.dimensions)


class NoIndex:
    """An index for machines that have none: nothing is found by meaning."""

    async def nearest(self, view: View, vector: bytes, limit: int) -> Sequence[Hit]:
        """Nothing."""
        return ()

    async def purge(self, tenant: str) -> None:
        """Nothing is kept."""

    async def aclose(self) -> None:
        """Nothing is open."""


@asynccontextmanager
async def _embedder(settings: MemorySettings) -> AsyncIterator[Embedder]:
    wanted = settings.embedder
    if wanted.kind == "remote":
        from adapters.embedders.remote import Remote

        key = resolve_secret(wanted.key) if wanted.key else ""
        async with Remote(wanted.url, model=wanted.model, dimensions=wanted.dimensions, key=key) as remote:
            yield remote
        return
    found = await to_thread.run_sync(_minilm, wanted.kind == "minilm") if wanted.kind != "hashing" else None
    if found is None:
        from adapters.embedders.hashing import Hashing

        found = Hashing()
    yield found


def _minilm(needed: bool) -> Embedder | None:
    """The model, or `None` where it is not installed and need not be. Raises `ConfigError`."""
    try:
        from adapters.embedders.minilm import MiniLm

        return MiniLm.installed()
    except (ImportError, EmbeddingUnavailable) as exc:
        if needed:
            raise ConfigError([(f"{FILE}: embedder.kind", f"{exc}: install the extra 'memory'")]) from exc
        log.warning("memory: recall by meaning is weak, the extra 'memory' is not installed: %s", exc)
        return None


async def _closed(close: Callable[[], Awaitable[None]]) -> None:
    """Also when the gateway was cancelled: what was begun is finished."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
        await close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


_: type[Runnable] = MemoryServer
