"""In what two answers to one question differ, as far as anybody could notice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.types import Decision, NeedsApproval, Permit

ALLOW: Final = "allow"
HOLD: Final = "hold"
DENY: Final = "deny"
FAULT: Final = "no answer"
"""What no engine could say; for the caller that is a denial."""
_ARROW: Final = "->"


def verdict_of(decision: Decision | None) -> str:
    """`allow`, `hold`, `deny`, or that there was no answer."""
    if decision is None:
        return FAULT
    if isinstance(decision, Permit):
        return ALLOW
    return HOLD if isinstance(decision, NeedsApproval) else DENY


def compared(active: Decision | None, candidate: Decision | None) -> tuple[str, ...]:
    """The kinds of difference: none, one of verdict (`allow->deny`), or some of what goes with the same verdict.

    The latter are `obligations`, `labels`, `reasons` (their codes) and `approval` (who is asked for it).
    """
    before, after = verdict_of(active), verdict_of(candidate)
    if before != after:
        return (f"{before}{_ARROW}{after}",)
    if isinstance(active, Permit) and isinstance(candidate, Permit):
        return _permits(active, candidate)
    if isinstance(active, NeedsApproval) and isinstance(candidate, NeedsApproval):
        return () if active.request == candidate.request else ("approval",)
    return () if _codes(active) == _codes(candidate) else ("reasons",)


def compared_lists(active: frozenset[int] | None, candidate: frozenset[int] | None) -> Mapping[str, Sequence[int]]:
    """What a list would show (`list: shown`) or hide (`list: hidden`), by index.

    Where one of them gave no answer there is no index: the list as a whole is what differs.
    """
    if active is None or candidate is None:
        before, after = (FAULT if seen is None else "list" for seen in (active, candidate))
        return {} if before == after else {f"{before}{_ARROW}{after}": ()}
    kinds = {"list: shown": sorted(candidate - active), "list: hidden": sorted(active - candidate)}
    return {kind: indexes for kind, indexes in kinds.items() if indexes}


def newly_allowed(kind: str) -> bool:
    """Whether a difference of this kind is a call that the candidate lets through and the active policy does not."""
    return kind.endswith(f"{_ARROW}{ALLOW}")


def _permits(active: Permit, candidate: Permit) -> tuple[str, ...]:
    kinds = []
    if not _same(active.obligations, candidate.obligations):
        kinds.append("obligations")
    if set(active.labels) != set(candidate.labels):
        kinds.append("labels")
    return tuple(kinds)


def _same(left: Sequence[object], right: Sequence[object]) -> bool:
    """Whether both hold the same, in whatever order."""
    return len(left) == len(right) and all(item in right for item in left) and all(item in left for item in right)


def _codes(decision: Decision | None) -> frozenset[str]:
    if decision is None or isinstance(decision, Permit | NeedsApproval):
        return frozenset()
    return frozenset(reason.code for reason in decision.reasons)
