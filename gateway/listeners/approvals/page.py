"""The page where people decide on held calls, in any browser and without scripts.

It stands on the same calls as the API: each look and each vote travels the governed path with the credential of who is
signed in. Nothing is decided by GET; a vote needs the sealed cookie, the token of a page made for it, and a form that
was sent from here.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.approvals import desk
from gateway.errors import InterlockError, InvalidCall, PolicyDenied, Unauthenticated, UnknownResource
from gateway.identity.seal import Sealer
from gateway.listeners.admin import guarded
from gateway.listeners.approvals.calls import ApprovalCalls
from gateway.listeners.approvals.endpoints import refusal
from gateway.listeners.approvals.page_html import tag
from gateway.listeners.approvals.page_layout import HEADERS, ROOT, asset, failed, page, sign_in
from gateway.listeners.approvals.page_list import address, list_page
from gateway.listeners.approvals.page_reading import answer_of, objects, read_form, vote_in
from gateway.listeners.approvals.page_session import Cookies, Elsewhere, Session, came_from_elsewhere
from gateway.listeners.approvals.page_ticket import ticket_page
from gateway.listeners.guards import Guards

log = logging.getLogger("interlock.approvals")

_SignedIn: TypeAlias = Callable[[Request, Session], Awaitable[Response]]
_TICKET: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")


def page_routes(
    calls: ApprovalCalls, guards: Guards, sealer: Sealer, url: str, clock_s: Callable[[], float] = time.time
) -> list[BaseRoute]:
    """The pages, to be routed before the API: `/approvals/page` is not a ticket. `url` is where browsers find us."""
    desk_page = _Pages(calls, Cookies(sealer, url, clock_s))
    get, post = desk_page.looked, desk_page.sent

    async def file(request: Request) -> Response:
        return asset(request.path_params["name"]) or failed("Not found", "There is no such file.", 404)

    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", ROOT, get(desk_page.listed)),
        ("POST", f"{ROOT}/sign-in", desk_page.sign_in),
        ("POST", f"{ROOT}/sign-out", desk_page.sign_out),
        ("GET", f"{ROOT}/assets/{{name}}", file),
        ("GET", "/approvals/{id}/page", get(desk_page.read)),
        ("POST", "/approvals/{id}/page", post(desk_page.vote)),
    ]
    return [Route(path, guarded(endpoint, guards), methods=[verb]) for verb, path, endpoint in routes]


@dataclass(frozen=True, slots=True)
class _Pages:
    calls: ApprovalCalls
    cookies: Cookies

    def looked(self, answer: _SignedIn) -> Callable[[Request], Awaitable[Response]]:
        """A page for who is signed in, and the form to do so for everybody else."""

        async def endpoint(request: Request) -> Response:
            session = self.cookies.session(request)
            if session is None and came_from_elsewhere(request):
                return _once_more(request.url.path)
            return await self._answered(request, session, answer)

        return endpoint

    def sent(self, answer: _SignedIn) -> Callable[[Request], Awaitable[Response]]:
        """What a form asks for, if it came from one of our pages."""

        async def endpoint(request: Request) -> Response:
            try:
                self.cookies.check_origin(request)
            except Elsewhere as error:
                return failed("Not done", str(error), error.http_status)
            return await self._answered(request, self.cookies.session(request), answer)

        return endpoint

    async def listed(self, request: Request, session: Session) -> Response:
        everything = request.query_params.get("show") == "all"
        params = {} if everything else {"state": "pending"}
        answer = answer_of(await self.calls.listed(desk.LIST, params, session.credentials))
        return list_page(objects(answer.get("approvals")), session, everything=everything)

    async def read(self, request: Request, session: Session) -> Response:
        return ticket_page(await self._ticket(request, session), session)

    async def vote(self, request: Request, session: Session) -> Response:
        form = await read_form(request)
        session.check(form)
        ticket_id = request.path_params["id"]
        try:
            yes, params = vote_in(form)
            await self.calls.vote(desk.APPROVE if yes else desk.DENY, ticket_id, params, session.credentials)
        except (Unauthenticated, UnknownResource):
            raise
        except (PolicyDenied, InvalidCall) as error:
            ticket = await self._ticket(request, session)
            words = "; ".join(dict.fromkeys([str(error), *_reasons(error)]))
            return ticket_page(ticket, session, fault=words, said=form, status=refusal(error).status_code)
        return _see(address(ticket_id))

    async def sign_in(self, request: Request) -> Response:
        """Look whether the key holds, by listing with it: a try that fails is on record as any other."""
        ticket_id = ""
        try:
            self.cookies.check_origin(request)
            form = await read_form(request)
            ticket_id = form.get("ticket", "") if _TICKET.fullmatch(form.get("ticket", "")) else ""
            session, sealed = self.cookies.begin(request, form.get("key", ""))
            await self.calls.listed(desk.LIST, {"state": "pending"}, session.credentials)
        except Unauthenticated as error:
            return sign_in(ticket_id, str(error))
        except PolicyDenied:
            log.info("somebody signed in who may not list approvals")
        except InterlockError as error:
            return failed("Not signed in", str(error), error.http_status)
        response = _see(address(ticket_id) if ticket_id else ROOT)
        self.cookies.keep(response, sealed)
        return response

    async def sign_out(self, request: Request) -> Response:
        """Take the cookie back."""
        session = self.cookies.session(request)
        try:
            self.cookies.check_origin(request)
            if session is not None:
                session.check(await read_form(request))
        except InterlockError as error:
            return failed("Not signed out", str(error), error.http_status)
        response = _see(ROOT)
        self.cookies.keep(response, "")
        return response

    async def _ticket(self, request: Request, session: Session) -> Mapping[str, object]:
        return answer_of(await self.calls.read(request.path_params["id"], session.credentials))

    async def _answered(self, request: Request, session: Session | None, answer: _SignedIn) -> Response:
        ticket_id = request.path_params.get("id", "")
        if session is None:
            lost = request.method == "POST"
            return sign_in(
                ticket_id, "You are not signed in any more: nothing was done. Sign in again." if lost else ""
            )
        try:
            identity = await self.calls.identifier.identify(session.credentials)
            session = replace(session, identity=identity)
            return await answer(request, session)
        except Unauthenticated as error:
            return sign_in(ticket_id, str(error))
        except UnknownResource as error:
            return failed("Not found", str(error), 404, session)
        except InterlockError as error:
            if error.http_status >= 500:
                log.warning("a page about approvals failed: %s", error)
            return failed("Not possible", "; ".join([str(error), *_reasons(error)]), error.http_status, session)


def _reasons(error: InterlockError) -> list[str]:
    found = error.reasons if isinstance(error, PolicyDenied) else ()
    return [each.message for each in found if each.public and each.message not in str(error)]


def _see(where: str) -> Response:
    return RedirectResponse(where, 303, headers=HEADERS)


def _once_more(path: str) -> Response:
    """Follow a link of another site once more from here, where the browser brings the cookie along."""
    link = tag("p", tag("a", "Go on to the held call", href=path))
    return page("One moment", [tag("h1", "One moment"), link], soon=path)
