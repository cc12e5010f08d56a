"""JSON as Interlock reads and writes it.

`orjson` does the work. Integers beyond 64 bits, which it would silently turn into floats, take the
standard library's slower path, so that a number reaches the upstream as the client wrote it.
"""

from __future__ import annotations

import json
import re
from typing import TypeAlias

import orjson

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = "dict[str, JsonValue]"

_BIG_INTEGER = re.compile(rb"[0-9]{19}")


def loads(data: bytes) -> JsonValue:
    """Decode one JSON text. Raises `ValueError` for anything that is not one (RFC 8259)."""
    if _BIG_INTEGER.search(data):
        return _loads_exactly(data)
    value: JsonValue = orjson.loads(data)
    return value


def _loads_exactly(data: bytes) -> JsonValue:
    orjson.loads(data)  # strict first: the standard library accepts NaN and lone surrogates
    try:
        value: JsonValue = json.loads(data)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    return value


def dumps(value: object) -> bytes:
    """Encode to compact UTF-8 JSON, keys in the order given."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def canonical(value: object) -> bytes:
    """Encode with sorted keys: equal values give equal bytes.

    For values made of objects, arrays, strings, booleans, null and integers below 2**53 this is RFC 8785.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode()
