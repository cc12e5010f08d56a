"""Makes the API keys that a first run and its demonstration need; only their hashes are kept."""

from __future__ import annotations

import getpass
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from adapters.stores.sql import SqlStore, open_store
from gateway.config import Settings
from gateway.identity.keys import mint
from gateway.types import Entity

ROLE: Final = "developer"
DEMONSTRATION_TTL_S: Final = 600
DEMONSTRATION_IDS: Final = ("de0000000001", "de0000000002")


@dataclass(frozen=True, slots=True)
class Keys:
    """Two short-lived keys for the demonstration, and the person's own, which is there on a first run only."""

    developer: str = ""
    admin: str = ""
    first: str = ""
    nobody: bool = False
    """Whether no key, issuer or anonymous subject lets anybody in."""


async def prepare_keys(settings: Settings, *, demo: bool) -> Keys:
    """Put the demonstration's keys into the state before the gateway reads it, and a first one where there is none."""
    now_s = int(time.time())
    async with opened(settings) as store:
        known = any(key.id not in DEMONSTRATION_IDS for key in await store.keys())
        if not demo:
            return Keys(nobody=not (known or settings.identity.anonymous or settings.identity.issuers))
        first = "" if known else await _first_key(store, now_s)
        developer, admin = [
            await _demonstration_key(store, key_id, role, now_s)
            for key_id, role in zip(DEMONSTRATION_IDS, (ROLE, "admin"), strict=True)
        ]
    return Keys(developer, admin, first)


async def _first_key(store: SqlStore, now_s: int) -> str:
    kept, text = mint(Entity("user", f"user:{getpass.getuser()}"), now_s=now_s, roles=[ROLE])
    await store.put_key(kept)
    return text


async def _demonstration_key(store: SqlStore, key_id: str, role: str, now_s: int) -> str:
    kept, text = mint(
        Entity("agent", f"agent:demonstration-{role}"),
        now_s=now_s,
        roles=[role],
        expires_s=now_s + DEMONSTRATION_TTL_S,
        entropy=partial(_entropy, bytes.fromhex(key_id)),
    )
    await store.put_key(kept)
    return text


def _entropy(key_id: bytes, count: int) -> bytes:
    """Fixed ids for the keys of the demonstration, so that each start replaces the last one's; secrets are random."""
    return key_id if count == len(key_id) else secrets.token_bytes(count)


async def withdraw_keys(settings: Settings) -> None:
    """Revoke the demonstration's keys; they would expire soon anyway."""
    async with opened(settings) as store:
        for key_id in DEMONSTRATION_IDS:
            await store.revoke_key(key_id, int(time.time()))


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[SqlStore]:
    """The state that these settings name."""
    store = await open_store(settings.state.address(), data_dir=settings.state.dir, clock_s=time.time)
    try:
        yield store
    finally:
        await store.aclose()
