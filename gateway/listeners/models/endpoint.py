"""Serves the model APIs: each request becomes one call on the governed path, and its outcome the API's answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from gateway.errors import InterlockError, PolicyDenied, Unauthenticated, UnknownResource
from gateway.listeners.guards import Guards
from gateway.listeners.http import ClientLeft, ClientWatch, Receive, Scope, Send, one
from gateway.listeners.mcp.calls import Tracing
from gateway.listeners.mcp.quiet import QuietExchange
from gateway.listeners.models.answering import Answering, Head, ModelExchange
from gateway.listeners.models.inbound import Inbound, check, inbound_of, params_of
from gateway.listeners.models.listing import ACTION as LIST
from gateway.listeners.models.listing import EVERY, METHOD, Directory, listed, unknown
from gateway.listeners.models.refusals import Internal
from gateway.listeners.models.replays import Answer, Replays, Slot
from gateway.models import parse_name
from gateway.models.calls import ACTION, call_facts
from gateway.ports import Exchange, Identifier
from gateway.types import EMPTY, Call, Credentials, FrozenDict, Identity, Resource, Result

log = logging.getLogger("interlock.models")

PROTOCOL = "model"
VERSION = "1"
_NOBODY = Identity()

Told: TypeAlias = Callable[[Call, str], None]
"""Hears of a call that is permitted, and by which decision."""


class Handler(Protocol):
    """The governed path for calls of models. `told` hears of the permit; `kept` is an answer to give again."""

    async def handle(
        self, call: Call, credentials: Credentials, exchange: Exchange, told: Told, kept: Answer | None = None
    ) -> Result: ...

    async def visible(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]: ...


@dataclass(frozen=True, slots=True)
class ModelParts:
    """What the endpoint stands on."""

    handler: Handler
    identifier: Identifier
    guards: Guards
    directory: Directory
    new_id: Callable[[], str]
    trace: Callable[[str, str], Tracing]
    challenge: Callable[[Unauthenticated], Unauthenticated]
    replays: Replays


class ModelsEndpoint:
    """Serves every path of `inbound.serves`."""

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        inbound = inbound_of(scope)
        answering = Answering(send, Head(inbound.api, self._parts.new_id()))
        try:
            if inbound.asks_for_list:
                await self._listed(inbound, answering)
            else:
                await self._asked(inbound, answering, receive)
        except ClientLeft:
            return
        except InterlockError as error:
            await answering.error(self._parts.challenge(error) if isinstance(error, Unauthenticated) else error)
        except Exception:
            log.exception("a request to %s failed", inbound.path[:100])
            await answering.error(Internal())

    async def _listed(self, inbound: Inbound, answering: Answering) -> None:
        check(inbound, self._parts.guards, "GET")
        call = self._call(answering.head.call_id, LIST, METHOD, EVERY, EMPTY, inbound)
        result = await self._parts.handler.handle(
            call, inbound.credentials, QuietExchange(""), answering.head.permitted
        )
        await answering.result(Result(listed(inbound.api, result.payload, inbound.path)), EMPTY)

    async def _asked(self, inbound: Inbound, answering: Answering, receive: Receive) -> None:
        """Answer what is asked of a model."""
        check(inbound, self._parts.guards, "POST")
        params = await params_of(inbound, receive, self._parts.guards.max_body_bytes)
        name, key = str(parse_name(params.get("model"))), inbound.idempotency_key
        answering.streams = params.get("stream") is True and inbound.api != "embeddings"
        resource = self._parts.directory.resolve(name)
        call = self._call(answering.head.call_id, ACTION, inbound.api, resource, params, inbound)
        identity = await self._identified(inbound.credentials)
        replays, key = self._parts.replays, key if identity is not _NOBODY else ""
        try:
            with ClientWatch(receive, answering.keep_alive):
                with replays.slot(identity.principal, key, call.digest) as slot:
                    slot.result = await self._made(call, inbound, identity, answering, slot)
                await answering.result(slot.result, params)
        except (PolicyDenied, UnknownResource) as error:
            raise await self._hidden(call, name, identity, error) from error

    async def _made(self, call: Call, inbound: Inbound, identity: Identity, answering: Answering, slot: Slot) -> Result:
        exchange = ModelExchange(identity.principal, answering, slot)
        answering.head.replayed = slot.kept is not None
        told = answering.head.permitted
        return await self._parts.handler.handle(call, inbound.credentials, exchange, told, slot.kept)

    async def _identified(self, credentials: Credentials) -> Identity:
        """Who asks. A call of nobody still goes down the path, to be refused on record."""
        try:
            return await self._parts.identifier.identify(credentials)
        except Unauthenticated:
            return _NOBODY

    async def _hidden(self, call: Call, name: str, identity: Identity, error: InterlockError) -> InterlockError:
        """The same error; for a model that the caller may not know of, that of one that does not exist."""
        if not call.resource.known:
            return unknown(name)
        if not isinstance(error, PolicyDenied):
            return error
        try:
            seen = await self._parts.handler.visible(call, identity, [call.resource])
        except InterlockError:
            return error
        return error if seen else unknown(name)

    def _call(
        self, call_id: str, action: str, method: str, resource: Resource, params: FrozenDict, inbound: Inbound
    ) -> Call:
        tracing = self._parts.trace(one(inbound.headers, b"traceparent"), one(inbound.headers, b"tracestate"))
        return Call(
            id=call_id,
            action=action,
            method=method,
            resource=resource,
            params=params,
            protocol=PROTOCOL,
            protocol_version=VERSION,
            traceparent=tracing.traceparent,
            tracestate=tracing.tracestate,
            started_ns=time.time_ns(),
            facts=call_facts(method, resource, params),
        )
