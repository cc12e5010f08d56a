"""Who sits in front of the browser: a credential in a sealed cookie, and the token that every form has to bring.

The cookie is the only place where the credential is kept. It is encrypted, so that neither a disk of the browser nor a
log of a proxy holds a key; JavaScript cannot read it; and no request that another site makes carries it. It ends an
hour after signing in, and with the credential in it.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import InvalidCall, Unauthenticated
from gateway.identity.bearer import bearer_of
from gateway.identity.seal import Sealer
from gateway.listeners.guards import credentials_of
from gateway.listeners.http import Headers, headers_of, one
from gateway.types import Credentials, Identity

TTL_S: Final = 3_600
MAX_COOKIE: Final = 4_000
"""Browsers drop a longer one without a word."""
NOBODY: Final = Identity()
_PURPOSE: Final = "sign-in of an approver"
_NOBODYS: Final = ""
"""The principal that it is sealed for: whoever has the cookie has the credential, so there is nobody else to name."""


class Elsewhere(InvalidCall):
    """The form was not sent by this page, or not by who is signed in."""

    http_status = 403


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in. `csrf` is known to their cookie and the pages made for it, and to nobody else."""

    credentials: Credentials
    csrf: str
    identity: Identity = NOBODY

    def check(self, form: Mapping[str, str]) -> None:
        """Raises `Elsewhere` unless the form comes from a page made for this sign-in."""
        if not hmac.compare_digest(form.get("csrf", "").encode(), self.csrf.encode()):
            raise Elsewhere("this form was made for another sign-in: nothing was done; look again, then decide")


@dataclass(frozen=True, slots=True)
class Cookies:
    """Puts sign-ins into cookies. `url` is where browsers find the gateway."""

    sealer: Sealer
    url: str
    clock_s: Callable[[], float]

    def session(self, request: Request) -> Session | None:
        """Who the request's cookie is of, if it holds."""
        sealed = _cookie(headers_of(request.scope), self._name)
        if not sealed:
            return None
        try:
            value = self.sealer.open(_PURPOSE, sealed, principal=_NOBODYS, now_s=self.clock_s())
        except InvalidCall:
            return None
        match value:
            case {"bearer": str(bearer), "csrf": str(csrf)} if bearer and csrf:
                return Session(_credentials(request, bearer), csrf)
        return None

    def begin(self, request: Request, key: str) -> tuple[Session, str]:
        """A sign-in with this key or token, not yet looked at, and its cookie. Raises `Unauthenticated`."""
        bearer = bearer_of([b"Bearer " + key.strip().encode("utf-8", "replace")])
        csrf = secrets.token_urlsafe(24)
        value = {"bearer": bearer, "csrf": csrf}
        sealed = self.sealer.seal(_PURPOSE, value, principal=_NOBODYS, ttl_s=TTL_S, now_s=self.clock_s())
        if len(sealed) > MAX_COOKIE:
            raise Unauthenticated("this token is too long for a cookie: use an API key, or the command line")
        return Session(_credentials(request, bearer), csrf), sealed

    def keep(self, response: Response, sealed: str) -> None:
        """Hand the cookie to the browser; an empty one takes it back."""
        response.set_cookie(
            self._name,
            sealed,
            max_age=TTL_S if sealed else 0,
            path="/" if self._secure else "/approvals",
            secure=self._secure,
            httponly=True,
            samesite="strict",
        )

    def check_origin(self, request: Request) -> None:
        """Raises `Elsewhere` unless the form was sent by a page of this gateway.

        Another port of this machine is the same site to a browser, so neither `SameSite` nor an origin that is allowed
        to make calls is enough for a form.
        """
        headers = headers_of(request.scope)
        origin = urlsplit(one(headers, b"origin").lower()).netloc
        ours = {one(headers, b"host").lower(), urlsplit(self.url).netloc.lower()}
        if not origin or origin not in ours or one(headers, b"sec-fetch-site") not in ("", "same-origin"):
            raise Elsewhere("this form was not sent by a page of this gateway: nothing was done")

    @property
    def _secure(self) -> bool:
        return self.url.startswith("https://")

    @property
    def _name(self) -> str:
        """With the prefix that no other host below the same domain can set (RFC 6265bis section 4.1.3.2)."""
        return "__Host-interlock-approver" if self._secure else "interlock-approver"


def came_from_elsewhere(request: Request) -> bool:
    """Whether a link of another site led here: then the browser kept the cookie back, and brings it the next time."""
    return one(headers_of(request.scope), b"sec-fetch-site") == "cross-site"


def _credentials(request: Request, bearer: str) -> Credentials:
    return replace(credentials_of(request.scope, headers_of(request.scope)), bearer=bearer)


def _cookie(headers: Headers, name: str) -> str:
    """The value of one cookie; two of the name are none, because one of them is somebody else's."""
    lines = b"; ".join(headers.get(b"cookie", [])).decode("latin-1")
    found = [pair.strip().partition("=")[2] for pair in lines.split(";") if pair.strip().partition("=")[0] == name]
    return found[0] if len(found) == 1 else ""
