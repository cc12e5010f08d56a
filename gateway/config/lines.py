"""On which line of a TOML text each key stands, as far as a line-by-line look can tell.

`tomllib` keeps no positions. A key that is not found (inside an inline table) is given the line of the nearest
key around it, so that a fault is a little off rather than nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PART = r"""[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*'"""
_DOTTED = rf"(?:{_PART})(?:\s*\.\s*(?:{_PART}))*"
_HEADER = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")


def lines_in(text: str) -> Mapping[tuple[str, ...], int]:
    """The first line, from 1, of every table and key."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _parts(header[1])
            _note(found, table, number)
        elif assignment := _ASSIGNMENT.match(line):
            _note(found, table + _parts(assignment[1]), number)
    return found


def line_of(path: tuple[str | int, ...], lines: Mapping[tuple[str, ...], int]) -> int:
    """The line of that key or of the nearest thing around it; 0 when there is none."""
    names = tuple(part for part in path if isinstance(part, str))
    for end in range(len(names), 0, -1):
        if names[:end] in lines:
            return lines[names[:end]]
    return 0


def _note(found: dict[tuple[str, ...], int], path: tuple[str, ...], number: int) -> None:
    for end in range(1, len(path) + 1):
        found.setdefault(path[:end], number)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, text))
