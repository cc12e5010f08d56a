"""An A2A agent as an upstream: its card kept current, its calls carried out."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Final

import anyio
from anyio.abc import TaskGroup

from adapters.upstreams.a2a.answers import error_of
from adapters.upstreams.a2a.caller import Ask, Caller, Heard, Terms
from adapters.upstreams.a2a.choosing import check_offered, chosen
from adapters.upstreams.a2a.dialect import dialect_of
from adapters.upstreams.a2a.feed import Pace
from adapters.upstreams.a2a.http_json import HttpJsonCaller
from adapters.upstreams.a2a.hub import Hub
from adapters.upstreams.a2a.jsonrpc import JsonRpcCaller
from adapters.upstreams.a2a.line import CallLine
from adapters.upstreams.a2a.listing import listed
from adapters.upstreams.a2a.parts import CardSource, Learning, Parts
from adapters.upstreams.a2a.site import site_of
from adapters.upstreams.wire.backoff import Backoff
from gateway.a2a.directory import AgentEntry, Interface
from gateway.a2a.errors import A2aError
from gateway.a2a.operations import OPERATIONS, Operation
from gateway.a2a.tasks import facts
from gateway.codec import JsonObject
from gateway.errors import (
    InterlockError,
    InvalidCall,
    QuotaExceeded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.ports import Relay, TaskRecord, Upstream
from gateway.types import Authorized, Call, FrozenDict, Result

log = logging.getLogger("interlock.upstreams")

CHAIN_HEADER: Final = b"interlock-chain"
REVALIDATE_S: Final = 300.0
"""How often the card is fetched anew."""
CALM_S: Final = 5.0
"""How often at most, when calls fail."""
DRAIN_S: Final = 30.0
"""How long calls may go on over an interface that the card no longer prefers."""
FAREWELL_S: Final = 5.0
MAX_BACKOFF_S: Final = 30.0


@dataclass(slots=True)
class Health:
    """How an agent fares, for `doctor` and the metrics."""

    state: str = "connecting"
    reason: str = ""
    interface: str = ""
    fetches: int = 0
    failures: int = 0


class A2aAgent:
    """One configured agent. `run` must be running for as long as it is used."""

    def __init__(
        self,
        name: str,
        *,
        source: CardSource,
        offer: Callable[[AgentEntry], Awaitable[None]],
        terms: Terms,
        parts: Parts,
        random: Callable[[], float],
        pace: Pace = Pace(),  # noqa: B008  # frozen
        revalidate_s: float = REVALIDATE_S,
    ) -> None:
        self._name = name
        self._source = source
        self._offer = offer
        self._terms = terms
        self._parts = parts
        self._learning = Learning(name, parts)
        self._random = random
        self._pace = pace
        self._revalidate_s = revalidate_s
        self._backoff = Backoff(max_s=MAX_BACKOFF_S, random=random)
        self._entry: AgentEntry | None = None
        self._caller: Caller | None = None
        self._interface: Interface | None = None
        self._hub: Hub | None = None
        self._suspect = anyio.Event()
        self.health = Health()
        self.settled = anyio.Event()
        """Set after the first attempt to fetch the card, whatever came of it."""

    # The card

    async def run(self) -> None:
        """Keep the card current until cancelled; then leave no connection behind."""
        async with anyio.create_task_group() as group:
            self._hub = Hub(group, self._pace, self._random)
            try:
                while True:
                    await self._described(group)
            finally:
                self._hub = self._entry = None
                caller, self._caller = self._caller, None
                with anyio.move_on_after(FAREWELL_S, shield=True):
                    await self._source.aclose()
                    if caller is not None:
                        await caller.aclose()

    async def _described(self, group: TaskGroup) -> None:
        """Fetch the card once, then wait until it is time to look again."""
        started = time.monotonic()
        self._suspect = anyio.Event()
        try:
            with anyio.fail_after(self._terms.timeout_s):
                entry = await self._source.described()
            self._use(entry, group)
        except (InterlockError, TimeoutError) as exc:
            await self._failed(exc, started)
            return
        self._backoff.reset()
        self.health.state, self.health.reason = "up", entry.quarantine
        self.health.fetches += 1
        await self._offer(entry)
        self.settled.set()
        with anyio.move_on_after(self._revalidate_s):
            await self._suspect.wait()
            await anyio.sleep(CALM_S)

    async def _failed(self, exc: InterlockError | TimeoutError, started: float) -> None:
        reason = str(exc) or "its card did not come in time"
        unreachable = isinstance(exc, UpstreamUnavailable | UpstreamTimeout | TimeoutError)
        if not unreachable or self._entry is None:  # a card that was good stays so while nobody says otherwise
            self._entry = None
            self._cut_off()
            await self._offer(AgentEntry(self._name, down=reason))
        self.health.state, self.health.reason = "down", reason
        self.health.failures += 1
        self.settled.set()
        log.warning("agent %r is down: %s", self._name, reason)
        await anyio.sleep(self._backoff.failed(ran_s=time.monotonic() - started))

    def _use(self, entry: AgentEntry, group: TaskGroup) -> None:
        """Call the agent as this card says. One that is quarantined is not called at all."""
        if not entry.quarantine:
            interface = chosen(entry, grpc=self._parts.grpc is not None)
            if interface != self._interface:
                former, self._caller = self._caller, self._caller_for(interface)
                self._interface = interface
                if former is not None:
                    group.start_soon(former.aclose, DRAIN_S)
            self.health.interface = f"{interface.binding} {interface.version}"
        else:
            self._cut_off()
        self._entry = entry

    def _cut_off(self) -> None:
        """End what runs, too: a stream that began under a card that was good is not heard any longer."""
        hub, former = self._hub, self._caller
        self._caller = self._interface = None
        if hub is not None:
            hub.cut()
            if former is not None:
                hub.group.start_soon(former.aclose)

    def _caller_for(self, interface: Interface) -> Caller:
        if interface.binding == "GRPC" and self._parts.grpc is not None:
            return self._parts.grpc(self._name, interface, self._terms)
        site = site_of(self._name, interface, self._terms)
        if interface.binding == "HTTP+JSON":
            return HttpJsonCaller(site)
        return JsonRpcCaller(site, dialect_of(interface.version))

    def report(self) -> Mapping[str, object]:
        """How the agent fares, for people."""
        return {**asdict(self.health), "streams": self._hub.open if self._hub is not None else 0}

    def look_again(self) -> None:
        """Fetch and judge the card anew soon: somebody may have accepted it."""
        self._suspect.set()

    def unwatched(self, uri: str) -> None:
        """Agents have no resources to watch."""

    # Calls

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Carry out one call; an error of the agent is a result."""
        operation = OPERATIONS.get(authorized.call.method)
        if operation is None:
            raise InvalidCall(f"{authorized.call.method!r} is not asked of agents")
        entry = self._entry
        if entry is None or entry.quarantine:
            raise self._not_there()
        try:
            check_offered(entry, operation)
            with self._parts.chain.entering(authorized, self._name) as token:
                return await self._carried_out(operation, authorized, relay, token)
        except A2aError as exc:
            return error_of(exc)
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamProtocolError):
            self._suspect.set()  # is it still there, and where the card said?
            raise

    async def _carried_out(self, operation: Operation, authorized: Authorized, relay: Relay, token: str) -> Result:
        call, push = authorized.call, self._parts.push
        try:
            params = await push.outgoing(authorized, call.params)
            ask = Ask(operation, params, _hop_headers(call, token), _extensions(relay))
            if operation.name == "ListTasks":
                return await self._listed(authorized, relay)
            if operation.streams:
                return await self._streamed(authorized, relay, ask)
            return await self._learning.take_reply(authorized, await self._reached().unary(ask))
        except QuotaExceeded:  # the agent has not heard of it
            await push.failed(authorized)
            raise
        finally:
            push.over(authorized)

    async def _listed(self, authorized: Authorized, relay: Relay) -> Result:
        call = authorized.call
        page = await self._parts.tasks.page(self._name, authorized.identity, call.params)

        async def get(record: TaskRecord, params: JsonObject) -> Result:
            catalog = FrozenDict({**call.resource.catalog, "task": FrozenDict(facts(record))})
            task = replace(call.resource, type="a2a_task", id=record.task_id, name=record.task_id, catalog=catalog)
            return await relay.act(OPERATIONS["GetTask"].action, "GetTask", task, params)

        return await listed(page, call.params, get)

    async def _streamed(self, authorized: Authorized, relay: Relay, ask: Ask) -> Result:
        call, owner, hub = authorized.call, authorized.identity.principal, self._hub
        if hub is None:
            raise self._not_there()

        async def learned(heard: Heard) -> Heard:
            return await self._learning.take_event(authorized, heard)

        line = CallLine(self._reached, ask, learned)
        if ask.operation.name == "SubscribeToTask":
            following = hub.subscribed(line, owner, str(call.params.get("id", "")))
        else:
            following = hub.sent(line, owner)
        with following as ring:
            async with aclosing(ring.events()) as events:
                async for event in events:
                    await relay.emit(event)
            result = ring.result()
        if result.outcome == "rpc_error":
            await self._parts.push.failed(authorized)
        return result

    def _reached(self) -> Caller:
        if self._caller is None:
            raise self._not_there()
        return self._caller

    def _not_there(self) -> UpstreamUnavailable:
        return UpstreamUnavailable(f"agent {self._name!r} cannot be called: {self.health.reason or 'not fetched yet'}")


def _hop_headers(call: Call, token: str) -> list[tuple[bytes, bytes]]:
    """What this hop adds: W3C Trace Context, and the chain of who called whom."""
    lines = [(CHAIN_HEADER, token.encode("ascii"))] if token else []
    if call.traceparent:
        lines.append((b"traceparent", call.traceparent.encode("latin-1", "replace")))
        if call.tracestate:
            lines.append((b"tracestate", call.tracestate.encode("latin-1", "replace")))
    return lines


def _extensions(relay: Relay) -> tuple[str, ...]:
    declared = relay.capabilities.get("extensions")
    return tuple([uri for uri in declared if isinstance(uri, str)]) if isinstance(declared, tuple | list) else ()


_: type[Upstream] = A2aAgent
