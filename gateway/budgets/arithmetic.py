"""What a reservation takes from where, and what a settled one gives back: numbers alone, for every store the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from gateway.spending import (
    DIMENSIONS,
    NOTHING,
    Dimension,
    Drawn,
    Line,
    Reserved,
    Short,
    Source,
    Standing,
    amount,
    each,
    least,
    less,
)
from gateway.types import Usage

Holds: TypeAlias = Mapping[tuple[str, str], Usage]
"""(hold, account) -> what it has."""


@dataclass(frozen=True, slots=True)
class _Part:
    given: Usage
    drawn: Sequence[Drawn]
    standing: Standing


def plan(
    lines: Sequence[Line], standings: Mapping[str, Standing], sources: Sequence[Source], holds: Holds
) -> Reserved | Short:
    """How each line is given, or the first that is short. `standings` is by account, `holds` those of the sources."""
    parts: list[_Part] = []
    for line in lines:
        part = _given(line, standings[line.account.id], sources, holds)
        if isinstance(part, Short):
            return part
        parts.append(part)
    given = {part.standing.account.id: part.given for part in parts}
    return Reserved([part.standing for part in parts], given, [drawn for part in parts for drawn in part.drawn])


def _given(line: Line, standing: Standing, sources: Sequence[Source], holds: Holds) -> _Part | Short:
    drawn: list[Drawn] = []
    rest = line.ask
    for source in sources:
        taken = least(rest, less(holds.get((source.hold, line.account.id), NOTHING), source.keeps))
        if taken != NOTHING:
            drawn.append(Drawn(line.account.id, source.hold, taken))
            rest = less(rest, taken)
    fresh: dict[str, int] = {}
    for dimension in DIMENSIONS:
        wanted = amount(rest, dimension)
        possible = _possible(dimension, wanted, standing)
        if possible < wanted and (dimension != "millis" or possible <= 0):
            return Short(standing, dimension, wanted)
        fresh[dimension] = possible
    taken_anew = each(fresh)
    given = sum((item.usage for item in drawn), taken_anew)
    return _Part(given, drawn, replace(standing, held=standing.held + taken_anew))


def _possible(dimension: Dimension, wanted: int, standing: Standing) -> int:
    left = standing.left(dimension)
    return wanted if left is None else min(wanted, left) if wanted else 0


def given_back(held: Mapping[str, Usage], charged: Mapping[str, Usage], drawn: Sequence[Drawn]) -> Sequence[Drawn]:
    """Of what a hold drew, what it has left at its end; the nearest source first. `held`, `charged` by account."""
    left = {account: less(usage, charged.get(account, NOTHING)) for account, usage in held.items()}
    back: list[Drawn] = []
    for item in drawn:
        returned = least(item.usage, left.get(item.account, NOTHING))
        if returned != NOTHING:
            back.append(replace(item, usage=returned))
            left[item.account] = less(left[item.account], returned)
    return back
