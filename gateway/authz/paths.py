"""Paths into a JSON value: the part of JSONPath (RFC 9535) that obligations may use.

`$`, names (`.name`, `['any name']`), indexes (`[0]`) and the wildcard (`[*]`, `.*`). No filter, no slice and no
descent: what a path can reach is read off it, and following it costs no more than the value is large.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

MAX_STEPS: Final = 32
MAX_TEXT: Final = 512

_STEP: Final = re.compile(
    r"""\.(?P<name>[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_\-\u0080-\U0010ffff]*)
      | \['(?P<single>[^'\\\[\]]+)'\]
      | \["(?P<double>[^"\\\[\]]+)"\]
      | \[(?P<index>0|[1-9][0-9]{0,8})\]
      | (?P<every>\[\*\]|\.\*)""",
    re.VERBOSE,
)


class Wildcard(Enum):
    """Every member of an object, every item of an array."""

    EVERY = "*"


Step: TypeAlias = str | int | Wildcard


@dataclass(frozen=True, slots=True)
class JsonPath:
    """A parsed path; `text` is how it was written."""

    text: str
    steps: tuple[Step, ...]


def parse_path(text: str) -> JsonPath:
    """Read a path. Raises `ValueError` for anything beyond the subset above, and for `$` alone."""
    if len(text) > MAX_TEXT or not text.startswith("$"):
        raise ValueError("a path starts with $ and has at most 512 characters")
    steps: list[Step] = []
    at = 1
    while at < len(text):
        found = _STEP.match(text, at)
        if found is None or len(steps) == MAX_STEPS:
            raise ValueError(f"a path has at most {MAX_STEPS} steps, each .name, ['name'], [0] or [*]")
        steps.append(_step(found))
        at = found.end()
    if not steps:
        raise ValueError("a path names something below $")
    return JsonPath(text, tuple(steps))


def _step(found: re.Match[str]) -> Step:
    if found["every"]:
        return Wildcard.EVERY
    if found["index"]:
        return int(found["index"])
    return found["name"] or found["single"] or found["double"]


def replace_at(value: object, path: JsonPath, new: Callable[[object], object]) -> bool:
    """Replace, inside a mutable JSON value, what the path reaches by `new(old)`; say whether anything was there."""
    holders = [value]
    for step in path.steps[:-1]:
        holders = [child for holder in holders for _, child in _reached(holder, step)]
    changed = False
    for holder in holders:
        for key, child in _reached(holder, path.steps[-1]):
            holder[key] = new(child)  # type: ignore[index]  # `_reached` gives keys of dicts and lists only
            changed = True
    return changed


def _reached(holder: object, step: Step) -> list[tuple[str | int, object]]:
    if isinstance(holder, dict):
        if step is Wildcard.EVERY:
            return list(holder.items())
        return [(step, holder[step])] if isinstance(step, str) and step in holder else []
    if isinstance(holder, list):
        if step is Wildcard.EVERY:
            return list(enumerate(holder))
        return [(step, holder[step])] if isinstance(step, int) and step < len(holder) else []
    return []
