"""How much a record is worth: by who said it, never by what it says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.memory.records import SourceType, Version

UNTRUSTED: Final = frozenset({"untrusted", "web", "overflow"})
"""Labels of a session that has read what anybody may have written; `overflow` may hide one of them."""
MARK: Final = "untrusted"
"""What is put on records whose source is a tool."""
_BASE: Final[Mapping[SourceType, float]] = {
    SourceType.USER: 0.9,
    SourceType.SYSTEM: 0.9,
    SourceType.AGENT: 0.6,
    SourceType.IMPORT: 0.5,
    SourceType.MODEL: 0.4,
    SourceType.TOOL: 0.3,
}
_CORROBORATED: Final = 0.6
_FLOOR: Final = 0.6
"""The part of a record's rank that does not depend on trust."""


def trust_of(source: SourceType, *, sources: int = 1, parents: Iterable[Version] = ()) -> float:
    """What a new record is worth: no more than the least of what it was made from, unless others say the same."""
    own = _BASE[source]
    if sources > 1:
        own = max(own, _CORROBORATED)
    if source is SourceType.USER:  # a person answers for it
        return own
    return min([own, *(parent.trust for parent in parents)])


def is_tainted(labels: Iterable[str]) -> bool:
    """Whether a session has read what is not to be trusted."""
    return not UNTRUSTED.isdisjoint(labels)


def weighted(score: float, trust: float) -> float:
    """A rank that trust has a say in."""
    return score * (_FLOOR + (1 - _FLOOR) * trust)
