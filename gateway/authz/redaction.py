"""Taking out of a result what the caller may not see (obligation `redact`).

A path is followed from the result itself, from its `structuredContent` and from every text in it that is JSON, since
servers send the same value in several of these places. What a pattern names is taken out of every text and key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from gateway import codec
from gateway.authz.obligations import Redact
from gateway.authz.paths import JsonPath, replace_at
from gateway.authz.patterns import PATTERNS, REDACTED

MAX_BYTES: Final = 4 << 20
MAX_DEPTH: Final = 128


class CannotRedact(Exception):
    """The result cannot be read, so nothing can be taken out of it; it is withheld."""


def redacted(payload: bytes, redaction: Redact) -> bytes:
    """The payload without what the obligation names. Raises `CannotRedact`."""
    if len(payload) > MAX_BYTES:
        raise CannotRedact(f"the result is larger than the {MAX_BYTES} bytes that can be redacted")
    try:
        value: object = codec.loads(payload)
    except ValueError as exc:
        raise CannotRedact("the result is not JSON") from exc
    if redaction.paths:
        value = _without_paths(value, redaction.paths)
    for name in redaction.patterns:
        value = _mapped(value, PATTERNS[name], MAX_DEPTH)
    return codec.dumps(value)


def _without_paths(value: object, paths: Sequence[JsonPath]) -> object:
    _cut(value, paths)
    if isinstance(value, dict):
        _cut(value.get("structuredContent"), paths)
    return _mapped(value, lambda text: _without_paths_in_text(text, paths), MAX_DEPTH)


def _cut(value: object, paths: Sequence[JsonPath]) -> bool:
    """Replace what the paths reach, in place; say whether that was anything."""
    changes = [replace_at(value, path, lambda _: REDACTED) for path in paths]
    return True in changes


def _without_paths_in_text(text: str, paths: Sequence[JsonPath]) -> str:
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        value = codec.loads(text.encode())
    except ValueError:
        return text
    return codec.dumps(value).decode() if _cut(value, paths) else text


def _mapped(value: object, change: Callable[[str], str], depth: int) -> object:
    """The value with every text in it changed, names of members included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict | list) and depth == 0:
        raise CannotRedact(f"the result is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {change(key): _mapped(item, change, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change, depth - 1) for item in value]
    return value
