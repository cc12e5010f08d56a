"""Makes upstreams from their configuration, and takes the catalogs that they offer."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, cast

from anyio.abc import TaskGroup

from adapters.upstreams.mcp.http import Site
from adapters.upstreams.mcp.link import Object
from adapters.upstreams.mcp.server import HttpServer, Server, StdioServer
from adapters.upstreams.mcp.upstream import McpUpstream, Terms
from adapters.upstreams.wire.http import HttpPool
from adapters.upstreams.wire.origin import split_url
from adapters.upstreams.wire.process import ProcessSpec
from gateway.config.secrets import resolve_value
from gateway.config.tree import Limits, Upstream
from gateway.errors import InterlockError
from gateway.events import Event, Events
from gateway.headers import annotations_of
from gateway.ports import StateStore
from gateway.registry import Change, ItemFacts, Kind, Listing, Registry, Unusable, build_catalog, judge
from gateway.types import Era

log = logging.getLogger("interlock.upstreams")

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
class UpstreamFactory:
    """Turns `[upstreams.NAME]` into something that runs, and keeps the registry informed."""

    registry: Registry
    events: Events
    store: StateStore
    limits: Limits
    listings: dict[str, tuple[Upstream, Listing]]
    """The last listing of each upstream, to be judged again when a pin is accepted."""

    def make(self, name: str, spec: object) -> McpUpstream:
        """An upstream that is not running yet."""
        configured = cast("Upstream", spec)
        terms = Terms(
            name=name,
            timeout_s=min(configured.timeout_s, self.limits.call_timeout_s),
            max_bytes=configured.max_result_bytes,
            parked_ttl_s=self.limits.parked_ttl_s,
            max_parked=self.limits.max_parked,
        )

        async def offer(listing: Listing) -> None:
            self.listings[name] = (configured, listing)
            await self.take(name, configured, listing)

        return McpUpstream(
            terms,
            lambda group, news: _server(name, configured, self.limits, group, news),
            offer=offer,
            down=lambda reason: self.registry.down(name, reason),
            events=self.events,
            random=random.random,
        )

    async def take(self, name: str, spec: Upstream, listing: Listing) -> None:
        """Judge a listing against the pins and offer what passes. New pins are stored before anything is shown."""
        facts = ItemFacts(spec.risk, spec.labels)
        try:
            catalog = build_catalog(name, listing, header_check=invalid_annotations, facts=lambda _kind, _name: facts)
        except Unusable as exc:
            self.registry.down(name, str(exc))
            return
        items = [item for item in catalog.all_items() if item.kind != "tool" or _offered(spec, item.name)]
        verdict = judge(await self.store.pins(name), items, spec.pin, now_s=int(time.time()))
        if verdict.pins:
            await self.store.put_pins(verdict.pins)
        for rejected in catalog.rejected:
            log.warning("upstream %r: %s %r is left out: %s", name, rejected.kind, rejected.name, rejected.reason)
        for item in verdict.quarantined:
            log.warning("upstream %r: %s %r is quarantined; see `interlock pins diff`", name, item.kind, item.name)
        self.registry.put(catalog.with_items(verdict.items))

    async def judge_again(self) -> None:
        """Apply pins that somebody accepted meanwhile."""
        for name, (spec, listing) in list(self.listings.items()):
            try:
                await self.take(name, spec, listing)
            except InterlockError as exc:
                log.warning("upstream %r: the pins could not be read: %s", name, exc)

    def announce(self, change: Change) -> None:
        """Tell the clients that a list changed."""
        for list_name in sorted({_LIST_OF[kind] for kind in change.kinds}):
            self.events.publish(Event(change.upstream, list_name))  # type: ignore[arg-type]  # one of the three lists


def _offered(spec: Upstream, name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in spec.tools)


def _server(name: str, spec: Upstream, limits: Limits, group: TaskGroup, news: Callable[[str, Object], None]) -> Server:
    era = None if spec.era == "auto" else Era(spec.era)
    if spec.url:
        origin, target = split_url(spec.url)
        pool = HttpPool(origin, label=name, max_connections=limits.max_concurrency)
        credentials = [(key.lower().encode(), resolve_value(value).encode()) for key, value in spec.headers.items()]
        return HttpServer(Site(name, pool, target, tuple(credentials)), era=era, idle_s=spec.idle_s)
    process = ProcessSpec(
        command=spec.command,
        env={key: resolve_value(value) for key, value in spec.env.items()},
        cwd=str(spec.cwd),
        max_line_bytes=spec.max_result_bytes,
        label=name,
    )
    return StdioServer(process, era=era, group=group, idle_s=spec.idle_s, max_processes=spec.max_processes, news=news)
