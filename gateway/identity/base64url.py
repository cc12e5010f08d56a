"""Base64url as tokens use it: no padding, and one spelling per value (RFC 7515 section 2)."""

from __future__ import annotations

import base64
import binascii


def encode(data: bytes) -> str:
    """Text that fits into a header, a URL or JSON without escaping."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """The bytes of exactly what `encode` gives. Raises `ValueError` for any other spelling.

    The standard library skips foreign characters and ignores stray bits at the end; two texts that mean the same
    are how a changed token stays valid.
    """
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as exc:
        raise ValueError("not base64url") from exc
    if encode(data) != text:
        raise ValueError("not base64url")
    return data
