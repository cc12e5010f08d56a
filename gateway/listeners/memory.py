"""The HTTP API of the memory: each request is one call, with its own decision and record."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway import codec
from gateway.errors import InterlockError, InvalidCall, Unauthenticated
from gateway.listeners.admin import guarded
from gateway.listeners.approvals.endpoints import refusal
from gateway.listeners.approvals.requests import TooLarge
from gateway.listeners.guards import Guards, credentials_of
from gateway.listeners.http import headers_of
from gateway.listeners.mcp.quiet import Handler, QuietExchange
from gateway.memory.provenance import PROTOCOL
from gateway.memory.service import ACTIONS, PREFIX
from gateway.ports import Identifier
from gateway.types import Call, Credentials, FrozenDict, Identity, Resource, Result, freeze

BASE: Final = "/memory/v1"
MAX_BODY_BYTES: Final = 1024 * 1024

_NOBODY: Final = Identity()
_Read: TypeAlias = Callable[[Request], Awaitable[Mapping[str, object]]]


class Planner(Protocol):
    """Says what a call of the memory acts on."""

    async def resource_for(self, call: Call, identity: Identity) -> Resource: ...


@dataclass(frozen=True, slots=True)
class MemoryCalls:
    """Makes these calls and takes them down the path. `memory` raises while there is none."""

    handler: Handler
    identifier: Identifier
    new_id: Callable[[], str]
    memory: Callable[[], Planner]

    async def made(self, operation: str, given: Mapping[str, object], credentials: Credentials) -> Result:
        """One of them. Raises the `InterlockError`s. A call of nobody is refused on record."""
        try:
            identity = await self.identifier.identify(credentials)
        except Unauthenticated:
            identity = _NOBODY
        call = self._call(operation, given)
        if identity.subject.id:
            call = replace(call, resource=await self.memory().resource_for(call, identity))
        return await self.handler.handle(call, credentials, QuietExchange(identity.principal))

    def _call(self, operation: str, given: Mapping[str, object]) -> Call:
        params = freeze(dict(given))
        return Call(
            id=self.new_id(),
            action=ACTIONS[operation],
            method=f"{PREFIX}{operation}",
            resource=Resource("memory", "*", name="*"),
            params=params if isinstance(params, FrozenDict) else FrozenDict(),
            protocol=PROTOCOL,
            started_ns=time.time_ns(),
        )


def memory_routes(calls: MemoryCalls, guards: Guards) -> list[BaseRoute]:
    """Everything below `/memory/v1`."""
    routes: list[tuple[str, str, str, _Read]] = [
        ("POST", "/records", "remember", _body),
        ("GET", "/records", "list", _query),
        ("GET", "/records/{id}", "get", _query),
        ("POST", "/records/{id}/revise", "revise", _body),
        ("DELETE", "/records/{id}", "forget", _query),
        ("GET", "/records/{id}/why", "why", _query),
        ("GET", "/records/{id}/history", "history", _query),
        ("POST", "/records/{id}/approve", "approve", _body),
        ("POST", "/records/{id}/reject", "reject", _body),
        ("GET", "/keys/{namespace}/{key:path}", "get", _query),
        ("POST", "/recall", "recall", _body),
        ("GET", "/export", "export", _query),
        ("POST", "/import", "import", _body),
        ("GET", "/review", "review", _query),
        ("POST", "/rollback", "rollback", _body),
        ("POST", "/erase", "erase", _body),
        ("GET", "/holds", "holds", _query),
        ("PUT", "/holds", "hold", _body),
        ("DELETE", "/holds", "lift", _body),
    ]
    return [_route(calls, guards, *each) for each in routes]


def _route(  # where it is, and what it does
    calls: MemoryCalls, guards: Guards, verb: str, path: str, operation: str, read: _Read
) -> Route:
    fixed = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

    async def endpoint(request: Request) -> Response:
        try:
            given = {**await read(request), **request.path_params}
            credentials = credentials_of(request.scope, headers_of(request.scope))
            payload = (await calls.made(operation, given, credentials)).payload
        except InterlockError as error:
            return refusal(error)
        return Response(payload, headers=fixed, media_type="application/json")

    return Route(f"{BASE}{path}", guarded(endpoint, guards), methods=[verb])


async def _query(request: Request) -> Mapping[str, object]:
    """The parameters of the query, each at most once; numbers and flags as what they are."""
    found: dict[str, object] = {}
    for name, value in request.query_params.multi_items():
        if name in found:
            raise InvalidCall(f"{name[:40]!r} stands in the query twice")
        found[name] = _plain(name, value)
    return found


def _plain(name: str, value: str) -> object:
    if name == "limit":
        if not value.isdecimal() or len(value) > 9:
            raise InvalidCall("limit: is no number")
        return int(value)
    if name in {"whole", "erase"}:
        if value not in {"true", "false"}:
            raise InvalidCall(f"{name}: is true or false")
        return value == "true"
    return value


async def _body(request: Request) -> Mapping[str, object]:
    """The body, a JSON object. Raises `InvalidCall`."""
    if request.query_params:
        raise InvalidCall("the arguments stand in the body, as JSON; there is no query here")
    raw = await _raw(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidCall("send Content-Type: application/json")
    try:
        value = codec.loads(raw)
    except ValueError as exc:
        raise InvalidCall("the body is not JSON") from exc
    if not isinstance(value, dict):
        raise InvalidCall("the body is to be a JSON object")
    if not value.keys().isdisjoint(request.path_params):
        raise InvalidCall("what the address names does not stand in the body")
    return value


async def _raw(request: Request) -> bytes:
    raw = bytearray()
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > MAX_BODY_BYTES:
                raise TooLarge(f"the body is longer than {MAX_BODY_BYTES} bytes")
    except ClientDisconnect as exc:
        raise InvalidCall("the client left before its request was complete") from exc
    return bytes(raw)


__all__ = ["Handler", "MemoryCalls", "memory_routes"]
