"""A policy that an OPA server decides by: checked here, published there, and put back when the server lost it."""

from __future__ import annotations

import logging
from typing import Final

import anyio
from anyio import to_thread

from adapters.pdp.activation import Engine, projections_of
from adapters.pdp.bundle import Bundle, PolicyRefused
from adapters.pdp.checks import examine
from adapters.pdp.opa import OpaPdp
from adapters.pdp.opa_http import Endpoint, OpaHttp
from adapters.pdp.opa_publish import OpaServer
from adapters.pdp.policytests import run_tests
from adapters.pdp.rules import Program
from gateway.errors import ConfigError, PolicyEngineUnavailable

log = logging.getLogger("interlock.policy")

PUBLISH_S: Final = 20.0
"""How long giving the server a policy may take."""
CONNECT_SHARE: Final = 1 / 3
"""How much of the time for a decision connecting may take: 50 of the default's 150 ms, more for a server far off."""


class Published:
    """What one OPA server is to decide by. It keeps policies in memory, so one that was restarted has lost them."""

    def __init__(self, server: OpaServer, bundle: Bundle, pdp: OpaPdp) -> None:
        self._server = server
        self._bundle = bundle
        self._pdp = pdp

    async def restore(self) -> bool:
        """Publish unless the server has exactly this policy; whether it had to be. Raises `PolicyEngineUnavailable`."""
        try:
            with anyio.fail_after(PUBLISH_S):
                if await self._server.revision() == self._bundle.revision:
                    return False
                await self._server.publish(self._bundle)
        except TimeoutError as exc:
            raise PolicyEngineUnavailable(f"OPA did not take the policy within {PUBLISH_S:.0f} s") from exc
        return True

    async def upkeep(self) -> None:
        """Give a server that came back its policy again. A server that cannot be reached is left for the next time."""
        try:
            if await self.restore():
                log.warning("OPA had lost policy %s; it was published again", self._bundle.revision)
        except (PolicyEngineUnavailable, PolicyRefused) as exc:
            log.debug("OPA cannot be given the policy now: %s", exc)

    def close(self) -> None:
        """Close the connections."""
        self._pdp.close()


async def open_remote(url: str, token: str, bundle: Bundle, timeout_s: float) -> Engine:
    """An engine that asks the OPA server at `url`, after the same checks and tests that the embedded one makes.

    Its answers are not cached: somebody else may change the server's data. What the policy can read is known all the
    same, since the policy is ours. Raises `PolicyRefused`, `PolicyEngineUnavailable` or `ConfigError`.
    """
    headers = (("Authorization", f"Bearer {token}"),) if token else ()
    try:
        endpoint = Endpoint.parse(url)
        server = OpaServer(endpoint, token=token)
        http = OpaHttp(endpoint, headers=headers, connect_timeout_s=timeout_s * CONNECT_SHARE)
    except ValueError as exc:
        raise ConfigError([("policy.url", str(exc))]) from exc
    program = await to_thread.run_sync(_checked, bundle)
    pdp = OpaPdp(http, timeout_s=timeout_s, revision=bundle.revision)
    published = Published(server, bundle, pdp)
    await published.restore()
    return Engine(pdp, bundle.revision, "remote", projections_of(program), published, bundle)


def _checked(bundle: Bundle) -> Program:
    examined = examine(bundle)
    faults = list(examined.faults) or run_tests(bundle).faults
    if faults or examined.program is None:
        raise PolicyRefused(faults)
    return examined.program
