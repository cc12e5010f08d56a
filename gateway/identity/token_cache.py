"""Remembers for a short time which tokens were found to hold, so that a signature is not checked for every call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from gateway.types import Identity

MAX_ENTRIES: Final = 10_000


class TokenCache:
    """Identities by the BLAKE2b of their token: the tokens themselves are not kept."""

    def __init__(self, *, clock_s: Callable[[], float], max_entries: int = MAX_ENTRIES) -> None:
        self._clock_s = clock_s
        self._max_entries = max_entries
        self._entries: dict[bytes, tuple[float, Identity]] = {}

    def get(self, token: str) -> Identity | None:
        """Whose token this was found to be, unless that was too long ago. The token must be ASCII text."""
        entry = self._entries.get(hashlib.blake2b(token.encode()).digest())
        if entry is None or entry[0] <= self._clock_s():
            return None
        return entry[1]

    def put(self, token: str, identity: Identity, *, until_s: float) -> None:
        """Remember a finding until a time, at the price of the oldest one when there are too many."""
        key = hashlib.blake2b(token.encode()).digest()
        self._entries.pop(key, None)
        if len(self._entries) >= self._max_entries:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (until_s, identity)

    def purge(self) -> None:
        """Forget everything: keys were rotated, the configuration was reloaded."""
        self._entries.clear()
