"""The names that tools and prompts have in the merged view of all upstreams.

A name is a function of the upstream and the item's own name and of nothing else, so it keeps its target whatever
else comes or goes, and the order of arrival cannot matter. `upstream__name` is given when it can be read back in one
way only; everything else (a character that had to be replaced, a text longer than 64, an upstream whose own name
makes the border ambiguous) ends in `_` and eight digits of a hash over both original names. Plain and hashed names
cannot meet, because a plain one that looks hashed is hashed as well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final, TypeAlias

MAX_NAME: Final = 64
SEPARATOR: Final = "__"

_REPLACED: Final = re.compile(r"[^A-Za-z0-9_-]")
_PLAIN_UPSTREAM: Final = re.compile(r"(?!.*__)[A-Za-z0-9_-]*[A-Za-z0-9-]")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_LOOKS_HASHED: Final = re.compile(r"_(?:[0-9a-f]{8}){1,6}\Z")

Original: TypeAlias = tuple[str, str]
"""(upstream, the upstream's own name)."""


def merged_name(upstream: str, name: str, *, digits: int = 8) -> str:
    """The name in the merged view: at most 64 of `A-Z a-z 0-9 _ -`."""
    full = f"{upstream}{SEPARATOR}{name}"
    if _is_unambiguous(upstream, name, full):
        return full
    mark = hashlib.sha256(f"{upstream}\x00{name}".encode("utf-8", "surrogatepass")).hexdigest()[:digits]
    return f"{_REPLACED.sub('_', full)[: MAX_NAME - digits - 1]}_{mark}"


def _is_unambiguous(upstream: str, name: str, full: str) -> bool:
    return (
        len(full) <= MAX_NAME
        and _PLAIN_UPSTREAM.fullmatch(upstream) is not None
        and _PLAIN_NAME.fullmatch(name) is not None
        and _LOOKS_HASHED.search(full) is None
    )


def assign_names(originals: Iterable[Original]) -> dict[str, Original]:
    """The originals by their merged names.

    Two that share even their hash (2**-32, or an upstream that works at it) are told apart by a longer one; the
    lexicographically first keeps the short one. Each original has one name and each name one original.
    """
    names: dict[str, Original] = {}
    for original in sorted(set(originals)):
        digits = 8
        while (name := merged_name(*original, digits=digits)) in names:
            digits += 8
        names[name] = original
    return names
