"""JSON as Interlock reads and writes it.

`orjson` does the work. Integers beyond 64 bits, which it would silently turn into floats, take the
standard library's slower path, so that a number reaches the upstream as the client wrote it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final, TypeAlias

import orjson

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = "dict[str, JsonValue]"

_DIGITS_AS_ZEROS: Final = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_BIG_INTEGER: Final = b"0" * 19


def loads(data: bytes) -> JsonValue:
    """Decode one JSON text. Raises `ValueError` for anything that is not one (RFC 8259)."""
    if _BIG_INTEGER in data.translate(_DIGITS_AS_ZEROS):  # a tenth of what a regular expression costs
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


def encoded(data: bytes) -> object:
    """JSON that is encoded already, as a part of a value that `dumps` is to encode."""
    return orjson.Fragment(data)


def canonical(value: object) -> bytes:
    """Encode with sorted keys: equal values give equal bytes.

    For values made of objects, arrays, strings, booleans, null and integers below 2**53 this is RFC 8785.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode()


MAX_EXACT: Final = 2**53 - 1
"""The largest integer that every reader of JSON has exactly (RFC 8785 section 3.2.2.3, RFC 7493 section 2.2)."""


def jcs(value: object) -> bytes:
    """The one encoding that two parties who never spoke agree on (RFC 8785), for signatures over JSON.

    Raises `ValueError` for what has no such encoding: integers beyond 2**53 - 1, infinities, lone surrogates, and
    nesting that cannot be followed.
    """
    try:
        return "".join(_jcs(value)).encode()
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc


def _jcs(value: object) -> Iterator[str]:
    match value:
        case Mapping():
            members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be", "surrogatepass"))
            yield "{"
            for position, (name, inner) in enumerate(members):
                yield f"{',' if position else ''}{_text(name)}:"
                yield from _jcs(inner)
            yield "}"
        case list() | tuple():
            yield "["
            for position, inner in enumerate(value):
                yield "," if position else ""
                yield from _jcs(inner)
            yield "]"
        case _:
            yield _scalar(value)


def _scalar(value: object) -> str:
    match value:
        case None | bool() | str():
            return _text(value)
        case int() if abs(value) <= MAX_EXACT:
            return str(value)
        case float() if math.isfinite(value):
            return _number(value)
    raise ValueError("a value has no canonical form: it is not JSON, or a number that not every reader has exactly")


def _text(value: str | bool | None) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """As ECMAScript writes it (ECMA-262, `Number::toString`): the shortest digits that give the same number."""
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    text = "".join(map(str, digits)).rstrip("0")
    if not text:
        return "0"
    point = len(digits) + int(exponent)  # how many of the digits stand before the decimal point
    return ("-" if sign else "") + _placed(text, point)


def _placed(digits: str, point: int) -> str:
    if len(digits) <= point <= 21:
        return digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{point - 1:+d}"
