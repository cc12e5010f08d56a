"""Access tokens that are JSON Web Tokens: whose they are, if they hold (RFC 9068, RFC 8725)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import anyio

from gateway.codec import JsonObject
from gateway.errors import ConfigError
from gateway.identity import base64url
from gateway.identity.bearer import MAX_BEARER, malformed, refused
from gateway.identity.claims import bearer_in, strict_object
from gateway.identity.discovery import KeySource
from gateway.identity.issuers import IssuerSpec
from gateway.identity.jwks import DEFAULT_PACE, IssuerKeys, Pace
from gateway.identity.signature import check_signature
from gateway.identity.token_cache import TokenCache
from gateway.types import Identity

MAX_CACHED_S: Final = 60.0
"""How long a token is believed without looking at it again."""


class JwtVerifier:
    """Identifies the bearers of access tokens from the configured issuers. `run` keeps the issuers' keys fresh."""

    def __init__(
        self,
        issuers: Sequence[IssuerSpec],
        source: KeySource,
        *,
        cache: TokenCache,
        clock_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
        pace: Pace = DEFAULT_PACE,
    ) -> None:
        names = [spec.issuer for spec in issuers]
        if len(set(names)) != len(names):
            raise ConfigError([("issuers", "an issuer is configured twice: join the two entries")])
        self._cache = cache
        self._clock_s = clock_s
        keys = partial(IssuerKeys, source=source, pace=pace, monotonic_s=monotonic_s, on_change=cache.purge)
        self._issuers: Mapping[str, tuple[IssuerSpec, IssuerKeys]] = {
            spec.issuer: (spec, keys(spec)) for spec in issuers
        }

    async def identify(self, token: str) -> Identity:
        """Whose token this is. Raises `Unauthenticated`, saying which check failed and what would help."""
        header = _header(token)
        claims = strict_object(_segment(token, 1), "payload")
        spec, keys = self._issuer(claims)
        typ, algorithm, key_id = _type(header, spec), _algorithm(header, spec), _key_id(header)
        key = await keys.key(key_id, algorithm)
        # No more waiting from here on: what a purge forgets while this was going on is not put back.
        now_s = self._clock_s()
        check_signature(token, key, algorithm)
        bearer = bearer_in(claims, spec, typ=typ, now_s=now_s)
        self._cache.put(token, bearer.identity, until_s=min(bearer.expires_s, now_s + MAX_CACHED_S))
        return bearer.identity

    async def run(self) -> None:
        """Keep the keys of all issuers fresh until cancelled."""
        async with anyio.create_task_group() as group:
            for _, keys in self._issuers.values():
                group.start_soon(keys.run)

    def _issuer(self, claims: JsonObject) -> tuple[IssuerSpec, IssuerKeys]:
        name = claims.get("iss")
        found = self._issuers.get(name) if isinstance(name, str) else None
        if found is None:
            raise refused("the access token is from an issuer that is not configured here: get one from another")
        return found


def _header(token: str) -> JsonObject:
    """The header, from which only `alg`, `typ` and `kid` are used: never a key or an address that it brings along."""
    if len(token) > MAX_BEARER or token.count(".") != 2:
        raise malformed("the credential is neither an API key nor a signed access token: send one of them")
    header = strict_object(_segment(token, 0), "header")
    if "crit" in header or "b64" in header:
        raise refused("the access token has critical header extensions, none of which is supported (RFC 7515 4.1.11)")
    return header


def _segment(token: str, index: int) -> bytes:
    try:
        return base64url.decode(token.split(".")[index])
    except ValueError as exc:
        raise malformed("the credential is neither an API key nor a signed access token: send one of them") from exc


def _algorithm(header: JsonObject, spec: IssuerSpec) -> str:
    name = header.get("alg")
    if not isinstance(name, str) or name not in spec.algorithms:
        raise refused(f"the access token is not signed in a way that {spec.issuer} is configured to sign")
    return name


def _type(header: JsonObject, spec: IssuerSpec) -> str:
    value = header.get("typ")
    name = value.lower().removeprefix("application/") if isinstance(value, str) else ""
    if name not in spec.token_types:
        raise refused(f"the token is not of type {' or '.join(spec.token_types)}: send an access token (RFC 9068)")
    return name


def _key_id(header: JsonObject) -> str:
    value = header.get("kid", "")
    if not isinstance(value, str):
        raise malformed("the `kid` of the access token is not text")
    return value
