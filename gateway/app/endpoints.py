"""The gateway's ASGI application: MCP endpoints first, by a look-up, agents, models, and the rest by Starlette's
routes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from gateway.a2a.catalogue import PATH as CATALOGUE_PATH
from gateway.a2a.directory import Agents
from gateway.app.a2a import A2a
from gateway.app.held import Path
from gateway.app.held_messages import Messages
from gateway.app.held_tasks import Tasks
from gateway.app.tracing import trace_of, traced
from gateway.approvals.held import HeldCalls
from gateway.errors import Unauthenticated
from gateway.events import Events
from gateway.identity.metadata import challenge, metadata_url
from gateway.listeners.a2a.calls import AgentCalls
from gateway.listeners.a2a.catalogue import CatalogueEndpoint
from gateway.listeners.a2a.endpoint import A2aEndpoint, A2aParts
from gateway.listeners.a2a.refusals import http_error, no_agent
from gateway.listeners.guards import Guards
from gateway.listeners.http import JSON, respond
from gateway.listeners.mcp.calls import MERGED, CallMaker, Seal
from gateway.listeners.mcp.endpoint import McpEndpoint
from gateway.listeners.mcp.holds import Patience, no_patience
from gateway.listeners.mcp.legacy import LegacyLeg
from gateway.listeners.mcp.listen import ListenStreams
from gateway.listeners.mcp.modern import ModernLeg
from gateway.listeners.mcp.sessions import Sessions
from gateway.listeners.models.endpoint import ModelsEndpoint
from gateway.listeners.models.inbound import serves
from gateway.ports import Identifier
from gateway.registry import Registry

Scope: TypeAlias = MutableMapping[str, Any]  # ASGI
Receive: TypeAlias = Callable[[], Awaitable[Scope]]
Send: TypeAlias = Callable[[Scope], Awaitable[None]]
Asgi: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_AGENTS: Final = "/agents/"
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Parts:
    """What every MCP endpoint of one gateway stands on."""

    registry: Registry
    handler: Path
    identifier: Identifier
    sealer: Seal
    sessions: Sessions
    events: Events
    guards: Guards
    url: str
    new_id: Callable[[], str]
    parked_ttl_s: int
    a2a: A2a | None = None
    """Without it, no agent is served."""
    patience: Patience = no_patience
    """How long clients wait for people at a time."""
    held: HeldCalls | None = None
    """Held calls that clients ask after; without it, they make them again."""
    models: ModelsEndpoint | None = None
    """Without it, no model is served."""

    def _held_messages(self, agents: Agents) -> Messages | None:
        if self.held is None:
            return None
        return Messages(self.held, self.handler, agents, self.identifier, self.new_id)

    def agent(self, name: str, host: str = "") -> A2aEndpoint:
        """The endpoint of one agent below `/agents/NAME`, or at a host of its own (a whole origin)."""
        a2a = self.a2a
        if a2a is None:
            raise LookupError(name)
        place, shared = a2a.place_of(name, host), a2a.shared
        guards = self.guards.with_host(urlsplit(host).netloc) if host else self.guards
        parts = A2aParts(
            agents=shared.agents,
            tasks=shared.tasks,
            handler=self.handler,
            identifier=self.identifier,
            guards=guards,
            shelf=a2a.shelf,
            pushes=a2a.inbox,
            new_id=self.new_id,
            trace=trace_of,
            holds=self._held_messages(shared.agents),
        )
        metadata = metadata_url(f"{self.url}/agents/{name}")
        return A2aEndpoint(parts, name=name, places=place, challenge=partial(_challenged, metadata))

    def catalogue(self) -> CatalogueEndpoint:
        """The endpoint of the catalogue."""
        return CatalogueEndpoint(
            handler=self.handler,
            guards=self.guards,
            new_id=self.new_id,
            trace=trace_of,
            challenge=partial(_challenged, metadata_url(self.url)),
        )

    def endpoint(self, view: str, path: str) -> McpEndpoint:
        """The endpoint of one view (`*` or an upstream's name) at a path."""
        maker = CallMaker(view, self.registry, self.sealer, self.new_id)
        metadata = metadata_url(self.url + path)

        challenged = partial(_challenged, metadata)
        streams = ListenStreams(
            view=view, directory=self.registry, events=self.events, handler=self.handler, new_id=self.new_id
        )
        modern = ModernLeg(
            maker=maker,
            handler=self.handler,
            identifier=self.identifier,
            streams=streams,
            challenge=challenged,
            parked_ttl_s=self.parked_ttl_s,
            patience=self.patience,
            tasks=Tasks(self.held, self.handler, self.registry, self.new_id) if self.held is not None else None,
        )
        legacy = LegacyLeg(
            view=view,
            maker=maker,
            handler=self.handler,
            identifier=self.identifier,
            sessions=self.sessions,
            events=self.events,
            challenge=challenged,
        )
        return McpEndpoint(guards=self.guards, modern=modern, legacy=legacy, trace=traced)


def _challenged(metadata: str, error: Unauthenticated) -> Unauthenticated:
    return Unauthenticated(str(error), challenge=challenge(error, resource_metadata_url=metadata))


class Front:
    """Dispatches requests. The endpoints are replaced as a whole when upstreams or agents change."""

    def __init__(self, parts: Parts, rest: Asgi) -> None:
        self._parts = parts
        self._rest = rest
        self._endpoints: Mapping[str, McpEndpoint | CatalogueEndpoint] = {}
        self._agents: Mapping[str, A2aEndpoint] = {}
        self._hosts: Mapping[str, A2aEndpoint] = {}
        self.offer(())

    def offer(self, upstreams: tuple[str, ...], agents: tuple[str, ...] = ()) -> None:
        """Serve `/mcp`, and `/servers/NAME/mcp` and `/agents/NAME` for each of these: servers are agents, too."""
        names = (*upstreams, *agents)
        paths = {"/mcp": MERGED, **{f"/servers/{name}/mcp": name for name in names}}
        endpoints = {path: self._parts.endpoint(view, path) for path, view in paths.items()}
        slashed = {f"{path}/": endpoint for path, endpoint in endpoints.items()}
        self._endpoints = {**endpoints, **slashed, CATALOGUE_PATH: self._parts.catalogue()}
        served = names if self._parts.a2a is not None else ()
        self._agents = {name: self._parts.agent(name) for name in served}
        origins = {name: origin for name in served if (origin := host_of(name, self._parts.url))}
        self._hosts = {urlsplit(host).netloc.lower(): self._parts.agent(name, host) for name, host in origins.items()}

    def calls(self) -> Mapping[str, AgentCalls]:
        """What makes calls to the agents that are served now, by name."""
        return {name: agent.calls for name, agent in self._agents.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            endpoint = self._endpoints.get(scope["path"])
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
            if scope["path"].startswith(_AGENTS) and await self._asked_agent(scope, receive, send):
                return
            if self._hosts and await self._asked_host(scope, receive, send):
                return
            if self._parts.models is not None and serves(scope["path"]):
                await self._parts.models(scope, receive, send)
                return
        await self._rest(scope, receive, send)

    async def _asked_agent(self, scope: Scope, receive: Receive, send: Send) -> bool:
        raw = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
        name, slash, rest = raw.removeprefix(_AGENTS).partition("/")
        agent = self._agents.get(name)
        if self._parts.a2a is None or not raw.startswith(_AGENTS):
            return False
        if agent is None:
            await respond(send, 404, (JSON,), http_error(no_agent().refusal))
            return True
        await agent(scope, receive, send, slash + rest)
        return True

    async def _asked_host(self, scope: Scope, receive: Receive, send: Send) -> bool:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        agent = self._hosts.get(hosts[0].decode("latin-1").lower()) if len(hosts) == 1 else None
        if agent is None:
            return False
        raw = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
        await agent(scope, receive, send, raw)
        return True


def host_of(name: str, url: str) -> str:
    """The origin at which an agent has a host of its own: a name below the gateway's, `NAME.localhost` on loopback.

    Empty where the gateway is known by an address, or the agent's name is none for a host.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("127.0.0.1", "::1"):
        host = "localhost"
    if not _LABEL.fullmatch(name) or _is_address(host):
        return ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{name.lower()}.{host}{port}"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return not host
    return True
