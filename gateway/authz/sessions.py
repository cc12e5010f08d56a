"""What the gateway remembers of a session for policy: how many calls it made, which labels its results carried.

Labels only ever grow within a session, so that a rule such as "nothing leaves once untrusted text was read" holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from gateway.types import Call, Identity

MAX_SESSIONS: Final = 10_000
MAX_LABELS: Final = 64
OVERFLOW: Final = "overflow"
"""Stands for labels that there was no room for."""
IDLE_NS: Final = 3_600 * 1_000_000_000


@dataclass(slots=True)
class SessionFacts:
    """`labels` are sorted, `calls` counts those decided before the current one."""

    calls: int = 0
    labels: tuple[str, ...] = ()
    seen_ns: int = 0


class Sessions:
    """Facts per caller and session; a caller without sessions (MCP 2026-07-28) has one. Idle ones go after an hour."""

    def __init__(self, monotonic_ns: Callable[[], int], *, max_sessions: int = MAX_SESSIONS) -> None:
        self._monotonic_ns = monotonic_ns
        self._max_sessions = max_sessions
        self._facts: OrderedDict[tuple[str, str], SessionFacts] = OrderedDict()

    def of(self, call: Call, identity: Identity) -> SessionFacts:
        """The facts of the session that a call belongs to, made when there are none."""
        key = (identity.principal, call.session_id)
        now = self._monotonic_ns()
        facts = self._facts.get(key)
        if facts is None or now - facts.seen_ns > IDLE_NS:
            facts = self._facts[key] = SessionFacts()
            if len(self._facts) > self._max_sessions:
                self._facts.popitem(last=False)
        self._facts.move_to_end(key)
        facts.seen_ns = now
        return facts

    def add_labels(self, call: Call, identity: Identity, labels: Iterable[str]) -> None:
        """Remember labels for the session's later calls. Beyond 64 the list ends with `overflow`."""
        facts = self.of(call, identity)
        every = {*facts.labels, *labels}
        known = sorted(every - {OVERFLOW})
        over = OVERFLOW in every or len(known) > MAX_LABELS
        facts.labels = (*known[:MAX_LABELS], OVERFLOW) if over else tuple(known)
