"""The gateway's ASGI application: MCP endpoints first, by a look-up, then everything else by Starlette's routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from gateway.errors import Unauthenticated
from gateway.events import Events
from gateway.identity.metadata import challenge, metadata_url
from gateway.listeners.guards import Guards
from gateway.listeners.mcp.calls import MERGED, CallMaker, Seal, Tracing
from gateway.listeners.mcp.endpoint import McpEndpoint
from gateway.listeners.mcp.envelope import Message
from gateway.listeners.mcp.legacy import LegacyLeg
from gateway.listeners.mcp.listen import ListenStreams
from gateway.listeners.mcp.modern import ModernLeg
from gateway.listeners.mcp.quiet import Handler
from gateway.listeners.mcp.sessions import Sessions
from gateway.ports import Identifier
from gateway.registry import Registry
from gateway.telemetry.context import begin
from gateway.types import EMPTY

Scope: TypeAlias = MutableMapping[str, Any]  # ASGI
Receive: TypeAlias = Callable[[], Awaitable[Scope]]
Send: TypeAlias = Callable[[Scope], Awaitable[None]]
Asgi: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What every MCP endpoint of one gateway stands on."""

    registry: Registry
    handler: Handler
    identifier: Identifier
    sealer: Seal
    sessions: Sessions
    events: Events
    guards: Guards
    url: str
    new_id: Callable[[], str]
    parked_ttl_s: int

    def endpoint(self, view: str, path: str) -> McpEndpoint:
        """The endpoint of one view (`*` or an upstream's name) at a path."""
        maker = CallMaker(view, self.registry, self.sealer, self.new_id)
        metadata = metadata_url(self.url + path)

        def challenged(error: Unauthenticated) -> Unauthenticated:
            return Unauthenticated(str(error), challenge=challenge(error, resource_metadata_url=metadata))

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


def traced(traceparent: str, tracestate: str, message: Message) -> Tracing:
    """The trace context of a call: a child of the one that came in, or the first of its own."""
    meta = message.params.get("_meta")
    context = begin(traceparent, tracestate, meta if isinstance(meta, dict) else EMPTY)
    return Tracing(context.traceparent, context.tracestate)


class Front:
    """Dispatches requests. The MCP endpoints are replaced as a whole when the upstreams change."""

    def __init__(self, parts: Parts, rest: Asgi) -> None:
        self._parts = parts
        self._rest = rest
        self._endpoints: Mapping[str, McpEndpoint] = {}
        self.offer(())

    def offer(self, upstreams: tuple[str, ...]) -> None:
        """Serve `/mcp` and one `/servers/NAME/mcp` for each of these."""
        paths = {"/mcp": MERGED, **{f"/servers/{name}/mcp": name for name in upstreams}}
        endpoints = {path: self._parts.endpoint(view, path) for path, view in paths.items()}
        self._endpoints = {**endpoints, **{f"{path}/": endpoint for path, endpoint in endpoints.items()}}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            endpoint = self._endpoints.get(scope["path"])
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await self._rest(scope, receive, send)
