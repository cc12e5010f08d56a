"""What detectors find in arguments and results, as rules read it: never the text, only what it is and where.

The work is bounded. What was not looked at is a finding too (`unscanned`), so that a rule can refuse it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from gateway import codec
from gateway.ports import Detector

MAX_TEXT_BYTES: Final = 256 << 10
MAX_TEXTS: Final = 2_000
MAX_DEPTH: Final = 128
MAX_NESTED: Final = 2
"""How often JSON in a text in JSON is looked into; deeper, it is a text like any other."""
MAX_FINDINGS: Final = 50
MAX_POINTER: Final = 256
MAX_READ_BYTES: Final = 4 << 20
SHORT: Final = 6
"""Texts of fewer characters hold neither a secret nor an address."""
LONG_NUMBER: Final = 10**11
"""Numbers from here on may be those of a card."""
KINDS: Final = frozenset({"personal_data", "secret"})
"""What a rule may ask detectors for (obligation `redact`)."""
UNSCANNED: Final = "unscanned"

Finding: TypeAlias = dict[str, str]


@dataclass(frozen=True, slots=True)
class _Told:
    """A text of a JSON value: where it is, and the name of the member that holds it."""

    pointer: str
    name: str
    text: str
    inner: bool
    """Whether it is in JSON that is a text itself."""


class _TooMuch(Exception):
    """More than there is time for; the pointer says where."""

    def __init__(self, pointer: str) -> None:
        super().__init__(pointer)
        self.pointer = pointer


def unscanned(pointer: str = "") -> Finding:
    """The finding that stands for all that was not looked at, from `pointer` on (empty: nothing was)."""
    return {"kind": UNSCANNED, "detector": "", "path": pointer[:MAX_POINTER]}


def findings_in(value: object, detectors: Sequence[Detector]) -> list[Finding]:
    """What is in a JSON value, each thing once per place; the paths are JSON pointers (RFC 6901) into it.

    At most 256 KiB of text in 2,000 different texts, 128 levels and 50 findings: beyond that, and with no detectors at
    all, the last one is `unscanned`.
    """
    if not detectors:
        return [unscanned()]
    found: dict[tuple[str, str, str], Finding] = {}
    try:
        for finding in _Search(detectors).findings(value):
            found[finding["kind"], finding["detector"], finding["path"]] = finding
            if len(found) > MAX_FINDINGS:
                raise _TooMuch(finding["path"])
    except _TooMuch as exc:
        return [*list(found.values())[:MAX_FINDINGS], unscanned(exc.pointer)]
    return list(found.values())


def findings_in_json(payload: bytes, detectors: Sequence[Detector]) -> list[Finding]:
    """As `findings_in`, of a result as it came. What is not JSON or over 4 MiB is `unscanned`."""
    if len(payload) > MAX_READ_BYTES:
        return [unscanned()]
    try:
        return findings_in(codec.loads(payload), detectors)
    except ValueError:
        return [unscanned()]


class _Search:
    """One pass over a value: what it may still look at, and what it has seen."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = detectors
        self._left = MAX_TEXT_BYTES
        self._seen: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def findings(self, value: object) -> Iterator[Finding]:
        for told in self._texts(value, "", "", MAX_DEPTH, MAX_NESTED):
            for kind, detector in self._looked_at(told):
                yield {"kind": kind, "detector": detector, "path": told.pointer[:MAX_POINTER]}

    def _looked_at(self, told: _Told) -> list[tuple[str, str]]:
        key = (told.name, told.text)
        known = self._seen.get(key)
        if known is not None:
            return known
        self._left -= 0 if told.inner else len(told.text)  # the text around it is counted
        if self._left < 0 or len(self._seen) == MAX_TEXTS:
            raise _TooMuch(told.pointer)
        found = [(each.kind, spot.detector) for each in self._detectors for spot in each.find(told.text, told.name)]
        self._seen[key] = found
        return found

    def _texts(self, value: object, pointer: str, name: str, depth: int, nested: int) -> Iterator[_Told]:
        """Every text that is long enough to say something, names of members and the texts of JSON in a text too."""
        if depth < 0:
            raise _TooMuch(pointer)
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from self._names(key, pointer, nested)
                yield from self._texts(item, f"{pointer}/{self._step(key)}", key, depth - 1, nested)
        elif isinstance(value, list | tuple):
            for at, item in enumerate(value):
                yield from self._texts(item, f"{pointer}/{at}", name, depth - 1, nested)
        elif (text := text_of(value)) is not None:
            inner = nested < MAX_NESTED
            yield _Told(pointer, name, text, inner)
            if nested and (value := json_in(text)) is not None:
                yield from (replace(told, pointer=pointer) for told in self._texts(value, "", name, depth, nested - 1))

    def _names(self, key: str, pointer: str, nested: int) -> Iterator[_Told]:
        if len(key) >= SHORT:
            yield _Told(pointer, "", key, nested < MAX_NESTED)

    def _step(self, key: str) -> str:
        """A name as a step of a pointer; one that holds something is not repeated in the question."""
        if self._seen.get(("", key)):
            return "*"
        return key.replace("~", "~0").replace("/", "~1")


def text_of(value: object) -> str | None:
    """A text, or a number, that is long enough to say anything; `None` for the rest."""
    if isinstance(value, str):
        return value if len(value) >= SHORT else None
    if isinstance(value, int) and abs(value) >= LONG_NUMBER:
        return str(value)
    return None


def json_in(text: str) -> object:
    """The object or array that a text is; `None` where it is none.

    What only most parsers read counts too (NaN, half of a surrogate pair): whoever gets the text may have such a one.
    """
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return codec.loads(text.encode())
    except ValueError:
        return _loosely(text)


def _loosely(text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value
