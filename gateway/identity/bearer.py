"""Reads the one `Authorization` header of a request (RFC 6750 section 2.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.errors import Unauthenticated

MAX_BEARER: Final = 16_384
"""Longest credential that is looked at, in characters."""

_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)[ \t]*")


def bearer_of(values: Sequence[bytes]) -> str:
    """The credential in the values of a request's `Authorization` headers, or "" when there is none.

    Raises `Unauthenticated` for anything but one well-formed bearer credential: a request that tries to say who it
    is from is never taken for an anonymous one.
    """
    if not values:
        return ""
    if len(values) > 1:
        raise malformed("more than one Authorization header came with the request: send one")
    if len(values[0]) > MAX_BEARER:
        raise malformed(f"the Authorization header is longer than {MAX_BEARER} bytes")
    match = _BEARER.fullmatch(values[0])
    if match is None:
        raise malformed("the Authorization header is not `Bearer <API key or access token>`")
    return match[1].decode()


def malformed(message: str) -> Unauthenticated:
    """A credential that cannot even be read."""
    return Unauthenticated(message, challenge="invalid_request")


def refused(message: str) -> Unauthenticated:
    """A credential that was read and does not hold."""
    return Unauthenticated(message, challenge="invalid_token")
