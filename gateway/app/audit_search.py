"""Finds calls in the audit log by their ids, newest first and not for ever."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anyio import to_thread

from gateway.audit.reader import at
from gateway.audit.segment import read_rows_backwards, reading, segment_paths
from gateway.audit.verify import read_entry

MOST: Final = 200_000
"""Entries that are looked at for one question."""


@dataclass(frozen=True, slots=True)
class AuditSearch:
    """The log in the state directory."""

    state: Path

    async def entries(self, calls: Sequence[str]) -> Mapping[str, int]:
        """The sequence numbers of those calls that are found. It says nothing while the log cannot be read."""
        return await to_thread.run_sync(self._found, frozenset(calls)) if calls else {}

    def _found(self, calls: frozenset[str]) -> Mapping[str, int]:
        found: dict[str, int] = {}
        left = MOST
        for _, path in reversed(segment_paths(self.state / "audit")):
            try:
                with reading(path) as db:
                    for row in read_rows_backwards(db):
                        left -= 1
                        call = at(read_entry(row.body), "call", "id")
                        if isinstance(call, str) and call in calls:
                            found.setdefault(call, row.seq)
                        if len(found) == len(calls) or left <= 0:
                            return found
            except sqlite3.Error:
                continue
        return found
