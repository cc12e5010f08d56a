"""Taking out of a result what the caller may not see (obligation `redact`).

A path is followed from the result itself, from its `structuredContent` and from every text in it that is JSON, since
servers send the same value in several of these places. What a pattern names or a detector finds is taken out of every
text and key; detectors also look into texts that are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final

from gateway import codec
from gateway.authz.findings import MAX_NESTED, json_in, text_of
from gateway.authz.obligations import Redact
from gateway.authz.paths import JsonPath, replace_at
from gateway.authz.patterns import PATTERNS, REDACTED, merged, without
from gateway.ports import Detector

MAX_BYTES: Final = 4 << 20
MAX_DEPTH: Final = 128
MAX_PASSES: Final = 4
"""What is left of a text may look like a secret again; after so many times all of it goes."""


class CannotRedact(Exception):
    """The result cannot be read, so nothing can be taken out of it; it is withheld."""


def redacted(payload: bytes, redaction: Redact, detectors: Sequence[Detector] = ()) -> bytes:
    """The payload without what the obligation names. Raises `CannotRedact`, also where it names other detectors."""
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
    if redaction.detectors:
        value = _Eraser(redaction, detectors).erased(value, "", MAX_DEPTH, MAX_NESTED)
    return codec.dumps(value)


class _Eraser:
    """Takes out what detectors find; objects, lists and their sizes stay as they are."""

    def __init__(self, redaction: Redact, detectors: Sequence[Detector]) -> None:
        self._detectors = [detector for detector in detectors if detector.kind in redaction.detectors]
        if {detector.kind for detector in self._detectors} != set(redaction.detectors):
            raise CannotRedact("there is no detector for something that is to be taken out")
        self._instead = REDACTED if redaction.mode == "mask" else ""

    def erased(self, value: object, name: str, depth: int, nested: int) -> object:
        if isinstance(value, dict | list) and depth == 0:
            raise CannotRedact(f"the result is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            return self._members(value, depth, nested)
        if isinstance(value, list):
            return [self.erased(item, name, depth - 1, nested) for item in value]
        text = text_of(value)
        if text is None:
            return value
        clean = self._text(text, name, depth, nested)
        return value if clean == text else clean

    def _members(self, value: dict[str, object], depth: int, nested: int) -> dict[str, object]:
        members: dict[str, object] = {}
        for key, item in value.items():
            clean = self._clean(key, "") if text_of(key) else key
            number = 2
            while clean in members or (clean != key and clean in value):  # no member takes the place of another
                clean, number = f"{self._instead}{number}", number + 1
            members[clean] = self.erased(item, key, depth - 1, nested)
        return members

    def _text(self, text: str, name: str, depth: int, nested: int) -> str:
        inner = json_in(text) if nested else None
        if inner is not None:
            erased = self.erased(inner, name, depth, nested - 1)
            if erased != inner:
                text = _text_of_json(erased)
        return self._clean(text, name)

    def _clean(self, text: str, name: str) -> str:
        for _ in range(MAX_PASSES):
            found = [spotted for detector in self._detectors for spotted in detector.find(text, name)]
            if not found:
                return text
            text = without(text, merged((spotted.start, spotted.end) for spotted in found), self._instead)
        return self._instead


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
    value = json_in(text)
    return _text_of_json(value) if value is not None and _cut(value, paths) else text


def _text_of_json(value: object) -> str:
    try:
        return codec.dumps(value).decode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can stand for
        return json.dumps(value, separators=(",", ":"))


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
