"""`subscriptions/listen`: the changes that a client asked for (2026-07-28, patterns/subscriptions)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway import codec
from gateway.errors import InterlockError, InvalidCall
from gateway.events import Event, Events, Subscription
from gateway.listeners.http import EventStream
from gateway.listeners.mcp.calls import MERGED, Directory
from gateway.listeners.mcp.envelope import SUBSCRIPTION_META
from gateway.listeners.mcp.quiet import Handler, QuietExchange
from gateway.listeners.mcp.wire import RequestId, event, notification
from gateway.types import Call, FrozenDict, Identity, Resource, Result, freeze

MAX_URIS: Final = 256

_FLAGS: Final = {
    "toolsListChanged": "tools",
    "promptsListChanged": "prompts",
    "resourcesListChanged": "resources",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What one client wants to hear of. `uris` maps a resource as the client names it to what it stands for."""

    changes: frozenset[str]
    uris: Mapping[str, Resource]

    @property
    def acknowledged(self) -> dict[str, object]:
        """The filter as honoured, in the protocol's own words."""
        honoured: dict[str, object] = {flag: True for flag, change in _FLAGS.items() if change in self.changes}
        if self.uris:
            honoured["resourceSubscriptions"] = list(self.uris)
        return honoured


class ListenStreams:
    """Serves the listen streams of one view."""

    def __init__(
        self, *, view: str, directory: Directory, events: Events, handler: Handler, new_id: Callable[[], str]
    ) -> None:
        self._view = view
        self._directory = directory
        self._events = events
        self._handler = handler
        self._new_id = new_id

    async def serve(self, call: Call, identity: Identity, request_id: RequestId, stream: EventStream) -> Result:
        """Acknowledge, then pass changes on until the client leaves. Policy has permitted `call` already."""
        changes, wanted = _wanted(call)
        watched: dict[str, Resource] = {}
        with self._events.subscription() as subscription:  # first of all, so that no change is missed
            try:
                await self._watch(call, identity, wanted, watched)
                await self._tell_all(stream, Wish(changes, watched), subscription, request_id)
            finally:
                for resource in watched.values():
                    self._events.unwatch(resource.upstream, resource.name)
        return Result(closing(request_id))

    async def _tell_all(
        self, stream: EventStream, wish: Wish, subscription: Subscription, request_id: RequestId
    ) -> None:
        meta = {SUBSCRIPTION_META: request_id}
        acknowledgement = {"_meta": meta, "notifications": wish.acknowledged}
        await stream.write(event(notification("notifications/subscriptions/acknowledged", acknowledgement)))
        while not subscription.closed:
            for change in await subscription.next():
                await self._tell(stream, wish, change, meta)

    async def _tell(self, stream: EventStream, wish: Wish, change: Event, meta: Mapping[str, object]) -> None:
        if self._view not in (MERGED, change.upstream) and change.upstream:
            return
        if change.change != "updated":
            if change.change in wish.changes:
                await stream.write(event(notification(f"notifications/{change.change}/list_changed", {"_meta": meta})))
            return
        for uri, resource in wish.uris.items():
            if (resource.upstream, resource.name) == (change.upstream, change.uri):
                await stream.write(event(notification("notifications/resources/updated", {"_meta": meta, "uri": uri})))

    async def _watch(self, call: Call, identity: Identity, uris: Sequence[str], watched: dict[str, Resource]) -> None:
        """Subscribe to each resource, as a call of its own; one that is refused is left out of the acknowledgement."""
        for uri in dict.fromkeys(uris):
            resource = self._directory.resolve_uri(self._view, uri)
            try:
                await self._handler.handle(self._subscribe(call, resource), identity, QuietExchange(identity.principal))
            except InterlockError:
                continue
            self._events.watch(resource.upstream, resource.name)
            watched[uri] = resource

    def _subscribe(self, call: Call, resource: Resource) -> Call:
        params = freeze({"uri": resource.name})
        return Call(
            id=self._new_id(),
            action="mcp.resources.subscribe",
            method="resources/subscribe",
            resource=resource,
            params=params if isinstance(params, FrozenDict) else FrozenDict(),
            protocol_version=call.protocol_version,
            traceparent=call.traceparent,
            tracestate=call.tracestate,
            parent_id=call.id,
            root_id=call.root_id or call.id,
            started_ns=call.started_ns,
        )


def _wanted(call: Call) -> tuple[frozenset[str], Sequence[str]]:
    """The kinds of change and the resources that a client asks for."""
    wanted = call.params.get("notifications", {})
    if not isinstance(wanted, Mapping):
        raise InvalidCall("params.notifications must be an object")
    uris = wanted.get("resourceSubscriptions", ())
    if not isinstance(uris, Sequence) or isinstance(uris, str) or len(uris) > MAX_URIS:
        raise InvalidCall(f"params.notifications.resourceSubscriptions must be a list of at most {MAX_URIS} URIs")
    changes = frozenset(change for flag, change in _FLAGS.items() if wanted.get(flag) is True)
    return changes, [uri for uri in uris if isinstance(uri, str)]


def closing(request_id: RequestId) -> bytes:
    """The result that ends a listen stream in good order (section "Graceful Closure")."""
    return codec.dumps({"resultType": "complete", "_meta": {SUBSCRIPTION_META: request_id}})
