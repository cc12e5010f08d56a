"""Strict reading of what policy wrote: a value is of the expected shape, or the answer is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

MAX_TEXTS: Final = 256
MAX_TEXT: Final = 1_024


class UnsupportedObligation(Exception):
    """An obligation that cannot be carried out as written. The message names type and field, never a value."""


def fields_of(properties: object, allowed: frozenset[str], kind: str) -> Mapping[str, object]:
    """The properties of an obligation, none of them unknown."""
    if not isinstance(properties, Mapping):
        raise UnsupportedObligation(f"{kind}: properties must be an object")
    if not allowed.issuperset(properties):
        raise UnsupportedObligation(f"{kind}: only {', '.join(sorted(allowed))} may be given")
    return properties


def texts_of(value: object, what: str) -> tuple[str, ...]:
    """A list of non-empty strings (also one string alone). Absent is none."""
    if value is None:
        return ()
    items = (value,) if isinstance(value, str) else value
    if not isinstance(items, Sequence) or len(items) > MAX_TEXTS:
        raise UnsupportedObligation(f"{what} must be a list of at most {MAX_TEXTS} texts")
    for item in items:
        if not isinstance(item, str) or not 0 < len(item) <= MAX_TEXT:
            raise UnsupportedObligation(f"{what} must hold texts of 1 to {MAX_TEXT} characters")
    return tuple(items)


def whole_number(value: object, most: int, what: str) -> int:
    """An integer from 1 to `most`; `true` is none."""
    if type(value) is not int or not 1 <= value <= most:
        raise UnsupportedObligation(f"{what} must be a whole number from 1 to {most}")
    return value


def flag(value: object, what: str) -> bool:
    """True or false, and nothing that merely looks like it. Absent is false."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise UnsupportedObligation(f"{what} must be true or false")
    return value
