"""The API key as text: `ilk_<id>_<secret><checksum>`.

The secret is 256 random bits in base62. Only its SHA-256 is kept, which is enough because there is nothing to
guess: slow hashes are for passwords that people choose. The checksum tells a mistyped key from an unknown one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Callable, Sequence
from typing import Final

from gateway.ports import ApiKey
from gateway.types import Entity

PREFIX: Final = "ilk_"
ID_END: Final = 17
"""Where `ilk_<id>_` ends; the secret with its checksum follows."""

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(r"ilk_[0-9a-f]{12}_[0-9A-Za-z]{49}")
_SECRET_BYTES: Final = 32
_SECRET_LENGTH: Final = 43
"""Base62 digits that 256 bits need."""
_CHECKSUM_LENGTH: Final = 6


def mint(  # one argument per field of a key
    subject: Entity,
    *,
    now_s: int,
    roles: Sequence[str] = (),
    scopes: Sequence[str] = (),
    tenant: str = "",
    expires_s: int = 0,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
) -> tuple[ApiKey, str]:
    """A new key: what is kept of it, and the text that its owner sees once. `expires_s` is a time; 0 is never."""
    key_id = entropy(6).hex()
    secret = _base62(int.from_bytes(entropy(_SECRET_BYTES)), _SECRET_LENGTH)
    text = f"{PREFIX}{key_id}_{secret}"
    text += _checksum(text)
    key = ApiKey(
        key_id,
        secret_hash(text),
        subject.type,
        subject.id,
        tenant=tenant,
        roles=tuple(roles),
        scopes=tuple(scopes),
        created_s=now_s,
        expires_s=expires_s,
    )
    return key, text


def secret_hash(text: str) -> bytes:
    """What the store holds instead of the secret."""
    return hashlib.sha256(text[ID_END:].encode()).digest()


def fault(text: str) -> str:
    """Why a text cannot be any key of ours, in words for its owner; "" when it could be one."""
    if _SHAPE.fullmatch(text) is None:
        return "the API key is cut or has something added: copy all of it again"
    if _checksum(text[:-_CHECKSUM_LENGTH]) != text[-_CHECKSUM_LENGTH:]:
        return "the API key is mistyped (its checksum does not match): copy it again"
    return ""


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return digits
