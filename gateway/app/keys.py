"""Fetches key sets of others, once something needs one: the library for it is large, and few gateways ever do."""

from __future__ import annotations

from contextlib import AsyncExitStack

from gateway.identity.discovery import KeySource
from gateway.identity.issuers import Reach


class KeysOnDemand:
    """A `KeySource` that opens its connections with the first question. `stack` closes them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._opened: KeySource | None = None

    async def fetch(self, url: str, reach: Reach) -> bytes:
        """The document. Raises `KeysUnavailable`."""
        if self._opened is None:
            from adapters.identity.jwks import HttpKeySource  # heavy

            source = HttpKeySource()
            self._stack.push_async_callback(source.aclose)
            self._opened = source
        return await self._opened.fetch(url, reach)


_: type[KeySource] = KeysOnDemand
