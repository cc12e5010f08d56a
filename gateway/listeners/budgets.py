"""The HTTP API of budgets: looking at one is a call, and so is resetting it (`gateway/budgets/README.md`)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.budgets import desk
from gateway.errors import InterlockError, InvalidCall, Unauthenticated
from gateway.listeners.admin import guarded
from gateway.listeners.approvals.endpoints import refusal
from gateway.listeners.guards import Guards, credentials_of
from gateway.listeners.http import headers_of
from gateway.listeners.mcp.quiet import Handler, QuietExchange
from gateway.ports import Identifier
from gateway.types import EMPTY, Call, Credentials, FrozenDict, Identity, Resource, Result

_Answer: TypeAlias = Callable[[Request, Credentials], Awaitable[Result]]

_ACTIONS: Final[Mapping[str, str]] = {
    desk.LIST: "budgets.list",
    desk.READ: "budgets.read",
    desk.RESET: "budgets.reset",
}
_NOBODY: Final = Identity()
_SCOPES: Final = ("", "mine", "all")


@dataclass(frozen=True, slots=True)
class BudgetCalls:
    """Makes these calls and takes them down the path."""

    handler: Handler
    identifier: Identifier
    new_id: Callable[[], str]
    facts_of: Callable[[str], Awaitable[FrozenDict]]
    """Tells whose an account is."""

    async def made(self, method: str, account: str, params: Mapping[str, object], credentials: Credentials) -> Result:
        """One of them. Raises the `InterlockError`s. A call of nobody is refused on record."""
        try:
            identity = await self.identifier.identify(credentials)
        except Unauthenticated:
            identity = _NOBODY
        named = method != desk.LIST and bool(identity.subject.id)
        call = Call(
            id=self.new_id(),
            action=_ACTIONS[method],
            method=method,
            resource=Resource("budget", account, name=account),
            params=FrozenDict(params),
            protocol=desk.PROTOCOL,
            started_ns=time.time_ns(),
            facts=await self.facts_of(account) if named else EMPTY,
        )
        return await self.handler.handle(call, credentials, QuietExchange(identity.principal))


def budget_routes(calls: BudgetCalls, guards: Guards) -> list[BaseRoute]:
    """Everything below `/budgets`."""

    async def listed(request: Request, credentials: Credentials) -> Result:
        scope = request.query_params.get("scope", "")
        if scope not in _SCOPES or not {"scope"}.issuperset(request.query_params):
            raise InvalidCall("the query is not one that is known here: scope is mine | all")
        return await calls.made(desk.LIST, "*", {"scope": scope or "mine"}, credentials)

    async def read(request: Request, credentials: Credentials) -> Result:
        return await calls.made(desk.READ, request.path_params["id"], {}, credentials)

    async def reset(request: Request, credentials: Credentials) -> Result:
        return await calls.made(desk.RESET, request.path_params["id"], {}, credentials)

    routes: list[tuple[str, str, _Answer]] = [
        ("GET", "/budgets", listed),
        ("GET", "/budgets/{id}", read),
        ("POST", "/budgets/{id}/reset", reset),
    ]
    return [_route(verb, path, answer, guards) for verb, path, answer in routes]


def _route(verb: str, path: str, answer: _Answer, guards: Guards) -> Route:
    fixed = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

    async def endpoint(request: Request) -> Response:
        credentials = credentials_of(request.scope, headers_of(request.scope))
        try:
            payload = (await answer(request, credentials)).payload
        except InterlockError as error:
            return refusal(error)
        return Response(payload, headers=fixed, media_type="application/json")

    return Route(path, guarded(endpoint, guards), methods=[verb])
