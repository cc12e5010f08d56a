"""What all pages for approvers have in common: their frame, their headers, the form to sign in, and how errors look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.responses import Response

from gateway.listeners.approvals.page_html import Child, Html, document, tag
from gateway.listeners.approvals.page_session import Session
from gateway.types import Entity

ROOT: Final = "/approvals/page"
ASSETS: Final = Path(__file__).parent / "assets"
TYPES: Final[Mapping[str, str]] = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; "
        "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: with it browsers send `Origin: null` with a form (Fetch, "append a request Origin header"), and
    # a form that does not say where it comes from is refused here. To others nothing is sent either way.
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def page(title: str, body: Child, *, status: int = 200, session: Session | None = None, soon: str = "") -> Response:
    """A whole page. `soon` is an address of ours to go to at once."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="refresh", content=f"0; url={soon}") if soon else None,
        tag("title", f"{title} · Interlock"),
        tag("link", rel="stylesheet", href=f"{ROOT}/assets/page.css"),
        tag("link", rel="icon", href=f"{ROOT}/assets/icon.svg"),
        tag("script", src=f"{ROOT}/assets/page.js", defer=True),
    ]
    main = tag("main", body, id="main")
    content = document(head, [tag("a", "Skip to content", class_="skip", href="#main"), _banner(session), main])
    return Response(content, status, headers=HEADERS, media_type="text/html")


def asset(name: str) -> Response | None:
    """A file of the pages, if there is one of this name."""
    if name not in TYPES:
        return None
    return Response((ASSETS / name).read_bytes(), headers=HEADERS, media_type=TYPES[name])


def sign_in(ticket_id: str, fault: str = "") -> Response:
    """The form to sign in. `ticket_id` is what the person came for; empty for the list."""
    form = tag(
        "form",
        tag("input", type="hidden", name="ticket", value=ticket_id),
        # A password manager wants a name beside what it keeps.
        tag("input", type="text", name="username", value="interlock", autocomplete="username", hidden=True),
        tag("label", "API key or access token", for_="key"),
        tag(
            "input", id="key", name="key", type="password", required=True, autocomplete="current-password",
            autofocus=not fault, spellcheck="false", aria_describedby="about-key",
            aria_invalid="true" if fault else None,
        ),
        tag("p", "Yours, not your agent's. It is kept for an hour, encrypted, in a cookie of this browser.",
            id="about-key", class_="note"),
        tag("button", "Sign in", type="submit", class_="go"),
        method="post", action=f"{ROOT}/sign-in", class_="card narrow",
    )  # fmt: skip
    body = [tag("h1", "Sign in to decide"), alert(fault), form]
    answer = page("Sign in", body, status=401)
    answer.headers["www-authenticate"] = "Bearer"
    return answer


def failed(title: str, words: str, status: int, session: Session | None = None) -> Response:
    """A page that says what went wrong."""
    back = tag("p", tag("a", "What waits for you", href=ROOT))
    return page(title, [tag("h1", title), alert(words), back], status=status, session=session)


def alert(words: str) -> Html | None:
    """What went wrong, said at once and in focus, so that the next key stroke starts there."""
    return tag("div", tag("p", words), class_="alert", role="alert", tabindex=-1, autofocus=True) if words else None


def csrf(session: Session) -> Html:
    """What makes a form one of this sign-in."""
    return tag("input", type="hidden", name="csrf", value=session.csrf)


def name_of(who: Entity) -> str:
    """`TYPE:ID` of somebody."""
    return who.id if who.id.startswith(f"{who.type}:") else f"{who.type}:{who.id}"


def _banner(session: Session | None) -> Html:
    brand = tag("a", "Interlock", tag("span", "approvals"), href=ROOT, class_="brand")
    if session is None:
        return tag("header", brand)
    who, tenant = name_of(session.identity.subject), session.identity.tenant
    form = tag(
        "form",
        csrf(session),
        tag("span", "signed in as ", tag("bdi", tag("strong", who)), f" of {tenant}" if tenant else None),
        tag("button", "Sign out", type="submit"),
        method="post",
        action=f"{ROOT}/sign-out",
    )
    return tag("header", brand, form)
