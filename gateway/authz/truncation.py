"""Keeping a question within 256 KiB (policy contract, "Question"): over that, long texts become digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from gateway import codec
from gateway.errors import InputTooLarge
from gateway.types import MAX_LEAVES

MAX_BYTES: Final = 256 << 10
LONG_TEXT: Final = 4 << 10
RESERVED: Final = 48 << 10
"""What subject, action and context may take; credentials and headers are far smaller."""


def fits(*parts: object) -> bool:
    """Whether these parts of a question surely leave it within the limit."""
    return len(codec.dumps(parts)) <= MAX_BYTES - RESERVED


def digested(value: object) -> object:
    """The value with every text over 4 KiB replaced by its digest."""
    if isinstance(value, str):
        encoded = value.encode()
        return value if len(encoded) <= LONG_TEXT else "sha256:" + hashlib.sha256(encoded).hexdigest()
    if isinstance(value, Mapping):
        return {key: digested(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [digested(item) for item in value]
    return value


def sprawls(value: object) -> bool:
    """Whether there are more values in it than policy can be asked about."""
    return _count(value, MAX_LEAVES) < 0


def _count(value: object, left: int) -> int:
    """How many more values there may be; below 0 where there are too many."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else None
    if not items:
        return left - 1
    for item in items:
        left = _count(item, left)
        if left < 0:
            break
    return left


def outlined(members: Mapping[str, object]) -> dict[str, object]:
    """An object with a digest in place of every member that is over 4 KiB as JSON."""
    written = {name: codec.dumps(value) for name, value in members.items()}
    return {
        name: value if len(written[name]) <= LONG_TEXT else "sha256:" + hashlib.sha256(written[name]).hexdigest()
        for name, value in members.items()
    }


def check_size(question: Mapping[str, object]) -> None:
    """Raises `InputTooLarge` for a question over 256 KiB."""
    if len(codec.dumps(question)) > MAX_BYTES:
        raise InputTooLarge(f"the call is larger than the {MAX_BYTES} bytes that policy can be asked about")
