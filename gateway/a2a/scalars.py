"""Single values as ProtoJSON writes them: each reader checks one and gives its canonical form."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from gateway.a2a.malformed import Malformed

Reader: TypeAlias = Callable[[object, str], object]
"""Takes a value beside its path in the request. Raises `Malformed`, which names the path and not the value."""

MAX_ID: Final = 512
RESERVED_ENDS: Final = (":cancel", ":subscribe")
"""An id that ends so would be another operation once it stands in a path (specification, section 11.3.2)."""

_INT32: Final = 2**31
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,9})")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])(\.[0-9]{1,9})?"
    r"(?:Z|([+-])((?:0[0-9]|1[0-9]|2[0-3])):([0-5][0-9]))"
)


def text(value: object, path: str) -> str:
    """A string."""
    if isinstance(value, str):
        return value
    raise Malformed(f"{path}: must be a string")


def identifier(value: object, path: str) -> str:
    """An opaque id that can be logged, stored and put into a path; empty stands for none."""
    name = text(value, path)
    if len(name) > MAX_ID or not name.isprintable():
        raise Malformed(f"{path}: must have at most {MAX_ID} characters, all of them printable")
    if name in {".", ".."} or name.endswith(RESERVED_ENDS):
        raise Malformed(f"{path}: '.', '..' and ids ending in ':cancel' or ':subscribe' cannot stand in a path")
    return name


def some_identifier(value: object, path: str) -> str:
    """An id in a list of ids, where an empty one stands for nothing."""
    name = identifier(value, path)
    if name:
        return name
    raise Malformed(f"{path}: must not be empty")


def boolean(value: object, path: str) -> bool:
    """`true` or `false`."""
    if isinstance(value, bool):
        return value
    raise Malformed(f"{path}: must be true or false")


def int32(low: int = -_INT32, high: int = _INT32 - 1) -> Reader:
    """A number without a fraction; ProtoJSON also lets it stand in quotes."""

    def read(value: object, path: str) -> int:
        number = _whole(value)
        if number is None or not low <= number <= high:
            raise Malformed(f"{path}: must be a whole number from {low} to {high}")
        return number

    return read


def _whole(value: object) -> int | None:
    if isinstance(value, str):
        return int(value) if _INTEGER.fullmatch(value) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def base64(value: object, path: str) -> str:
    """Bytes. Both alphabets are read, padded or not; the standard one with padding is written (RFC 4648 section 4)."""
    written = text(value, path)
    plain = written.translate(_URL_SAFE) if "-" in written or "_" in written else written
    if plain is not written and ("+" in written or "/" in written):
        raise Malformed(f"{path}: mixes two base64 alphabets; use the standard one")
    bare = plain.rstrip("=")
    padding = len(plain) - len(bare)
    if padding > 2 or (padding and len(plain) % 4):
        raise Malformed(f"{path}: is wrongly padded base64")
    try:
        decoded = binascii.a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True)
    except ValueError as exc:
        raise Malformed(f"{path}: must be base64 without spaces or line breaks") from exc
    return binascii.b2a_base64(decoded, newline=False).decode("ascii")


def timestamp(value: object, path: str) -> str:
    """A moment (RFC 3339), written in UTC as section 5.6.1 of the specification wants it."""
    match = _TIMESTAMP.fullmatch(text(value, path))
    fault = Malformed(f"{path}: must be a timestamp such as 2026-01-31T10:30:00.000Z")
    if match is None:
        raise fault
    base, fraction, sign, hours, minutes = match.groups()
    try:
        moment = datetime.fromisoformat(base).replace(tzinfo=UTC)
        if sign:
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            moment = moment - offset if sign == "+" else moment + offset
    except (ValueError, OverflowError) as exc:
        raise fault from exc
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + (fraction or "") + "Z"


def any_value(value: object, _path: str) -> object:
    """Any JSON value, untouched."""
    return value


def free_object(value: object, path: str) -> object:
    """A free-form object, untouched: nobody's names but the peers'."""
    if isinstance(value, dict):
        return value
    raise Malformed(f"{path}: must be an object")


def one_of(names: Sequence[str]) -> Reader:
    """An enum by its names; the first one stands for none and is read as empty."""
    known = frozenset(names)
    listed = ", ".join(names[1:])

    def read(value: object, path: str) -> str:
        if not isinstance(value, str) or value not in known:
            raise Malformed(f"{path}: must be one of {listed}")
        return "" if value == names[0] else value

    return read


def many(read_one: Reader) -> Reader:
    """A list of values of one kind."""

    def read(value: object, path: str) -> list[object]:
        if not isinstance(value, (list, tuple)):
            raise Malformed(f"{path}: must be a list")
        return [read_one(item, f"{path}[{at}]") for at, item in enumerate(value)]

    return read
