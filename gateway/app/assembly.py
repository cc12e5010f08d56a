"""Puts the parts of a gateway together, and takes them apart again in the right order."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final
from urllib.parse import urlsplit

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from adapters.detectors import all_detectors
from adapters.stores.sql import SqlStore, open_store
from gateway.a2a.as_agent import ToolAgent
from gateway.a2a.operations import CARD_READ
from gateway.app.a2a import A2a, CardDesk, grpc_door, open_a2a, open_chains
from gateway.app.agents import AgentFactory, BridgedAgent, NotConfigured, ServersAsAgents
from gateway.app.approvals import ApprovalParts, open_approvals
from gateway.app.authzen import DeskParts, EvaluationDesk, authzen_routes
from gateway.app.boxes import Sandboxing, open_sandboxing
from gateway.app.budgets import BudgetParts, open_budgets
from gateway.app.bundles import PolicyBundles
from gateway.app.decisions import open_decisions
from gateway.app.endpoints import Front, Parts
from gateway.app.held import open_held
from gateway.app.identification import open_identification
from gateway.app.memory import MemoryHost
from gateway.app.models import ModelDoor
from gateway.app.policy import ActivePolicy
from gateway.app.reloading import Reloader
from gateway.app.routing import Routing
from gateway.app.shadow import Shadow, open_shadow
from gateway.app.taps import Taps
from gateway.app.telemetry import export_telemetry
from gateway.app.upstreams import PARKED_TTL_S, UpstreamFactory
from gateway.app.views import Seen, views_of
from gateway.approvals.held import HeldCalls
from gateway.audit.journal import Journal, JournalLimits, RecordSink
from gateway.audit.log import AuditLog, LogLimits
from gateway.authz.authz import Authz
from gateway.authz.detection import Detection
from gateway.config.models import Catalogue, load_models
from gateway.config.tree import Agent, Settings
from gateway.errors import InterlockError, SandboxFailure
from gateway.events import Events
from gateway.identity.identifier import Identification
from gateway.identity.keyring import KeyRing
from gateway.identity.seal import Sealer
from gateway.listeners.a2a.catalogue import CATALOGUE_READ
from gateway.listeners.admin import admin_app
from gateway.listeners.guards import Guards
from gateway.listeners.mcp.methods import SUPPORTED_VERSIONS
from gateway.listeners.mcp.sessions import Sessions
from gateway.listeners.mcp.tasks import EXTENSION as TASKS
from gateway.lister import SERVED, About, Lister
from gateway.pipeline import Pipeline
from gateway.ports import DecisionTap, Exchange, Upstream
from gateway.registry import Registry
from gateway.running import Runnable, Running
from gateway.telemetry import Leg, Metrics
from gateway.types import Call, Identity, Result

log = logging.getLogger("interlock")

VERSION: Final = "0.1.0"
FOLLOW_S: Final = 1.0
CLOSE_S: Final = 5.0
JOURNAL: Final = JournalLimits(batch_records=2_048)
"""Under load a write waits for several turns of the event loop: small batches would come slower than the calls."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that is up, for whoever serves it."""

    url: str
    front: Front
    registry: Registry
    running: Running
    events: Events
    faults: Mapping[str, str]
    """Why an upstream could not be started."""

    def upstream_faults(self) -> dict[str, str]:
        """Each upstream with the reason why it is down; empty when it is up."""
        servers = {
            state.name: state.down or ("" if state.catalog else "not connected yet")
            for state in self.registry.snapshot.upstreams
        }
        return {**self.faults, **servers}


@dataclass(frozen=True, slots=True)
class Listening:
    """Who is told of each decision."""

    shadow: Shadow
    tap: DecisionTap


@dataclass(frozen=True, slots=True)
class Base:
    """What is opened first and closed last."""

    settings: Settings
    url: str
    store: SqlStore
    metrics: Metrics
    legs: dict[str, Leg]
    journal: Journal
    policy: ActivePolicy
    identifier: Identification
    keys: KeyRing
    sealer: Sealer
    group: TaskGroup
    sandboxing: Sandboxing
    path: PathToCome
    new_id: Callable[[], str]
    a2a: A2a
    approvals: ApprovalParts
    bundles: PolicyBundles
    taps: Listening
    detection: Detection
    held: HeldCalls
    budgets: BudgetParts
    catalogue: Catalogue
    memory: MemoryHost


@dataclass(slots=True)
class PathToCome:
    """The governed path for what has to be there before it, and does nothing until it is."""

    pipeline: Pipeline | None = None

    async def __call__(
        self, call: Call, credentials: Identity, exchange: Exchange, *, by: Upstream | None = None
    ) -> Result:
        """Take a call along it. Raises `SandboxFailure` while the gateway starts."""
        if self.pipeline is None:
            raise SandboxFailure("the gateway is still starting")
        return await self.pipeline.handle(call, credentials, exchange, by=by)


@asynccontextmanager
async def running_gateway(settings: Settings, port: int) -> AsyncIterator[Gateway]:
    """Everything but the listening socket. Leaving the block ends it: upstreams stopped, records written."""
    async with AsyncExitStack() as stack:
        gateway = _assembled(await _opened(settings, port, stack))
        await stack.enter_async_context(grpc_door(settings, gateway.front.calls))
        yield gateway


async def _opened(settings: Settings, port: int, stack: AsyncExitStack) -> Base:
    url = settings.listen.public_url.rstrip("/") or _local_url(settings.listen.host, port)
    store = await open_store(settings.state.address(), data_dir=settings.state.dir, clock_s=time.time)
    stack.push_async_callback(_closed, store)
    policy, metrics = ActivePolicy(), Metrics()
    stack.callback(policy.close)
    taps = await _listening(settings, policy, metrics, stack)
    bundles = PolicyBundles(settings, policy)
    await bundles.start()
    sinks: list[RecordSink] = [metrics]
    outer = await stack.enter_async_context(_ended_last())
    legs: dict[str, Leg] = {}
    await export_telemetry(settings.telemetry, metrics, sinks, outer, version=VERSION, legs=legs)
    journal = Journal(_open_log(settings, stack), sinks=sinks, limits=JOURNAL)
    path, new_id = PathToCome(), id_maker()
    # Boxes go last, when nothing that runs in one is left: until then each end leaves its record.
    sandboxing = await stack.enter_async_context(open_sandboxing(settings, path, new_id))
    group = await stack.enter_async_context(_recorded(journal))
    keys = KeyRing(store)
    await keys.refresh()
    chains = await open_chains(url, store)
    identifier = await open_identification(settings, url, keys, group, stack, chains)
    sealer = Sealer([await store.secret("seal")], audience="interlock")
    a2a = await open_a2a(settings, url, store, sealer, chains, group, stack, policy.response_differs)
    approvals = await open_approvals(settings, store, url, group, stack)
    return Base(
        settings,
        url,
        store,
        metrics,
        legs,
        journal,
        policy,
        identifier,
        keys,
        sealer,
        group,
        sandboxing,
        path,
        new_id,
        a2a,
        approvals,
        bundles,
        taps,
        Detection(await to_thread.run_sync(all_detectors), policy.reads_findings),
        await open_held(store, approvals, group),
        open_budgets(store, policy.reads_budget, group, stack),
        load_models(settings),
        MemoryHost(settings),
    )


async def _listening(settings: Settings, policy: ActivePolicy, metrics: Metrics, stack: AsyncExitStack) -> Listening:
    """Who is told of decisions. The log knows each policy before it decides, because that one says what is masked."""
    decisions = await stack.enter_async_context(open_decisions(settings, metrics, VERSION))
    policy.before.append(decisions.use)
    shadow = open_shadow(settings, metrics, policy)
    kept = (decisions.tap,) if decisions.tap is not None else ()
    return Listening(shadow, Taps(*kept, shadow))


def _open_log(settings: Settings, stack: AsyncExitStack) -> AuditLog:
    limits = LogLimits(retention_s=settings.audit.retention_days * 86_400.0)
    opened = AuditLog.open(settings.state.dir, limits=limits)
    stack.callback(opened.close)
    return opened


async def _closed(store: SqlStore) -> None:
    """Also when the gateway was cancelled: connections that are torn off keep the database busy."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
        await store.aclose()


@asynccontextmanager
async def _ended_last() -> AsyncIterator[TaskGroup]:
    async with anyio.create_task_group() as group:
        try:
            yield group
        finally:
            group.cancel_scope.cancel()


@asynccontextmanager
async def _recorded(journal: Journal) -> AsyncIterator[TaskGroup]:
    """A task group whose tasks may record to their end: the journal outlives them."""
    async with _ended_last() as outer:
        await outer.start(journal.run)
        async with _ended_last() as group:
            yield group


def _assembled(base: Base) -> Gateway:
    settings, agents = base.settings, base.a2a.shared.agents
    registry, events = Registry((*settings.servers, *settings.agents)), Events()
    door = ModelDoor()
    builtin = (base.sandboxing, base.memory, door.models)
    factory = UpstreamFactory(registry, events, base.store, settings, base.legs, *builtin)
    agencies = AgentFactory(base.a2a.shared, registry, settings)
    both = Both(factory, agencies)
    running = Running(base.group, both.make, both.crashed)
    events.on_unwatched(running.unwatched)
    registry.on_change(factory.announce)
    front = _front(base, registry, running, events, door)
    reloader = Reloader(settings, base.policy, registry, running, front, events, base.sandboxing, agents)
    registry.on_change(ServersAsAgents(agents, registry, reloader.servers).follow)
    reloader.take_bundles(base.bundles)
    reloader.take_models(door.models, base.catalogue)
    reloader.start()
    base.group.start_soon(reloader.run)
    base.group.start_soon(base.bundles.run, reloader.announce)
    base.group.start_soon(base.taps.shadow.run)
    base.group.start_soon(base.policy.keep)
    base.group.start_soon(_follow_store, base.keys, both)
    base.group.start_soon(_follow_switches, base.approvals)
    return Gateway(base.url, front, registry, running, events, factory.faults)


def _front(base: Base, registry: Registry, running: Running, events: Events, door: ModelDoor) -> Front:
    settings, new_id = base.settings, base.new_id
    base.path.pipeline = _pipeline(base, registry, running, new_id, door)
    parts = Parts(
        registry=registry,
        handler=base.path.pipeline,
        identifier=base.identifier,
        sealer=base.sealer,
        sessions=Sessions(sealer=base.sealer, events=events, new_id=new_id, now_s=_now_s),
        events=events,
        guards=_guards(settings),
        url=base.url,
        new_id=new_id,
        parked_ttl_s=PARKED_TTL_S,
        a2a=base.a2a,
        patience=base.approvals.patience,
        held=base.held,
        models=door.endpoint,
    )
    issuers = tuple(issuer.issuer for issuer in settings.identity.issuers.values())
    seen = Seen(base.url, issuers, registry, running, base.journal, base.metrics, base.policy)
    approving = base.approvals.routes(base.path.pipeline, base.identifier, parts.guards, new_id, base.sealer)
    spending = base.budgets.routes(base.path.pipeline, base.identifier, parts.guards, new_id)
    remembering = base.memory.routes(base.path.pipeline, base.identifier, parts.guards, new_id)
    routes = [*approving, *spending, *remembering, *authzen_routes(base.path.pipeline, parts.guards, base.url, new_id)]
    return Front(parts, admin_app(views_of(seen, base.a2a.card_keys.jwks), base.identifier, parts.guards, routes))


def _authz(base: Base) -> Authz:
    authz = Authz(
        base.policy,
        env=base.settings.telemetry.environment,
        clock_ns=time.time_ns,
        monotonic_ns=time.monotonic_ns,
        new_id=base.new_id,
        response_differs=base.policy.response_differs,
        tap=base.taps.tap,
        detection=base.detection,
    )
    authz.budgets = base.budgets.facts
    base.memory.policy.policy = authz
    return authz


def _evaluations(base: Base, registry: Registry) -> EvaluationDesk:
    """What answers other enforcement points that ask policy."""
    parts = DeskParts(
        base.policy,
        registry,
        base.settings.telemetry.environment,
        base.new_id,
        agents=base.a2a.shared.agents,
        switches=base.approvals.switches,
        tap=base.taps.tap,
        detection=base.detection,
    )
    return EvaluationDesk(parts)


def _pipeline(base: Base, registry: Registry, running: Running, new_id: Callable[[], str], door: ModelDoor) -> Pipeline:
    authz = _authz(base)
    lister = Lister(
        registry=registry,
        chooser=authz,
        cursors=base.sealer,
        epoch=base.policy.list_epoch,
        now_s=_now_s,
        about=About("interlock", VERSION, SUPPORTED_VERSIONS, (TASKS,)),
    )

    desk, approvals, evaluations = (
        CardDesk(base.a2a, registry, authz, base.url),
        base.approvals,
        _evaluations(base, registry),
    )

    def upstream_for(call: Call) -> Upstream:
        if (own := base.budgets.desk.desk_for(call) or approvals.desk_for(call)) is not None:
            return own
        if (own := evaluations.desk_for(call) or door.models.upstream_for(call)) is not None:
            return own
        if call.protocol == "a2a":
            return desk if call.method in (CARD_READ, CATALOGUE_READ) else _agent_for(call, running, registry)
        return lister if call.method in SERVED else running.upstream_for(call)

    routing = Routing(base.settings, door.models)
    carrier = routing.carrying(upstream_for, authz.labels_of)
    base.group.start_soon(routing.run)
    pipeline = Pipeline(
        identifier=base.identifier,
        authz=authz,
        upstream_for=carrier,
        trail=base.journal,
        new_id=new_id,
        gate=approvals.gate,
        switches=approvals.switches,
    )
    pipeline.budgets, pipeline.sampler = base.budgets.ledger, routing.sampler()
    approvals.ends.append(pipeline.end_killed)
    door.open(pipeline, base.identifier, _guards(base.settings), authz, carrier, new_id, base.url)
    return pipeline


def _agent_for(call: Call, running: Running, registry: Registry) -> Upstream:
    """An agent, or the agent that an MCP server is."""
    name = call.resource.upstream
    upstream = running.upstream_for(call)
    return (
        upstream
        if isinstance(running.get(name), BridgedAgent | NotConfigured)
        else ToolAgent(name, registry.resolve_tool)
    )


@dataclass(frozen=True, slots=True)
class Both:
    """Makes servers and agents, each from its own section."""

    servers: UpstreamFactory
    agents: AgentFactory

    def make(self, name: str, spec: object) -> Runnable:
        """What the section describes."""
        return self.agents.make(name, spec) if isinstance(spec, Agent) else self.servers.make(name, spec)

    def crashed(self, name: str) -> None:
        """It does not run any more."""
        (self.agents if name in self.agents.newest else self.servers).crashed(name)

    async def judge_again(self) -> None:
        """Apply pins that somebody accepted meanwhile."""
        self.agents.judge_again()
        await self.servers.judge_again()


async def _follow_store(keys: KeyRing, factory: Both) -> None:
    """Notice what another process (the command line) changed: keys at once, and pins that were accepted."""
    while True:
        await anyio.sleep(FOLLOW_S)
        try:
            if await keys.refresh():
                await factory.judge_again()
        except (InterlockError, TimeoutError) as exc:
            log.warning("the state store did not answer: %s", exc)


async def _follow_switches(approvals: ApprovalParts) -> None:
    """Notice the kill switches that another replica set. What was known stays in force while the store is away."""
    while True:
        await anyio.sleep(FOLLOW_S)
        try:
            await approvals.follow()
        except (InterlockError, TimeoutError) as exc:
            log.warning("the state store did not answer: %s", exc)


def _now_s() -> int:
    return int(time.time())


def id_maker() -> Callable[[], str]:
    """Ids that no other process makes: a random prefix and a count."""
    prefix, numbers = os.urandom(6).hex(), count(1)
    return lambda: f"{prefix}-{next(numbers):x}"


def _guards(settings: Settings) -> Guards:
    listen = settings.listen
    hosts = {host.lower() for host in listen.allowed_hosts}
    if listen.public_url:
        hosts.add(urlsplit(listen.public_url).netloc.lower())
    if not listen.on_loopback and listen.host not in ("0.0.0.0", "::"):  # noqa: S104  # compared, not bound
        hosts.add(listen.host.lower())
    origins = frozenset(origin.lower().rstrip("/") for origin in listen.allowed_origins)
    return Guards(listen.max_body_bytes, frozenset(hosts), origins, loopback=listen.on_loopback)


def _local_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
