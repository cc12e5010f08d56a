"""What `interlock doctor` found out about one thing, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How bad it is."""

    GOOD = "good"
    OPTIONAL = "optional"
    """Missing, and everything else works without."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    state: State
    what: str
    remedy: str = ""
    """What to do, where something is to be done."""
    lines: tuple[str, ...] = ()
    """Evidence: the last lines that an upstream wrote to its standard error."""


def good(subject: str, what: str) -> Finding:
    """Nothing to do."""
    return Finding(subject, State.GOOD, what)


def optional(subject: str, what: str, remedy: str) -> Finding:
    """Nothing that must be done."""
    return Finding(subject, State.OPTIONAL, what, remedy)


def wrong(subject: str, what: str, remedy: str, lines: tuple[str, ...] = ()) -> Finding:
    """The gateway does not start, or does not do what it should, until this is mended."""
    return Finding(subject, State.WRONG, what, remedy, lines)
