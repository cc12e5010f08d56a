"""What the tests of memory remember."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from struct import pack
from typing import Final

from gateway.memory.ports import MemoryReader
from gateway.memory.records import Draft, Embedded, Kind, Reach, Scope, Source, SourceType, Status, View

MODEL: Final = "test-4d"
USER: Final = Source(SourceType.USER, author_agent="agent:helper", on_behalf_of="user:ana", call_id="c1")
TOOL: Final = Source(SourceType.TOOL, ref="web/fetch", author_agent="agent:helper")
REVIEWER: Final = Source(SourceType.SYSTEM, on_behalf_of="user:reviewer")
WHOLE: Final = Reach(whole=True)
ALL: Final = frozenset(Status)


class Clock:
    """Time that only tests move."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


def draft(text: str, **changes: object) -> Draft:
    """A fact for everybody in the organisation, in the namespace `facts`."""
    plain = Draft("facts", text, Scope.ORG, Kind.SEMANTIC, USER)
    return replace(plain, **changes)  # type: ignore[arg-type]  # fields of a draft


def embedded(*values: float) -> Embedded:
    return Embedded(MODEL, vector(*values))


def vector(*values: float) -> bytes:
    return pack(f"<{len(values)}f", *values)


async def view_of(reader: MemoryReader, tenant: str = "acme", reach: Reach = WHOLE, **changes: object) -> View:
    """All that there is of one tenant within reach, active now."""
    classes = frozenset(await reader.classes(tenant, reach, ALL))
    return replace(View(tenant, classes, reach), **changes)  # type: ignore[arg-type]  # fields of a view


Ticking = Callable[[], int]
