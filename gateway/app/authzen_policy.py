"""A policy that an AuthZEN decision point keeps: nothing of it is known here, so nothing is published or cached."""

from __future__ import annotations

from adapters.pdp.activation import Engine
from adapters.pdp.authzen import AuthzenPdp
from adapters.pdp.authzen_metadata import discovered
from adapters.pdp.opa_http import Endpoint, OpaHttp
from gateway.errors import ConfigError


async def open_authzen(url: str, token: str, timeout_s: float) -> Engine:
    """An engine that asks the AuthZEN decision point at `url`.

    Raises `ConfigError` for an address or metadata that cannot be used, `PolicyEngineUnavailable` when it cannot be
    reached.
    """
    headers = (("Authorization", f"Bearer {token}"),) if token else ()
    try:
        parsed = Endpoint.parse(url)
        place = Endpoint(parsed.host, parsed.port, tls=parsed.tls)
        http = OpaHttp(place, headers=headers, connect_timeout_s=timeout_s)  # it need not be near, as an OPA is
        targets = await discovered(url)
    except ValueError as exc:
        raise ConfigError([("policy.url", f"the AuthZEN decision point cannot be used: {exc}")]) from exc
    pdp = AuthzenPdp(http, targets, timeout_s=timeout_s, revision=f"authzen:{parsed.authority}{targets.evaluation}")
    return Engine(pdp, pdp.revision, "remote", resource=pdp)
