"""An MCP server as an upstream: kept connected, its catalog kept current, its calls carried out."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

import anyio
from anyio.abc import TaskGroup

from adapters.upstreams.mcp.answers import result_of
from adapters.upstreams.mcp.conversation import Limits, RoundsOnLegacy, asked_by, converse, request_for
from adapters.upstreams.mcp.discovery import Description
from adapters.upstreams.mcp.fetch import fetch
from adapters.upstreams.mcp.following import Following
from adapters.upstreams.mcp.lease import CALLBACKS, Lease, Server
from adapters.upstreams.mcp.link import MODERN_ERRORS, Object, Reply, Request, asked_nobody
from adapters.upstreams.mcp.subscriptions import Subscriptions
from adapters.upstreams.mcp.telling import told_by
from adapters.upstreams.mcp.turns import ParkingLot
from adapters.upstreams.wire.backoff import Backoff
from gateway.boxes import Hold
from gateway.errors import (
    InterlockError,
    IsolationUnavailable,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.events import Event, Events
from gateway.ports import Relay, Upstream
from gateway.registry import Listing
from gateway.types import EMPTY, Authorized, Call, Era, Result

log = logging.getLogger("interlock.upstreams")

REFRESH_S: Final = 300.0
"""How often a catalog is fetched anew, for servers that announce no changes."""
CALM_S: Final = 1.0
"""How often at most, for servers that announce too many."""
TIDY_S: Final = 15.0
SETTLE_S: Final = 0.1
"""How long announcements of changes are gathered before the lists are fetched once."""
CONNECT_S: Final = 60.0
"""What starting a process and agreeing on an era may take on top of the upstream's own time."""
MAX_BACKOFF_S: Final = 30.0
FAREWELL_S: Final = 15.0
MAX_STDERR: Final = 4_096

_CHANGES: Final = {
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
}

MakeServer = Callable[[TaskGroup, Callable[[str, Object], None]], Server]


@dataclass(frozen=True, slots=True)
class Terms:
    """What configuration says of one upstream. Times are seconds, sizes bytes."""

    name: str
    timeout_s: float
    max_bytes: int
    parked_ttl_s: float
    max_parked: int


@dataclass(slots=True)
class Health:
    """How an upstream fares, for `doctor` and the metrics."""

    state: str = "connecting"
    reason: str = ""
    era: str = ""
    connects: int = 0
    failures: int = 0


class McpUpstream:
    """One configured MCP server. `run` must be running for as long as it is used."""

    def __init__(
        self,
        terms: Terms,
        make_server: MakeServer,
        *,
        offer: Callable[[Listing], Awaitable[None]],
        down: Callable[[str], None],
        events: Events,
        random: Callable[[], float],
        hold: Hold,
    ) -> None:
        self._terms = terms
        self._hold = hold
        self._make_server = make_server
        self._offer = offer
        self._down = down
        self._events = events
        self._backoff = Backoff(max_s=MAX_BACKOFF_S, random=random)
        self._limits = Limits(terms.timeout_s, terms.max_bytes)
        self._server: Server | None = None
        self._rounds: RoundsOnLegacy | None = None
        self._era: Era | None = None
        self._no_box = False
        self._subscriptions = Subscriptions(terms.name, timeout_s=terms.timeout_s)
        self._changed = anyio.Event()
        self.health = Health()
        self.settled = anyio.Event()
        """Set after the first attempt to connect, whatever came of it."""

    @property
    def server(self) -> Server | None:
        """What reaches the server, while `run` runs."""
        return self._server

    async def run(self) -> None:
        """Keep the server connected until cancelled; then leave nothing of it behind."""
        terms = self._terms
        async with anyio.create_task_group() as group:
            server = self._server = self._make_server(group, self._news)
            lot = ParkingLot(group, terms.parked_ttl_s, terms.max_parked, server.max_parked)
            self._rounds = RoundsOnLegacy(lot, self._news, terms.name, self._hold)
            group.start_soon(self._tidy, server, lot)
            try:
                while True:
                    await self._connected_once(server)
            finally:
                self._era = None
                with anyio.move_on_after(FAREWELL_S, shield=True):
                    await server.aclose()

    async def _connected_once(self, server: Server) -> None:
        started = time.monotonic()
        try:
            with anyio.fail_after(self._terms.timeout_s + CONNECT_S):
                description = await server.connect()
                self._era = description.era
                await self._publish(server, description)
                await self._subscriptions.renew(server, description.era)
        except (InterlockError, TimeoutError) as exc:
            self._no_box = isinstance(exc, IsolationUnavailable)
            await self._failed(str(exc) or "no answer in time", started)
            return
        self._no_box = False
        self._up(description.era)
        await self._failed(await self._while_up(server, description), started)

    def _up(self, era: Era) -> None:
        self.health.state, self.health.reason, self.health.era = "up", "", era.value
        self.health.connects += 1
        self.settled.set()

    async def _failed(self, reason: str, started: float) -> None:
        self._era = None
        self.health.state, self.health.reason = "down", reason
        self.health.failures += 1
        self._down(reason)
        self.settled.set()
        log.warning("upstream %r is down: %s", self._terms.name, reason)
        await anyio.sleep(self._backoff.failed(ran_s=time.monotonic() - started))

    async def _while_up(self, server: Server, description: Description) -> str:
        """Follow changes until the connection ends; says why it did."""
        reasons: list[str] = []

        async def until_over(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except InterlockError as exc:
                reasons.append(str(exc))
            group.cancel_scope.cancel()

        async def publish() -> None:
            await self._publish(server, description)

        async def missed() -> None:
            await publish()
            await self._subscriptions.renew(server, description.era)
            for uri in self._subscriptions.uris:
                self._events.publish(Event(self._terms.name, "updated", uri))  # it may have been: look again

        following = Following(server, description.era, self._subscriptions, self._news)
        async with anyio.create_task_group() as group:
            group.start_soon(until_over, server.over)
            group.start_soon(until_over, lambda: following.run(missed))
            group.start_soon(until_over, lambda: self._refresh(server, publish))
        return reasons[0] if reasons else "the connection ended"

    async def _refresh(self, server: Server, publish: Callable[[], Awaitable[None]]) -> None:
        """Fetch the catalog anew when something changed, and when nothing was heard for long."""
        while True:
            with anyio.move_on_after(REFRESH_S):
                await self._changed.wait()
            await anyio.sleep(SETTLE_S)
            self._changed = anyio.Event()
            if not server.resting:
                await publish()
                await anyio.sleep(CALM_S)

    async def _publish(self, server: Server, description: Description) -> None:
        """Fetch all lists and offer them. Raises the `Upstream*` errors."""
        terms = self._terms
        template = Request("", EMPTY, capabilities=CALLBACKS, timeout_s=terms.timeout_s, max_bytes=terms.max_bytes)
        try:
            with anyio.fail_after(terms.timeout_s + CONNECT_S):
                listing = await fetch(await server.main(), description, template, terms.name)
        except TimeoutError as exc:
            raise UpstreamUnavailable(f"upstream {terms.name!r} did not list what it offers in time") from exc
        await self._offer(listing)

    async def _tidy(self, server: Server, lot: ParkingLot) -> None:
        while True:
            await anyio.sleep(TIDY_S)
            lot.expire()
            server.keep_awake = bool(self._subscriptions.uris)
            await server.tidy()

    def _news(self, method: str, params: Object) -> None:
        if method in _CHANGES:
            self._changed.set()
        elif method == "notifications/resources/updated":
            uri = params.get("uri")
            if isinstance(uri, str):
                self._events.publish(Event(self._terms.name, "updated", uri))

    def report(self) -> Mapping[str, object]:
        """How the upstream fares, for people."""
        stderr = self._server.stderr if self._server is not None else ""
        return {**asdict(self.health), "stderr": stderr[-MAX_STDERR:]}

    def unwatched(self, uri: str) -> None:
        """Nobody watches this resource any more."""
        self._subscriptions.drop(uri)

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Carry out one call. A client that leaves cancels it, and the server is told."""
        server, rounds, era, call = self._server, self._rounds, self._era, authorized.call
        if server is None or rounds is None or era is None:
            words = f"upstream {self._terms.name!r} is not connected: {self.health.reason or 'still connecting'}"
            raise IsolationUnavailable(words) if self._no_box else UpstreamUnavailable(words)
        if call.method == "resources/unsubscribe":
            return Result(b'{"resultType":"complete"}')
        if call.method == "resources/subscribe":
            with self._hold((await server.main()).box, authorized, relay):
                return await self._subscriptions.subscribe(server, era, call)
        try:
            if call.resume is not None and "p" in _state(call):
                result, reply = await rounds.resume(authorized, relay)
            else:
                result, reply = await self._converse(server, rounds, authorized, relay)
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamProtocolError):
            self._changed.set()  # is it still there, and does it still speak what it spoke?
            raise
        if reply.status != 200 and _is_suspicious(reply, era):
            self._changed.set()
        return result

    async def _converse(
        self, server: Server, rounds: RoundsOnLegacy, authorized: Authorized, relay: Relay
    ) -> tuple[Result, Reply]:
        # What a permit grants to one call should reach one call: its process is then its own, if there is room.
        obligations = authorized.permit.obligations
        alone = bool(obligations) and any(item.type == "egress" for item in obligations)
        lease = await server.lease(relay, alone=alone)
        link, limits = lease.link, self._limits
        if link.era is Era.LEGACY and lease.may_ask and relay.era is Era.MODERN:
            return await rounds.begin(link, authorized, relay, limits)
        with self._hold(link.box, authorized, relay):
            return await self._answered(lease, authorized.call, relay)

    async def _answered(self, lease: Lease, call: Call, relay: Relay) -> tuple[Result, Reply]:
        link, limits, name = lease.link, self._limits, self._terms.name
        if link.era is Era.MODERN:
            return await converse(link, call, relay, limits, self._news, name)
        asked = asked_by(relay) if lease.may_ask else asked_nobody
        reply = await link.request(request_for(call, relay, limits), told_by(relay, self._news), asked)
        return result_of(call, reply, name), reply


def _state(call: Call) -> Object:
    state = (call.resume or EMPTY).get("state")
    return state if isinstance(state, dict) else EMPTY


def _is_suspicious(reply: Reply, era: Era) -> bool:
    """Whether an error looks as if the server were of another era by now: legacy ones answer theirs with 200."""
    code = reply.error.get("code") if reply.error is not None else None
    return era is Era.LEGACY or code not in MODERN_ERRORS


_: type[Upstream] = McpUpstream
