"""Reads the JSON body of an HTTP answer, once, keeping the bytes of the result where they can go on as they are."""

from __future__ import annotations

import re
from typing import Final, cast

from adapters.upstreams.mcp.link import Object, Reply
from gateway import codec

# The two orders in which servers write the three members. Were a member written twice, the piece in between would
# not be one JSON value, and the whole is then read the slow way.
_HEAD: Final = re.compile(rb'\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*([0-9]{1,18})\s*,\s*"result"\s*:\s*')
_FIRST: Final = re.compile(rb'\{\s*"result"\s*:\s*')
_TAIL: Final = re.compile(rb'\s*,\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*([0-9]{1,18})\s*\}\s*\Z')
_TAIL_BYTES: Final = 96


def quick_reply(data: bytes, number: int) -> Reply | None:
    """The reply to request `number` if `data` is plainly that: a result on one line. `None` says to look closer."""
    if b"\n" in data or b"\r" in data:  # a line end inside would break the event that carries the result further
        return None
    head = _HEAD.match(data)
    if head is not None:
        return _reply(data[head.end() : -1], head.group(1), number) if data.endswith(b"}") else None
    first = _FIRST.match(data)
    start = max(0, len(data) - _TAIL_BYTES)
    tail = _TAIL.search(data, start) if first is not None else None
    if first is None or tail is None:
        return None
    return _reply(data[first.end() : tail.start()], tail.group(1), number)


def _reply(raw: bytes, answered: bytes, number: int) -> Reply | None:
    if int(answered) != number:
        return None
    try:
        result = codec.loads(raw)
    except ValueError:
        return None
    return Reply(result, raw=raw.strip()) if isinstance(result, dict) else None


def messages_in(data: bytes) -> list[Object]:
    """The JSON-RPC messages of a body or an event: one, or a batch (2025-03-26). Empty when it holds none."""
    try:
        value = codec.loads(data)
    except ValueError:
        return []
    items = value if isinstance(value, list) else [value]
    return [cast("Object", item) for item in items if isinstance(item, dict)]
