"""One claim: a sentence of the specification that binds a gateway, and the official scenarios that show it kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["MUST", "SHOULD", "MAY"]
Revision: TypeAlias = Literal["2025-11-25", "2026-07-28"]


@dataclass(frozen=True, slots=True)
class Claim:
    """`section` is a path below the revision's folder of the specification, with the heading's anchor."""

    id: str
    revision: Revision
    section: str
    level: Level
    text: str
    scenarios: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chapter:
    """One page of one revision, to write its claims below each other."""

    revision: Revision
    page: str

    def must(self, name: str, anchor: str, text: str, *scenarios: str) -> Claim:
        """A claim at level MUST or MUST NOT."""
        return self._claim(name, anchor, "MUST", text, scenarios)

    def should(self, name: str, anchor: str, text: str, *scenarios: str) -> Claim:
        """A claim at level SHOULD or SHOULD NOT."""
        return self._claim(name, anchor, "SHOULD", text, scenarios)

    def may(self, name: str, anchor: str, text: str, *scenarios: str) -> Claim:
        """Something that the specification allows and that we do."""
        return self._claim(name, anchor, "MAY", text, scenarios)

    def _claim(self, name: str, anchor: str, level: Level, text: str, scenarios: tuple[str, ...]) -> Claim:
        section = f"{self.page}#{anchor}" if anchor else self.page
        return Claim(f"mcp:{self.revision}:{name}", self.revision, section, level, text, scenarios)
