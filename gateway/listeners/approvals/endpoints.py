"""The routes of this API, and its errors as JSON (`gateway/approvals/README.md` describes both)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway import codec
from gateway.approvals import desk, switch_desk
from gateway.errors import InterlockError, InvalidCall, PolicyDenied, Unauthenticated
from gateway.listeners.admin import guarded
from gateway.listeners.approvals.calls import ApprovalCalls
from gateway.listeners.approvals.requests import read_object
from gateway.listeners.guards import Guards, credentials_of
from gateway.listeners.http import headers_of
from gateway.types import Credentials, Result

log = logging.getLogger("interlock.approvals")

_Answer: TypeAlias = Callable[[Request, Credentials], Awaitable[Result]]

_CONFLICTS: Final = frozenset(
    {"approval_over", "approval_expired", "approval_changed", "approval_moved", "approval_voted"}
)
"""Refusals of a vote that come of what happened meanwhile."""
_VOTE: Final = frozenset({"reason", "seen"})
_STATES: Final = ("", "pending", "approved", "denied", "spent", "withdrawn")


def approval_routes(calls: ApprovalCalls, guards: Guards) -> list[BaseRoute]:
    """Everything below `/approvals` and `/switches`, but the page for browsers."""

    async def listed(request: Request, credentials: Credentials) -> Result:
        return await calls.listed(desk.LIST, _query(request, state=_STATES, scope=("", "mine", "all")), credentials)

    async def read(request: Request, credentials: Credentials) -> Result:
        return await calls.read(request.path_params["id"], credentials)

    async def approve(request: Request, credentials: Credentials) -> Result:
        body = await read_object(request, _VOTE | {"arguments", "standing"})
        return await calls.vote(desk.APPROVE, request.path_params["id"], body.members, credentials)

    async def deny(request: Request, credentials: Credentials) -> Result:
        body = await read_object(request, _VOTE, needed=frozenset({"reason"}))
        return await calls.vote(desk.DENY, request.path_params["id"], body.members, credentials)

    async def grants(request: Request, credentials: Credentials) -> Result:
        return await calls.listed(desk.LIST_GRANTS, _query(request, scope=("", "mine", "all")), credentials)

    async def drop_grant(request: Request, credentials: Credentials) -> Result:
        return await calls.drop_grant(request.path_params["id"], credentials)

    async def switches(_: Request, credentials: Credentials) -> Result:
        return await calls.switch(switch_desk.LIST, {}, credentials)

    async def set_switch(request: Request, credentials: Credentials) -> Result:
        body = await read_object(request, frozenset({"kind", "value", "reason"}), needed=frozenset({"kind"}))
        return await calls.switch(switch_desk.SET, {"value": "", **body.members}, credentials)

    async def clear_switch(request: Request, credentials: Credentials) -> Result:
        body = await read_object(request, frozenset({"kind", "value"}), needed=frozenset({"kind"}))
        return await calls.switch(switch_desk.CLEAR, {"value": "", **body.members}, credentials)

    routes: list[tuple[str, str, _Answer]] = [
        ("GET", "/approvals", listed),
        ("GET", "/approvals/grants", grants),
        ("DELETE", "/approvals/grants/{id}", drop_grant),
        ("GET", "/approvals/{id}", read),
        ("POST", "/approvals/{id}/approve", approve),
        ("POST", "/approvals/{id}/deny", deny),
        ("GET", "/switches", switches),
        ("PUT", "/switches", set_switch),
        ("DELETE", "/switches", clear_switch),
    ]
    return [_route(verb, path, answer, guards) for verb, path, answer in routes]


def _route(verb: str, path: str, answer: _Answer, guards: Guards) -> Route:
    async def endpoint(request: Request) -> Response:
        credentials = credentials_of(request.scope, headers_of(request.scope))
        try:
            return _json(200, (await answer(request, credentials)).payload)
        except InterlockError as error:
            return refusal(error)

    return Route(path, guarded(endpoint, guards), methods=[verb])


def refusal(error: InterlockError) -> Response:
    """The error as this API words it: `error`, `code`, and of a denial the public reasons."""
    body: dict[str, object] = {"error": str(error), "code": error.code}
    status = error.http_status
    if isinstance(error, PolicyDenied):
        public = [reason for reason in error.reasons if reason.public]
        body["decision_id"] = error.decision_id
        body["reasons"] = [{"code": each.code, "message": each.message, "remedy": each.remedy} for each in public]
        if any(reason.code in _CONFLICTS for reason in error.reasons):
            status = 409
    if isinstance(error, Unauthenticated):
        return _json(status, codec.dumps(body), {"www-authenticate": error.challenge or "Bearer"})
    if status >= 500:
        log.warning("a request about approvals failed: %s", error)
    return _json(status, codec.dumps(body))


def _json(status: int, payload: bytes, headers: Mapping[str, str] | None = None) -> Response:
    fixed = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(payload, status, headers={**fixed, **(headers or {})}, media_type="application/json")


def _query(request: Request, **allowed: tuple[str, ...]) -> dict[str, object]:
    """The parameters of the query, each at most once. Raises `InvalidCall`."""
    found: dict[str, object] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed or name in found or value not in allowed[name]:
            known = "; ".join(f"{key} is {' | '.join(filter(None, values))}" for key, values in allowed.items())
            raise InvalidCall(f"the query is not one that is known here: {known}")
        found[name] = value
    return found
