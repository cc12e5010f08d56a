"""Whether a definition is the one that was accepted: the judge that hides a tool whose definition changed.

A pin is the definition as first seen or last accepted. An item that differs from its pin is quarantined: hidden from
lists, refused when called, with the difference as the reason, until a person accepts the new definition.

What waits for a person is stored as a pin too, of kind `pending:<kind>`. It is open while its digest differs from the
pin's (or there is no pin), so that accepting it, or the upstream going back, closes it without a deletion.

Resources are not pinned: their list is data and changes with it. Their templates are.
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final, Literal, TypeAlias

from gateway import codec
from gateway.ports import Pin
from gateway.registry.catalog import Item
from gateway.registry.definitions import Kind

Mode: TypeAlias = Literal["first-use", "manual"]
"""What happens to a definition that was never seen: it is pinned, or it waits for a person."""

PINNED_KINDS: Final[frozenset[Kind]] = frozenset({"tool", "prompt", "template"})
PENDING: Final = "pending:"
FIRST_USE: Final = "first-use"
MAX_DIFF_LINES: Final = 200
MAX_DIFF_LINE: Final = 500
MAX_COMPARED_LINES: Final = 2_000

_Key: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`items` in the order given, each marked pinned or quarantined; `pins` to be stored *before* they are offered."""

    items: tuple[Item, ...]
    pins: tuple[Pin, ...] = ()

    @property
    def accepted(self) -> tuple[Item, ...]:
        """Those that may be shown and called."""
        return tuple(item for item in self.items if not item.quarantine)

    @property
    def quarantined(self) -> tuple[Item, ...]:
        """Those that wait for a person."""
        return tuple(item for item in self.items if item.quarantine)


@dataclass(frozen=True, slots=True)
class Pending:
    """A definition that waits for a person, beside the one in force (`None`: never seen before)."""

    candidate: Pin
    pin: Pin | None

    @property
    def kind(self) -> str:
        """The item's kind, without the mark of waiting."""
        return self.candidate.kind.removeprefix(PENDING)

    @property
    def diff(self) -> str:
        """What would change."""
        return difference(self.pin.definition if self.pin else b"", self.candidate.definition)


def judge(pins: Sequence[Pin], items: Sequence[Item], mode: Mode, *, now_s: int) -> Verdict:
    """Compare what an upstream offers with what was accepted of it."""
    known = {_key(pin): pin for pin in pins}
    judged = [_judge(known, item, mode, now_s) for item in items]
    return Verdict(tuple(item for item, _ in judged), tuple(pin for _, pin in judged if pin is not None))


def _judge(known: Mapping[_Key, Pin], item: Item, mode: Mode, now_s: int) -> tuple[Item, Pin | None]:
    if item.kind not in PINNED_KINDS:
        return replace(item, pinned=False, quarantine=""), None
    pin = known.get((item.upstream, item.kind, item.name))
    if pin is not None and pin.digest == item.digest:
        return replace(item, pinned=True, quarantine=""), _closing(known, pin)
    if pin is None and mode == FIRST_USE:
        return replace(item, pinned=True, quarantine=""), _pin_of(item, item.kind, FIRST_USE, now_s)
    reason = difference(pin.definition if pin else b"", item.pinned_part) or "the digest differs from the pin's"
    candidate = _pin_of(item, PENDING + item.kind, "", 0)
    return replace(item, pinned=False, quarantine=reason), _unless_known(known, candidate)


def _closing(known: Mapping[_Key, Pin], pin: Pin) -> Pin | None:
    candidate = known.get((pin.upstream, PENDING + pin.kind, pin.name))
    if candidate is None or candidate.digest == pin.digest:
        return None
    return replace(candidate, digest=pin.digest, definition=pin.definition)


def _unless_known(known: Mapping[_Key, Pin], candidate: Pin) -> Pin | None:
    stored = known.get(_key(candidate))
    return None if stored is not None and stored.digest == candidate.digest else candidate


def _pin_of(item: Item, kind: str, accepted_by: str, accepted_s: int) -> Pin:
    return Pin(item.upstream, kind, item.name, item.digest, item.pinned_part, accepted_by, accepted_s)


def _key(pin: Pin) -> _Key:
    return (pin.upstream, pin.kind, pin.name)


def pending(pins: Sequence[Pin]) -> tuple[Pending, ...]:
    """What waits for a person among the pins of an upstream, by kind and name."""
    known = {_key(pin): pin for pin in pins}
    found = []
    for candidate in sorted(pins, key=_key):
        if not candidate.kind.startswith(PENDING):
            continue
        pin = known.get((candidate.upstream, candidate.kind.removeprefix(PENDING), candidate.name))
        if pin is None or pin.digest != candidate.digest:
            found.append(Pending(candidate, pin))
    return tuple(found)


def accept(waiting: Pending, *, by: str, now_s: int) -> Pin:
    """The pin that puts exactly this candidate in force. Raises `ValueError` unless a person is named."""
    if not by:
        raise ValueError("a definition is accepted by somebody")
    return replace(waiting.candidate, kind=waiting.kind, accepted_by=by, accepted_s=now_s)


def difference(before: bytes, after: bytes) -> str:
    """A unified diff of two definitions as indented JSON; what cannot be seen is written as an escape.

    At most 200 lines of 500 characters, from the first 2,000 lines that can differ: people read the text, and the
    upstream chooses how long it is and how hard to compare.
    """
    old, new = _comparable(_indented(before), _indented(after))
    lines = list(difflib.unified_diff(old, new, "accepted" if before else "(none)", "offered", lineterm=""))
    shown = [_shown(line) for line in lines[:MAX_DIFF_LINES]]
    if len(lines) > MAX_DIFF_LINES:
        shown.append(f"… {len(lines) - MAX_DIFF_LINES} more lines")
    return "\n".join(shown)


def _indented(definition: bytes) -> list[str]:
    if not definition:
        return []
    return json.dumps(codec.loads(definition), indent=2, ensure_ascii=False, sort_keys=True).split("\n")


def _comparable(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    if max(len(old), len(new)) <= MAX_COMPARED_LINES:
        return old, new
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    start = max(0, same - 3)  # three lines of context, as in the rest of the diff
    end = start + MAX_COMPARED_LINES
    return old[start:end], new[start:end]


def _shown(line: str) -> str:
    cut = line if len(line) <= MAX_DIFF_LINE else line[:MAX_DIFF_LINE] + "…"
    return "".join(map(_visible, cut))


def _visible(char: str) -> str:
    """Zero-width, bidirectional and control characters hide text from the person who has to judge it."""
    if char == " " or unicodedata.category(char)[0] not in "CZ":
        return char
    point = ord(char)
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"
