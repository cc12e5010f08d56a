"""Secrets of push notification configurations, encrypted for as long as the configuration lives.

A sealed text is `version (1) | salt (16) | nonce (12) | AES-256-GCM ciphertext and tag`. Each has a key of its own,
derived (HKDF-SHA256) from the deployment's secret, the salt and what the text belongs to, so no count of random nonces
has to be kept. What it belongs to is authenticated as well: moved to another record, it does not open.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway import codec

_PURPOSE: Final = "interlock push 1"
_VERSION: Final = b"\x01"
_SALT_END: Final = 17
_NONCE_END: Final = 29


class PushSealer:
    """Seals with the first key and opens with any, so that keys can be rotated. Keys have 32 bytes."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != 32 for key in keys):
            raise ValueError("sealing needs at least one key, each of 32 bytes")
        self._keys = tuple(keys)

    def seal(self, plain: bytes, bound: Sequence[str]) -> bytes:
        """What `open` turns back into `plain`, for the same `bound` only."""
        salt, nonce = os.urandom(16), os.urandom(12)
        head = _VERSION + salt + nonce
        return head + _cipher(self._keys[0], salt, bound).encrypt(nonce, plain, head)

    def open(self, sealed: bytes, bound: Sequence[str]) -> bytes:
        """What was sealed. Raises `ValueError` for what was changed, or belongs to something else."""
        if sealed[:1] != _VERSION or len(sealed) < _NONCE_END:
            raise ValueError("not a sealed text of this version")
        head, salt, nonce = sealed[:_NONCE_END], sealed[1:_SALT_END], sealed[_SALT_END:_NONCE_END]
        for key in self._keys:
            try:
                return _cipher(key, salt, bound).decrypt(nonce, sealed[_NONCE_END:], head)
            except InvalidTag:
                continue
        raise ValueError("changed, sealed with another key, or of another record")


def _cipher(key: bytes, salt: bytes, bound: Sequence[str]) -> AESGCM:
    info = codec.canonical([_PURPOSE, *bound])
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key))
