"""The A2A half of a gateway, put together: who owns which task, push notifications, cards, and the doors."""

from __future__ import annotations

import logging
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from ipaddress import ip_network
from typing import Final, Protocol
from urllib.parse import urlsplit

import anyio
from anyio.abc import TaskGroup

from adapters.stores.sql import SqlStore
from adapters.upstreams.a2a.caller import Caller, Terms
from adapters.upstreams.a2a.push_addresses import Receivers
from adapters.upstreams.a2a.push_delivery import PushSender
from gateway import codec
from gateway.a2a.card_shelf import CardShelf
from gateway.a2a.cards import Places, security_of
from gateway.a2a.catalogue import Listed, catalogue
from gateway.a2a.directory import AgentEntry, Agents, Interface
from gateway.a2a.errors import A2aError
from gateway.a2a.malformed import Malformed
from gateway.a2a.operations import VERSION
from gateway.a2a.push import PushRelay
from gateway.a2a.push_inbox import PushInbox
from gateway.a2a.push_outbox import Delivered, Outbox
from gateway.a2a.push_records import PushRecords
from gateway.a2a.push_tasks import PushedTasks
from gateway.a2a.tasks import TaskIndex
from gateway.a2a.v03 import event_from_03, event_to_03
from gateway.a2a.versions import requested_extensions
from gateway.app.agents import GrpcCallers, Shared, offered
from gateway.app.keys import KeysOnDemand
from gateway.app.tracing import trace_of
from gateway.app.upkeep import forget_in_time
from gateway.config.tree import Settings
from gateway.errors import ConfigError, InterlockError, UpstreamUnavailable
from gateway.identity.card_keys import CardKeys
from gateway.identity.chain import Chains
from gateway.identity.push_seal import PushSealer
from gateway.identity.seal import Sealer
from gateway.listeners.a2a.calls import AgentCalls, Peer
from gateway.listeners.a2a.catalogue import CATALOGUE_READ
from gateway.listeners.a2a.refusals import Refusal, Refused, refusal_of, refusal_of_upstream
from gateway.listeners.guards import credentials_of
from gateway.listeners.http import Headers, one
from gateway.ports import Relay
from gateway.registry import Registry
from gateway.types import Authorized, Call, Identity, Resource, Result

log = logging.getLogger("interlock.a2a")

NEEDS_GRPC: Final = "needs the packages of the extra `grpc`: pip install 'interlock-gateway[grpc]'"

_LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@dataclass(frozen=True, slots=True)
class A2a:
    """What A2A of one gateway stands on."""

    shared: Shared
    shelf: CardShelf
    card_keys: CardKeys
    inbox: PushInbox
    places: Places

    def place_of(self, name: str, host: str = "") -> Places:
        """Where an agent is reached: below the gateway's address, or at a host of its own."""
        return replace(self.places, host_url=host) if host else self.places


async def open_chains(url: str, store: SqlStore) -> Chains:
    """The signer of delegation chains. Which agents may hand one back, `open_a2a` says: they come and go."""
    return Chains(await store.secret("chain"), url, lambda _: False, time.time)


async def open_a2a(
    settings: Settings,
    url: str,
    store: SqlStore,
    sealer: Sealer,
    chains: Chains,
    group: TaskGroup,
    stack: AsyncExitStack,
    results_judged: Callable[[], bool],
) -> A2a:
    """Everything but the doors. Raises `ConfigError` when gRPC is wanted and not installed."""
    agents = Agents()
    chains.is_agent = lambda name: agents.get(name) is not None
    tasks = TaskIndex(store.tasks, _now_ms, sealer)
    records = PushRecords(store.tasks, PushSealer([await store.secret("push")]), _now_ms)
    receivers = _receivers(settings)
    waiting: list[Outbox] = []
    inbox = PushInbox(
        records,
        learn=PushedTasks(tasks, store.tasks, _now_ms).learn,
        post=lambda slip: bool(waiting) and waiting[0].put(slip),
        from_03=event_from_03,
        to_03=event_to_03,
        results_judged=results_judged,
    )
    outbox = Outbox(inbox.addressed, PushSender(receivers).deliver, note=_told, random=random.random)
    waiting.append(outbox)
    await stack.enter_async_context(_sending(outbox, group))
    group.start_soon(forget_in_time, store.tasks, records, lambda: [entry.name for entry in agents.all()], _now_ms)
    push = PushRelay(
        records,
        webhook_url=lambda agent, relay: f"{url}/agents/{agent}/push/{relay}",
        check=receivers.check,
        new_secret=lambda: secrets.token_urlsafe(32),
    )
    shared = Shared(
        agents,
        tasks,
        chains,
        push,
        KeysOnDemand(stack),
        store,
        _grpc_callers(),
    )
    issuers = tuple(issuer.issuer for issuer in settings.identity.issuers.values())
    security = security_of(issuers, anonymous=bool(settings.identity.anonymous))
    card_keys = await CardKeys.load(store, url)
    places = Places(url, grpc_url=_grpc_url(settings, url), legacy=("JSONRPC", "HTTP+JSON"))
    return A2a(shared, CardShelf(card_keys.sign, security), card_keys, inbox, places)


@asynccontextmanager
async def _sending(outbox: Outbox, group: TaskGroup) -> AsyncIterator[None]:
    """Send notifications; what waits at the end gets its last try while agents, store and log are still there."""
    ended = anyio.Event()

    async def send() -> None:
        try:
            await outbox.run()
        finally:
            ended.set()

    group.start_soon(send)
    try:
        yield
    finally:
        outbox.close()
        await ended.wait()  # `run` gives up after a while by itself


def _receivers(settings: Settings) -> Receivers:
    """Loopback is for a gateway that nobody reaches from elsewhere: its callers can reach all of it anyway.

    Such a machine may be off the network when a receiver is named.
    """
    at_home = settings.listen.on_loopback and not settings.listen.public_url
    return Receivers(ranges=_LOOPBACK if at_home else (), plain_http=at_home, unknown_names=at_home)


def _grpc_callers() -> GrpcCallers | None:
    """What makes callers over gRPC: the library, which is large, is loaded when the first agent needs it."""
    if not has_grpc():
        return None

    def made(name: str, interface: Interface, terms: Terms) -> Caller:
        from adapters.upstreams.a2a.grpc_upstream import grpc_caller  # heavy, and an extra

        return grpc_caller(name, interface, terms)

    return made


def has_grpc() -> bool:
    """Whether the extra `grpc` is installed."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # our children exec at once, and it would warn of each
    return find_spec("grpc") is not None and find_spec("a2a") is not None


def _grpc_url(settings: Settings, url: str) -> str:
    return f"{urlsplit(url).hostname}:{settings.listen.grpc_port}" if settings.listen.grpc_port else ""


def _told(delivered: Delivered) -> None:
    if delivered.fate != "delivered":
        slip = delivered.slip
        words = "agent %r: a push notification for task %r was not delivered (%s, %d tries): %s"
        log.warning(words, slip.agent, slip.task_id, delivered.fate, delivered.tries, delivered.receipt.why)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Chooser(Protocol):
    """Which of these may the identity use?"""

    async def visible(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]: ...


class CardDesk:
    """Carries out what asks for cards: one agent's, or the catalogue of all that the caller may use."""

    def __init__(self, a2a: A2a, registry: Registry, chooser: Chooser, url: str) -> None:
        self._a2a = a2a
        self._registry = registry
        self._chooser = chooser
        self._url = url

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """The page as it is published. Raises `UpstreamUnavailable` while there is none."""
        if authorized.call.method == CATALOGUE_READ:
            return Result(codec.dumps(await self._catalogue(authorized)))
        name = authorized.call.resource.upstream
        entry = self._a2a.shared.agents.get(name)
        if entry is None or not entry.card:
            why = entry.down if entry is not None else "not configured"
            raise UpstreamUnavailable(f"agent {name!r} has no card now: {why}")
        host = authorized.call.params.get("host_url")
        places = self._a2a.place_of(name, host if isinstance(host, str) else "")
        return Result(self._a2a.shelf.page(await self._shown(entry, authorized), places).body)

    async def _shown(self, entry: AgentEntry, authorized: Authorized) -> AgentEntry:
        """A server's tools are shown as skills to those who may call them."""
        state = self._registry.snapshot.upstream(entry.name)
        if entry.interfaces or state is None or state.catalog is None:
            return entry
        tools = [self._registry.resolve_tool(entry.name, item.name) for item in offered(state.catalog)]
        seen = await self._chooser.visible(authorized.call, authorized.identity, tools)
        if len(seen) == len(tools):
            return entry
        return _without_tools(entry) if not seen else replace(entry, skills=tuple(tools[i].name for i in sorted(seen)))

    async def _catalogue(self, authorized: Authorized) -> dict[str, object]:
        agents = [entry for entry in self._a2a.shared.agents.all() if entry.card and not entry.quarantine]
        servers = [entry.name for entry in agents if not entry.interfaces]
        resources = [self._a2a.shared.agents.resource(entry.name) for entry in agents]
        seen = await self._chooser.visible(authorized.call, authorized.identity, resources)
        shown = [_listed_agent(self._url, agents[index]) for index in sorted(seen)]
        candidates = [self._registry.resolve_server(name) for name in servers]
        open_to = await self._chooser.visible(authorized.call, authorized.identity, candidates)
        shown += [_listed_server(self._url, servers[index]) for index in sorted(open_to)]
        return catalogue(self._url, shown)


def _without_tools(entry: AgentEntry) -> AgentEntry:
    from_nothing = {**entry.card, "skills": ()}
    return replace(entry, card=type(entry.card)(from_nothing), digest=f"{entry.digest}:none")


def _listed_agent(url: str, entry: AgentEntry) -> Listed:
    address = f"{url}/agents/{entry.name}/.well-known/agent-card.json"
    title, words = entry.card.get("name"), entry.card.get("description")
    return Listed(
        "agent", entry.name, address, title=str(title or entry.name), description=str(words or ""), tags=entry.labels
    )


def _listed_server(url: str, name: str) -> Listed:
    remotes = [{"type": "streamable-http", "url": f"{url}/servers/{name}/mcp"}]
    return Listed("server", name, data={"name": name, "remotes": remotes})


@asynccontextmanager
async def grpc_door(settings: Settings, calls: Callable[[], Mapping[str, AgentCalls]]) -> AsyncIterator[int]:
    """Serve A2A over gRPC, where it is configured; gives the port, 0 for none."""
    listen = settings.listen
    if not listen.grpc_port:
        yield 0
        return
    if not has_grpc():
        raise ConfigError([("listen.grpc_port", NEEDS_GRPC)])
    from adapters.doors.a2a_grpc import Limits, Wiring, serve_grpc  # heavy, and an extra

    wiring: Wiring[Peer] = Wiring(calls, _grpc_peer, _grpc_refusal, refusal_of_upstream)
    limits = Limits(request_bytes=listen.max_body_bytes)
    async with AsyncExitStack() as stack:
        try:
            door = serve_grpc(wiring, host=listen.host, port=listen.grpc_port, limits=limits)
            port = await stack.enter_async_context(door)
        except OSError as exc:
            words = f"{listen.host}:{listen.grpc_port} cannot be listened on: {exc}; choose another"
            raise ConfigError([("listen.grpc_port", words)]) from exc
        yield port


def _grpc_peer(address: str, headers: Headers) -> Peer:
    """Who calls, by the same rules as over HTTP."""
    return Peer(
        credentials_of({"client": (address, 0)}, headers),
        VERSION,
        requested_extensions(headers.get(b"a2a-extensions", ())),
        trace_of(one(headers, b"traceparent"), one(headers, b"tracestate")),
    )


def _grpc_refusal(error: Exception) -> Refusal | None:
    return refusal_of(error) if isinstance(error, InterlockError | A2aError | Malformed | Refused) else None
