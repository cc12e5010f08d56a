"""Makes upstreams from their configuration, and takes the catalogs that they offer."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, cast

import anyio
from anyio.abc import TaskGroup

from adapters.upstreams.mcp.http import Site
from adapters.upstreams.mcp.http_server import HttpServer
from adapters.upstreams.mcp.link import Object
from adapters.upstreams.mcp.server import Server
from adapters.upstreams.mcp.stdio_server import StdioServer
from adapters.upstreams.mcp.upstream import McpUpstream, Terms
from adapters.upstreams.wire.http import HttpPool
from adapters.upstreams.wire.origin import split_url
from gateway.app.boxes import Sandboxing
from gateway.app.code import Misconfigured, code_upstream
from gateway.app.memory import MemoryHost
from gateway.app.models import Models, model_upstream
from gateway.app.telemetry import leg_to
from gateway.config.secrets import resolve_value
from gateway.config.tree import Settings, Upstream
from gateway.errors import ConfigError, InterlockError, UpstreamUnavailable
from gateway.events import Event, Events
from gateway.headers import annotations_of
from gateway.ports import StateStore
from gateway.registry import (
    Change,
    Item,
    ItemFacts,
    Kind,
    Listing,
    Mode,
    Registry,
    Unusable,
    Verdict,
    build_catalog,
    judge,
)
from gateway.running import Runnable
from gateway.telemetry import Leg
from gateway.types import Era

log = logging.getLogger("interlock.upstreams")

STORE_S: Final = 10.0
PARKED_TTL_S: Final = 600
"""How long a call waits for an answer from its user (elicitation, sampling) before it is given up."""

_LIST_OF: Final[Mapping[Kind, str]] = {
    "tool": "tools",
    "prompt": "prompts",
    "resource": "resources",
    "template": "resources",
}


def invalid_annotations(schema: object) -> str | None:
    """What is wrong with the `x-mcp-header` annotations of an input schema, or `None`."""
    try:
        annotations_of(schema)
    except ValueError as exc:
        return str(exc)
    return None


@dataclass(frozen=True, slots=True)
class Offer:
    """What an upstream lists, and the configuration that it is to be judged by."""

    spec: Upstream
    listing: Listing


@dataclass(frozen=True, slots=True)
class UpstreamFactory:
    """Turns `[upstreams.NAME]` into something that runs, and keeps the registry informed."""

    registry: Registry
    events: Events
    store: StateStore
    settings: Settings
    legs: dict[str, Leg]
    """How each upstream is reached, for the spans."""
    sandboxing: Sandboxing
    memory: MemoryHost | None = None
    models: Models = field(default_factory=Models)
    listings: dict[str, Offer] = field(default_factory=dict)
    """What each upstream offered last, to be judged again when a pin is accepted."""
    newest: dict[str, Runnable] = field(default_factory=dict)
    """The upstream that a name stands for now; one that it replaced has no say any more."""
    faults: dict[str, str] = field(default_factory=dict)
    """Why an upstream could not be started: a secret that is not there, for example."""

    def make(self, name: str, spec: object) -> Runnable:
        """An upstream that is not running yet."""
        configured = cast("Upstream", spec)
        upstream = self._made(name, configured)
        self.newest[name] = upstream
        self.legs[name] = leg_to(configured)
        self.listings.pop(name, None)
        return upstream

    def _made(self, name: str, configured: Upstream) -> Runnable:
        self.faults.pop(name, None)
        if configured.is_provider:
            return self._provider(name, configured)
        if configured.type == "memory":
            return self._memory(name, configured)
        return self._code(name, configured) if configured.type == "sandbox" else self._mcp(name, configured)

    def _provider(self, name: str, configured: Upstream) -> Runnable:
        """A provider of models."""
        upstream = model_upstream(name, configured, self.settings.limits.call_timeout_s, self.models.prices)
        if isinstance(upstream, Misconfigured):
            self.faults[name] = str(upstream.report()["reason"])
        return upstream

    def _memory(self, name: str, configured: Upstream) -> Runnable:
        """The built-in memory, of which there is one."""

        async def offer(listing: Listing) -> None:
            if self.newest.get(name) is upstream:
                self.listings[name] = Offer(configured, listing)
                await self.take(name, self.listings[name])

        upstream: Runnable
        try:
            memory = self.memory or MemoryHost(self.settings)
            upstream = memory.make(name, configured, offer, lambda why: self.faults.update({name: why}))
        except ConfigError as exc:
            self.faults[name] = str(exc)
            upstream = Misconfigured(name, exc)
        return upstream

    def _code(self, name: str, configured: Upstream) -> Runnable:
        """The built-in server that runs code."""

        async def offer(listing: Listing) -> None:
            if self.newest.get(name) is upstream:
                self.listings[name] = Offer(configured, listing)
                await self.take(name, self.listings[name])

        upstream: Runnable
        self.faults.pop(name, None)
        try:
            upstream = code_upstream(name, configured, self.sandboxing, offer)
        except ConfigError as exc:  # of this one; a reload must not take the others down
            self.faults[name] = str(exc)
            upstream = Misconfigured(name, exc)
        return upstream

    def _mcp(self, name: str, configured: Upstream) -> Runnable:
        """An MCP server of somebody else's."""
        limits = self.settings.limits
        terms = Terms(
            name=name,
            timeout_s=min(configured.timeout_s, limits.call_timeout_s),
            max_bytes=configured.max_result_bytes,
            parked_ttl_s=PARKED_TTL_S,
            max_parked=limits.max_parked,
        )

        async def offer(listing: Listing) -> None:
            if self.newest.get(name) is upstream:
                self.listings[name] = Offer(configured, listing)
                await self.take(name, self.listings[name])

        def down(reason: str) -> None:
            if self.newest.get(name) is upstream:
                self.registry.down(name, reason)

        def start(group: TaskGroup, news: Callable[[str, Object], None]) -> Server:
            self.faults.pop(name, None)
            try:
                return self._server(name, configured, group, news)
            except ConfigError as exc:
                self.faults[name] = str(exc)
                raise

        upstream = McpUpstream(
            terms,
            start,
            offer=offer,
            down=down,
            events=self.events,
            random=random.random,
            hold=self.sandboxing.flights.hold,
        )
        return upstream

    def _server(self, name: str, spec: Upstream, group: TaskGroup, news: Callable[[str, Object], None]) -> Server:
        era = None if spec.era == "auto" else Era(spec.era)
        if spec.url:
            origin, target = split_url(spec.url)
            pool = HttpPool(origin, label=name, max_connections=self.settings.limits.max_concurrency)
            credentials = [(key.lower().encode(), resolve_value(value).encode()) for key, value in spec.headers.items()]
            return HttpServer(Site(name, pool, target, tuple(credentials)), era=era, idle_s=spec.idle_s)
        pipe = self.sandboxing.pipe_to(name, spec)
        return StdioServer(pipe, era=era, group=group, idle_s=spec.idle_s, news=news)

    def crashed(self, name: str) -> None:
        """An upstream does not run any more: it could not be started as configured, or we made a mistake."""
        self.registry.down(name, self.faults.get(name, "a fault in the gateway; see its log"))

    async def take(self, name: str, offer: Offer) -> None:
        """Judge what an upstream offers against the pins and show what passes, once new pins are stored."""
        spec, facts = offer.spec, ItemFacts(offer.spec.risk, offer.spec.labels)
        try:
            catalog = build_catalog(
                name, offer.listing, header_check=invalid_annotations, facts=lambda _kind, _name: facts
            )
        except Unusable as exc:
            self.registry.down(name, str(exc))
            return
        items = [item for item in catalog.all_items() if item.kind != "tool" or _offered(spec, item.name)]
        verdict = await self._judged(name, items, spec.pin)
        for rejected in catalog.rejected:
            log.warning("upstream %r: %s %r is left out: %s", name, rejected.kind, rejected.name, rejected.reason)
        for item in verdict.quarantined:
            log.warning("upstream %r: %s %r is quarantined; see `interlock pins diff`", name, item.kind, item.name)
        if self.listings.get(name) is offer:  # nothing newer came while the pins were looked up
            self.registry.put(catalog.with_items(verdict.items))

    async def _judged(self, name: str, items: Sequence[Item], mode: Mode) -> Verdict:
        """Carried through even if the upstream is given up meanwhile: a database connection dies of a cancellation."""
        try:
            with anyio.CancelScope(shield=True), anyio.fail_after(STORE_S):
                verdict = judge(await self.store.pins(name), items, mode, now_s=int(time.time()))
                if verdict.pins:
                    await self.store.put_pins(verdict.pins)
        except TimeoutError as exc:
            words = f"upstream {name!r}: its pins could not be read and written within {STORE_S:.0f} s"
            raise UpstreamUnavailable(words) from exc
        return verdict

    async def judge_again(self) -> None:
        """Apply pins that somebody accepted meanwhile."""
        for name, offer in list(self.listings.items()):
            try:
                await self.take(name, offer)
            except InterlockError as exc:
                log.warning("upstream %r: the pins could not be read: %s", name, exc)

    def announce(self, change: Change) -> None:
        """Tell the clients that a list changed."""
        for list_name in sorted({_LIST_OF[kind] for kind in change.kinds}):
            self.events.publish(Event(change.upstream, list_name))  # type: ignore[arg-type]  # one of the three lists


def _offered(spec: Upstream, name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in spec.tools)
