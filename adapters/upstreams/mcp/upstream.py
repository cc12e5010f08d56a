"""An MCP server as an upstream: kept connected, its catalog kept current, its calls carried out."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Final

import anyio
from anyio.abc import TaskGroup

from adapters.upstreams.mcp.answers import result_of
from adapters.upstreams.mcp.conversation import Limits, RoundsOnLegacy, asked_by, converse, request_for, told_by
from adapters.upstreams.mcp.fetch import Description, fetch
from adapters.upstreams.mcp.http import NoStream
from adapters.upstreams.mcp.link import Object, Request, asked_nobody
from adapters.upstreams.mcp.server import CALLBACKS, Server
from adapters.upstreams.mcp.subscriptions import Subscriptions
from adapters.upstreams.mcp.turns import ParkingLot
from adapters.upstreams.wire.backoff import Backoff
from gateway.errors import InterlockError, UpstreamUnavailable
from gateway.events import Event, Events
from gateway.ports import Relay, Upstream
from gateway.registry import Listing
from gateway.types import EMPTY, Authorized, Call, Era, Result

log = logging.getLogger("interlock.upstreams")

REFRESH_S: Final = 300.0
"""How often a catalog is fetched anew, for servers that announce no changes."""
TIDY_S: Final = 15.0
SETTLE_S: Final = 0.1
"""How long announcements of changes are gathered before the lists are fetched once."""
REOPEN_S: Final = 1.0
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
    ) -> None:
        self._terms = terms
        self._make_server = make_server
        self._offer = offer
        self._down = down
        self._events = events
        self._backoff = Backoff(random=random)
        self._server: Server | None = None
        self._rounds: RoundsOnLegacy | None = None
        self._description: Description | None = None
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
            lot = ParkingLot(group, terms.parked_ttl_s, terms.max_parked)
            self._rounds = RoundsOnLegacy(lot, terms.name)
            group.start_soon(self._tidy, server, lot)
            try:
                while True:
                    await self._connected_once(server)
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(FAREWELL_S):
                    await server.aclose()

    async def _connected_once(self, server: Server) -> None:
        started = time.monotonic()
        try:
            with anyio.fail_after(self._terms.timeout_s + 60.0):
                description = await server.connect()
                await self._publish(server, description)
                await self._subscriptions.renew(server, description.era)
        except (InterlockError, TimeoutError) as exc:
            await self._failed(str(exc) or "no answer in time", started)
            return
        self._description = description
        self.health.state, self.health.reason, self.health.era = "up", "", description.era.value
        self.health.connects += 1
        self.settled.set()
        reason = await self._while_up(server, description)
        if reason:
            await self._failed(reason, started)

    async def _failed(self, reason: str, started: float) -> None:
        self.health.state, self.health.reason = "down", reason
        self.health.failures += 1
        self._down(reason)
        self.settled.set()
        log.warning("upstream %r is down: %s", self._terms.name, reason)
        await anyio.sleep(self._backoff.failed(ran_s=time.monotonic() - started))

    async def _while_up(self, server: Server, description: Description) -> str:
        """Follow changes until the connection ends; says why it did."""
        reason: list[str] = []

        async def until_over(work: Callable[[Server, Description], Awaitable[None]]) -> None:
            try:
                await work(server, description)
            except InterlockError as exc:
                reason.append(str(exc))
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(until_over, self._follow)
            group.start_soon(until_over, self._refresh)
        return reason[0] if reason else ""

    async def _follow(self, server: Server, description: Description) -> None:
        """Pass the server's news on, for as long as the connection lasts."""
        subscriptions = self._subscriptions
        while True:
            try:
                with subscriptions.listening() as interrupted:
                    async with aclosing(server.changes(subscriptions.uris)) as changes:
                        async for method, params in changes:
                            self._news(method, params)
            except NoStream:
                subscriptions.unsupported = description.era is Era.MODERN
                await anyio.sleep_forever()
            if not interrupted.cancel_called:
                await anyio.sleep(REOPEN_S)
                await self._publish(server, description)

    async def _refresh(self, server: Server, description: Description) -> None:
        while True:
            with anyio.move_on_after(REFRESH_S):
                await self._changed.wait()
            await anyio.sleep(SETTLE_S)
            self._changed = anyio.Event()
            if server.resting:
                continue
            await self._publish(server, description)

    async def _publish(self, server: Server, description: Description) -> None:
        template = Request(
            "", EMPTY, capabilities=CALLBACKS, timeout_s=self._terms.timeout_s, max_bytes=self._terms.max_bytes
        )
        await self._offer(await fetch(server.main, description, template, self._terms.name))

    async def _tidy(self, server: Server, lot: ParkingLot) -> None:
        while True:
            await anyio.sleep(TIDY_S)
            lot.expire()
            server.keep_awake = bool(self._subscriptions.uris)
            await server.tidy()

    def _news(self, method: str, params: Object) -> None:
        if method in _CHANGES:
            self._changed.set()
        elif method == "notifications/subscriptions/acknowledged":
            self._subscriptions.acknowledged()
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
        server, rounds, call = self._server, self._rounds, authorized.call
        if server is None or rounds is None or self._description is None:
            words = f"upstream {self._terms.name!r} is not connected: {self.health.reason or 'still connecting'}"
            raise UpstreamUnavailable(words)
        if call.method == "resources/unsubscribe":
            return Result(b'{"resultType":"complete"}')
        if call.method == "resources/subscribe":
            return await self._subscriptions.subscribe(server, self._description.era, call)
        if "p" in _state(call):
            return await rounds.resume(authorized, relay)
        return await self._converse(server, rounds, authorized, relay)

    async def _converse(self, server: Server, rounds: RoundsOnLegacy, authorized: Authorized, relay: Relay) -> Result:
        lease = await server.lease(relay)
        limits = Limits(self._terms.timeout_s, self._terms.max_bytes)
        if lease.link.era is Era.MODERN:
            return await converse(lease.link, authorized, relay, limits, self._terms.name)
        if lease.may_ask and relay.era is Era.MODERN:
            return await rounds.begin(lease.link, authorized, relay, limits)
        asked = asked_by(relay) if lease.may_ask else asked_nobody
        message = await lease.link.request(request_for(authorized.call, relay, limits), told_by(relay), asked)
        return result_of(authorized.call, message, self._terms.name)


def _state(call: Call) -> Object:
    state = (call.resume or EMPTY).get("state")
    return state if isinstance(state, dict) else EMPTY


_: type[Upstream] = McpUpstream
