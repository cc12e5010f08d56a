"""The API keys that are valid now, in memory, so that no call waits for the database."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import anyio

from gateway.errors import InterlockError, Unauthenticated
from gateway.identity.bearer import refused
from gateway.identity.keys import ID_END, PREFIX, fault, secret_hash
from gateway.ports import ApiKey, StateStore
from gateway.types import Entity, Identity

_log = logging.getLogger(__name__)

_ANSWER_S: Final = 10.0
"""Longest wait for the store."""


@dataclass(frozen=True, slots=True)
class _Held:
    key: ApiKey
    identity: Identity


class KeyRing:
    """Recognises API keys from a snapshot of the store.

    `run` follows the store, asking for its revision every `poll_s` seconds and at once after `notify`. When the
    store has not answered for `max_stale_s`, no key is accepted any more: a revocation could have been missed.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        clock_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
        poll_s: float = 1.0,
        max_stale_s: float = 600.0,
    ) -> None:
        self._store = store
        self._clock_s = clock_s
        self._monotonic_s = monotonic_s
        self._poll_s = poll_s
        self._max_stale_s = max_stale_s
        self._held: Mapping[str, _Held] = {}
        self._revision = 0
        self._fresh_until = float("-inf")
        self._wake = anyio.Event()
        self._reloading = anyio.Lock()

    def identify(self, text: str) -> Identity:
        """Whose key this is. Raises `Unauthenticated` with what to do about it."""
        held = self._held.get(text[:ID_END])
        if held is None or not hmac.compare_digest(secret_hash(text), held.key.secret_sha256):
            raise refused(fault(text) or "the API key is not known here: ask for one (`interlock keys create`)")
        if held.key.revoked_s:
            raise refused(f"API key {held.key.id} was revoked: ask for a new one")
        if 0 < held.key.expires_s <= self._clock_s():
            raise refused(f"API key {held.key.id} expired at {_iso(held.key.expires_s)}: ask for a new one")
        if self._monotonic_s() > self._fresh_until:
            raise self._stale()
        return held.identity

    def _stale(self) -> Unauthenticated:
        _log.error("API keys are refused: the state store has not answered for %.0f s", self._max_stale_s)
        return refused("API keys cannot be checked at the moment: try again later")

    async def refresh(self) -> bool:
        """Read what changed; `True` when something did. Raises what the store raises, `TimeoutError` included."""
        with anyio.fail_after(_ANSWER_S):
            async with self._reloading:
                asked_s = self._monotonic_s()
                revision = await self._store.revision()  # read first, so that a change in between is read again
                changed = revision != self._revision
                if changed:
                    self._held = {f"{PREFIX}{key.id}_": _Held(key, _identity(key)) for key in await self._store.keys()}
                    self._revision = revision
                self._fresh_until = asked_s + self._max_stale_s
                return changed

    async def revoke(self, key_id: str) -> bool:
        """Revoke a key: in this process at once, elsewhere within a poll. `False` when it was not valid anyway."""
        with anyio.fail_after(_ANSWER_S):
            done = await self._store.revoke_key(key_id, int(self._clock_s()))
        await self.refresh()
        return done

    def notify(self) -> None:
        """Look at the store now instead of at the next poll."""
        self._wake.set()

    async def run(self) -> None:
        """Follow the store until cancelled. A store that fails is asked again at the next poll."""
        while True:
            try:
                await self.refresh()
            except (InterlockError, TimeoutError) as exc:
                _log.warning("the state store did not answer, keeping the API keys known so far: %s", exc)
            with anyio.move_on_after(self._poll_s):
                await self._wake.wait()
            self._wake = anyio.Event()


def _identity(key: ApiKey) -> Identity:
    return Identity(
        subject=Entity(key.subject_type, key.subject_id),
        tenant=key.tenant,
        roles=key.roles,
        scopes=key.scopes,
        method="api_key",
        credential_id=key.id,
    )


def _iso(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat()
