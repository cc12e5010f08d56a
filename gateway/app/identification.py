"""Who may come in: API keys, the configured issuers, and on loopback an anonymous subject if configured."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

from anyio.abc import TaskGroup

from gateway.config.tree import Issuer, Settings
from gateway.identity.chain import Chains
from gateway.identity.identifier import Anonymous, Identification
from gateway.identity.issuers import IssuerSpec
from gateway.identity.jwt import JwtVerifier
from gateway.identity.keyring import KeyRing
from gateway.identity.token_cache import TokenCache


async def open_identification(
    settings: Settings, url: str, keys: KeyRing, group: TaskGroup, stack: AsyncExitStack, chains: Chains | None = None
) -> Identification:
    """The identifier of a gateway whose resource URL is `url`."""
    name = settings.identity.anonymous
    anonymous = Anonymous(name, roles=(name,)) if name else None
    cache = TokenCache(clock_s=time.time)
    tokens = await _tokens(settings, url, cache, group, stack)
    return Identification(keys=keys, tokens=tokens, cache=cache, anonymous=anonymous, chains=chains)


async def _tokens(
    settings: Settings, url: str, cache: TokenCache, group: TaskGroup, stack: AsyncExitStack
) -> JwtVerifier | None:
    issuers = settings.identity.issuers
    if not issuers:
        return None
    from adapters.identity.jwks import HttpKeySource  # imported only where an issuer is configured

    source = await stack.enter_async_context(HttpKeySource())
    specs = [issuer_spec(issuer, url) for issuer in issuers.values()]
    verifier = JwtVerifier(specs, source, cache=cache)
    group.start_soon(verifier.run)
    return verifier


def issuer_spec(issuer: Issuer, url: str) -> IssuerSpec:
    """What the configuration says of an issuer, as the verifier takes it; `url` is the gateway's own."""
    return IssuerSpec(
        issuer=issuer.issuer,
        audience=issuer.audience or url,
        endpoints_too=not issuer.audience,
        jwks_uri=issuer.jwks_uri,
        algorithms=issuer.algorithms,
        token_types=(issuer.typ.lower(),),
        role_claims=(issuer.roles_claim,),
        tenant_claim=issuer.tenant_claim,
    )
