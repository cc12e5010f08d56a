"""Whether a request that failed can be sent again, since its provider had already closed the connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final

import aiohttp

STALE_S: Final = 1.0
"""So soon a provider that had closed a connection says so. One that takes longer may have begun to work."""


@dataclass(slots=True)
class Attempt:
    """One sending of a request; aiohttp is given it as `trace_request_ctx`."""

    reused_at: float = 0
    """When it got a connection that had served before; 0: it got a new one."""

    def never_arrived(self, exc: aiohttp.ClientError) -> bool:
        """Whether nobody can have read the request: a call that may have been carried out is never made twice."""
        answered = isinstance(exc, aiohttp.ServerDisconnectedError) and not isinstance(exc.message, str)
        soon = asyncio.get_running_loop().time() - self.reused_at < STALE_S
        return bool(self.reused_at) and soon and not answered


def noting_reuse() -> aiohttp.TraceConfig:
    """Have attempts know that their connection had served before."""

    async def reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.reused_at = asyncio.get_running_loop().time()

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(reused)
    return config
