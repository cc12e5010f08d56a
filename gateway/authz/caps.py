"""Keeping what a caller gets within a size (obligation `cap`): texts are cut and say so, anything else is withheld."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from typing import Final

from gateway import codec

NOTICE: Final = "\n[cut here: policy allows {most} bytes of this result]"
ENVELOPE: Final = 64
"""An answer of so few bytes has no content; the one that ends a stream is never in the way of what came before."""
MAX_CALLS: Final = 10_000
_HOLD_TEXTS: Final = (
    *("content", "contents", "messages", "resource"),  # MCP
    *("task", "message", "statusUpdate", "artifactUpdate", "status", "artifact", "artifacts", "history", "parts"),
)


class TooLarge(Exception):
    """More than may be handed out, and not because of its texts."""


class Volumes:
    """How many bytes of each call were handed out, so that a stream is held to its cap as a whole."""

    def __init__(self) -> None:
        self._given: OrderedDict[str, int] = OrderedDict()

    def left(self, call_id: str, most: int) -> int:
        """What may still be handed out."""
        return most - self._given.get(call_id, 0)

    def add(self, call_id: str, size: int) -> None:
        """So much more was handed out."""
        self._given[call_id] = self._given.pop(call_id, 0) + size
        if len(self._given) > MAX_CALLS:
            self._given.popitem(last=False)


def capped(payload: bytes, left: int, most: int) -> bytes:
    """The payload in `left` bytes; `most` is what policy says. Raises `TooLarge`."""
    if len(payload) <= max(left, ENVELOPE):
        return payload
    try:
        value: object = codec.loads(payload)
    except ValueError as exc:
        raise TooLarge from exc
    whole = codec.dumps(value)
    if len(whole) <= left:  # it was written with spaces
        return whole
    holders = _holders(value)
    texts = [str(holder["text"]) for holder in holders]
    for holder in holders:
        holder["text"] = ""
    _fill(holders, texts, left - len(codec.dumps(value)), NOTICE.format(most=most))
    return codec.dumps(value)


def _holders(value: object) -> list[dict[str, object]]:
    """The content blocks, messages and parts that are texts, in order. Structured content is not among them."""
    found: list[dict[str, object]] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(reversed(item))
        elif isinstance(item, dict):
            if isinstance(item.get("text"), str):
                found.append(item)
            waiting.extend(item[member] for member in reversed(_HOLD_TEXTS) if member in item)
    return found


def _fill(holders: list[dict[str, object]], texts: list[str], room: int, notice: str) -> None:
    """Give the texts back in order for as long as there is room; the one that is cut says so, the rest stay empty."""
    room -= _size(notice)
    if room < 0 or not holders:
        raise TooLarge
    at = 0
    while (size := _size(texts[at])) <= room:  # together they are too long, so that one of them ends this
        holders[at]["text"] = texts[at]
        room -= size
        at += 1
    text = texts[at]
    end = bisect_right(range(len(text)), room, key=lambda end: _size(text[:end])) - 1
    holders[at]["text"] = text[:end] + notice


def _size(text: str) -> int:
    """How long a text is in JSON, without its quotes."""
    return len(codec.dumps(text)) - 2
