"""A browser as far as the approver's page needs one, over fakes: keeps its cookie, and sends forms."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

import httpx2
from starlette.applications import Starlette

from gateway.identity.seal import Sealer
from gateway.listeners.approvals.calls import ApprovalCalls
from gateway.listeners.approvals.endpoints import approval_routes
from gateway.listeners.approvals.page import page_routes
from gateway.listeners.guards import Guards
from gateway.tickets import Stage
from tests.approvals.worlds import NOW_MS, World, a_ticket

HOST: Final = "http://localhost"


@dataclass
class Browser:
    """Keeps the cookie, and sends forms as a browser does."""

    world: World
    url: str = HOST
    cookie: str = ""
    set_cookies: list[str] = field(default_factory=list)

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        return await self._ask("GET", path, None, headers)

    async def post(self, path: str, form: dict[str, str], **headers: str) -> httpx2.Response:
        sent = {"origin": HOST, "content-type": "application/x-www-form-urlencoded", **headers}
        return await self._ask("POST", path, urlencode(form), sent)

    async def sign_in(self, who: str, ticket: str = "") -> httpx2.Response:
        return await self.post("/approvals/page/sign-in", {"key": who, "ticket": ticket})

    async def vote(self, ticket_id: str, choice: str, /, **fields: str) -> httpx2.Response:
        path = f"/approvals/{ticket_id}/page"
        hidden = hidden_in((await self.get(path)).text)
        return await self.post(path, {**hidden, "choice": choice, **fields})

    async def _ask(self, verb: str, path: str, body: str | None, headers: dict[str, str]) -> httpx2.Response:
        cookie = {"cookie": self.cookie} if self.cookie else {}
        app = app_of(self.world, self.url)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=HOST) as client:
            answer = await client.request(verb, path, content=body, headers={**cookie, **headers})
        given = answer.headers.get("set-cookie")
        if given:
            self.set_cookies.append(given)
            self.cookie = given.partition(";")[0]
        return answer


def app_of(world: World, url: str = HOST) -> Starlette:
    calls = ApprovalCalls(world.store, world.pipeline, world.identifier, lambda: "q", lambda: world.now_ms * 1_000_000)
    guards = Guards(1 << 20)
    pages = page_routes(calls, guards, Sealer([b"k" * 32], "interlock"), url, lambda: world.now_ms / 1000)
    return Starlette(routes=[*pages, *approval_routes(calls, guards)])


def hidden_in(text: str) -> dict[str, str]:
    """The hidden fields of the first form that votes."""
    return {name: html.unescape(value) for name, value in re.findall(r'name="(csrf|seen)" value="([^"]*)"', text)}


async def signed_in(world: World, who: str) -> Browser:
    browser = Browser(world)
    assert (await browser.sign_in(who)).status_code == 303
    return browser


async def opened(world: World, *stages: Stage, **changes: object) -> str:
    ticket = await world.store.open_ticket(a_ticket(*stages, **changes), NOW_MS, 9)  # type: ignore[arg-type]  # fields
    assert ticket is not None
    return ticket.id


async def state_of(world: World, ticket_id: str) -> str:
    ticket = await world.store.ticket(ticket_id)
    assert ticket is not None
    return ticket.state
