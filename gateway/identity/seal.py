"""State that a client carries for us: encrypted, expiring, and of use only to the principal it was made for.

Session ids of legacy MCP, `requestState` (MCP 2026-07-28, patterns/mrtr) and pagination cursors are such texts, so
that any replica that knows the key can go on where another stopped.

A text is base64url of `version (1) | expiry in s (8) | nonce (12) | AES-256-GCM ciphertext and tag`. Purpose,
audience, expiry and principal are authenticated with it. The encryption key is derived (HKDF-SHA256) per purpose
and day of expiry, which keeps the random nonces of one key far below the 2**32 that NIST SP 800-38D allows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway import codec
from gateway.codec import JsonValue
from gateway.errors import InvalidCall
from gateway.identity import base64url

MAX_TTL_S: Final = 30 * 86_400
MAX_SEALED: Final = 65_536
"""Longest sealed text, in characters."""

_VERSION: Final = b"\x01"
_NONCE_END: Final = 21
_DAY_S: Final = 86_400


class Sealer:
    """Seals with the first key and opens with any, so that keys can be rotated. Keys have 32 bytes."""

    def __init__(self, keys: Sequence[bytes], audience: str) -> None:
        if not keys or any(len(key) != 32 for key in keys):
            raise ValueError("sealing needs at least one key, each of 32 bytes")
        self._count = len(keys)
        self._audience = audience

        @lru_cache(maxsize=256)
        def cipher(index: int, purpose: str, day: int) -> AESGCM:
            info = _join("interlock seal 1", audience, purpose, str(day))
            return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(keys[index]))

        self._cipher = cipher

    def seal(self, purpose: str, value: object, *, principal: str, ttl_s: int, now_s: float) -> str:
        """A text that `open` turns back into the JSON value for this purpose and principal, for `ttl_s` seconds.

        Raises `ValueError` when the value is too large or is to live longer than 30 days.
        """
        if not 0 < ttl_s <= MAX_TTL_S:
            raise ValueError(f"sealed state lives for 1 to {MAX_TTL_S} seconds, not {ttl_s}")
        expires_s = int(now_s) + ttl_s
        head = _VERSION + expires_s.to_bytes(8) + os.urandom(12)
        cipher = self._cipher(0, purpose, expires_s // _DAY_S)
        sealed = cipher.encrypt(head[9:], codec.dumps(value), self._bound(head, purpose, principal))
        text = base64url.encode(head + sealed)
        if len(text) > MAX_SEALED:
            raise ValueError(f"the {purpose} is too large to be sealed")
        return text

    def open(self, purpose: str, token: str, *, principal: str, now_s: float) -> JsonValue:
        """The value that was sealed. Raises `InvalidCall` for a changed, foreign or expired text."""
        data = _decoded(purpose, token)
        expires_s = int.from_bytes(data[1:9])
        if expires_s > now_s + MAX_TTL_S:  # also bounds for how many days a stranger can make us derive keys
            raise _foreign(purpose)
        if expires_s <= now_s:
            raise InvalidCall(f"the {purpose} has expired: start again without it")
        bound = self._bound(data[:_NONCE_END], purpose, principal)
        return codec.loads(self._decrypt(purpose, data, bound, expires_s // _DAY_S))

    def _decrypt(self, purpose: str, data: bytes, bound: bytes, day: int) -> bytes:
        for index in range(self._count):
            try:
                return self._cipher(index, purpose, day).decrypt(data[9:_NONCE_END], data[_NONCE_END:], bound)
            except InvalidTag:
                continue
        raise _foreign(purpose)

    def _bound(self, head: bytes, purpose: str, principal: str) -> bytes:
        return head + _join(self._audience, purpose, principal)


def _decoded(purpose: str, token: str) -> bytes:
    if len(token) > MAX_SEALED:
        raise _foreign(purpose)
    try:
        data = base64url.decode(token)
    except ValueError as exc:
        raise _foreign(purpose) from exc
    if len(data) < _NONCE_END or data[:1] != _VERSION:
        raise _foreign(purpose)
    return data


def _foreign(purpose: str) -> InvalidCall:
    return InvalidCall(f"the {purpose} was not given to you by this gateway, or was changed: start again without it")


def _join(*parts: str) -> bytes:
    """Each part with its length, so that no two lists of parts give the same bytes."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(len(part).to_bytes(4) + part for part in encoded)
