"""Turns what a request carried into an identity (`gateway.ports.Identifier`)."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import Unauthenticated
from gateway.identity.bearer import MAX_BEARER, malformed, refused
from gateway.identity.chain import Chains
from gateway.identity.jwt import JwtVerifier
from gateway.identity.keyring import KeyRing
from gateway.identity.keys import PREFIX
from gateway.identity.token_cache import TokenCache
from gateway.ports import Identifier
from gateway.types import Credentials, Entity, Identity


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Who a request without a credential is from, if it comes from this machine.

    All of them are one principal, so each has the tasks and sessions of the others as well: nothing tells them apart,
    and programs of one machine that are to be kept apart need a key each.
    """

    name: str
    roles: tuple[str, ...] = ()
    tenant: str = ""

    @property
    def identity(self) -> Identity:
        """An entity of its own type, so that no policy takes it for a user of that name."""
        subject = Entity("anonymous", f"anonymous:{self.name}")
        return Identity(subject, tenant=self.tenant, roles=self.roles, method="anonymous")


class Identification:
    """API keys, access tokens and, on loopback only, callers without either.

    A credential that does not hold is refused even where none would have been accepted.
    """

    def __init__(
        self,
        *,
        keys: KeyRing | None = None,
        tokens: JwtVerifier | None = None,
        cache: TokenCache,
        anonymous: Anonymous | None = None,
        chains: Chains | None = None,
    ) -> None:
        self._chains = chains
        self._keys = keys
        self._tokens = tokens
        self._cache = cache
        self._anonymous = anonymous.identity if anonymous is not None else None

    async def identify(self, credentials: Credentials) -> Identity:
        """Who a request is from. Raises `Unauthenticated`, which says what to send instead."""
        if credentials.fault:
            raise malformed(credentials.fault)
        identity = await self._identified(credentials)
        if self._chains is not None:
            return self._chains.extended(identity, credentials.chain)
        if credentials.chain:
            raise refused("no agents are configured here that an Interlock-Chain could come from: leave the header out")
        return identity

    async def _identified(self, credentials: Credentials) -> Identity:
        bearer = credentials.bearer
        if not bearer:
            return self._without_credential(credentials)
        if len(bearer) > MAX_BEARER or not bearer.isascii():
            raise malformed("the credential is not text of a reasonable length: send an API key or an access token")
        if bearer.startswith(PREFIX):
            if self._keys is None:
                raise refused("API keys are not accepted here: send an access token")
            return self._keys.identify(bearer)
        return self._cache.get(bearer) or await self._by_token(bearer)

    async def _by_token(self, bearer: str) -> Identity:
        if self._tokens is None:
            raise refused("access tokens are not accepted here, only API keys (`ilk_...`): send one of those")
        return await self._tokens.identify(bearer)

    def _without_credential(self, credentials: Credentials) -> Identity:
        if self._anonymous is None:
            raise Unauthenticated("no credential came with the request: send `Authorization: Bearer <key or token>`")
        if not credentials.on_loopback:
            raise Unauthenticated(
                "without a credential only callers on this machine are served: "
                "send `Authorization: Bearer <key or token>`"
            )
        return self._anonymous


_: type[Identifier] = Identification
