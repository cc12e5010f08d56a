"""Search by words: FTS5's BM25, in which one tenant's texts count, among those that the view shows."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from adapters.memory.sqlite_file import words_table
from adapters.memory.sqlite_reads import IN_VIEW, Limits
from adapters.memory.sqlite_rows import json, tenant_number
from gateway.memory.records import Hit, View

_WORD: Final = re.compile(r"[\w\u0300-\u036f]+")
"""With marks that stand apart from their letter, which FTS5 takes for parts of a word, too."""
_MAX_WORDS: Final = 48
_MAX_TEXTS: Final = 4_000
"""How many texts the words of a question may occur in together: each of them is looked at. Rare words say most, so the
common ones are left out of what would be more."""
_ADMITTED: Final = (
    "SELECT v.id, v.text_id FROM versions v"  # noqa: S608  # a condition of ours
    f" WHERE v.text_id IN (SELECT value FROM json_each(?)) AND{IN_VIEW}"
)
_FIRST: Final = 4
"""How many times what is wanted is looked at before the view is joined with every match."""
_SPARE: Final = 20
_MAX_KNOWN: Final = 8_192
_NEWER: Final = 400
"""After so many more texts words are counted again; those that are in fewer are counted each time."""


class Words:
    """Finds texts by words. Remembers for a while which words are common, and are not counted each time."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, str], tuple[int, int]] = {}

    def forget(self) -> None:
        """Nothing of what was erased stays in memory, either."""
        self._counts.clear()

    def find(self, connection: sqlite3.Connection, view: View, query: str, limit: int, now_ms: int) -> Sequence[Hit]:
        """`MemoryReader.lexical`."""
        tenant = tenant_number(connection, view.tenant)
        limits = Limits(connection, view, now_ms)
        if tenant is None or not limits.classes:
            return []
        match = self._match(connection, tenant, query)
        return _ranked(connection, tenant, match, limits, limit) if match else []

    def _match(self, connection: sqlite3.Connection, tenant: int, query: str) -> str:
        # FTS5 folds the words itself, not in Python's way: what is folded here ("Straße") would not be found.
        words = list({word.lower(): word for word in _WORD.findall(query)}.values())[:_MAX_WORDS]
        counts = self._counted(connection, tenant, words)
        total, telling = 0, list[str]()
        for word in sorted(words, key=counts.__getitem__):
            total += counts[word]
            if total <= _MAX_TEXTS or not telling:
                telling += [word] if counts[word] else []
        return " OR ".join(f'"{word}"' for word in telling)

    def _counted(self, connection: sqlite3.Connection, tenant: int, words: Sequence[str]) -> Mapping[str, int]:
        """In how many texts each is at most; more than `_MAX_TEXTS` are not counted."""
        (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM texts").fetchone()
        if len(self._counts) > _MAX_KNOWN:
            self._counts.clear()
        counts = dict[str, int]()  # other threads use what is remembered, too
        for word in words:
            count, then = self._counts.get((tenant, word), (0, -_NEWER))
            if not then <= last < then + _NEWER:
                count, then = _count(connection, tenant, word, _MAX_TEXTS + 1), last
            if count > _NEWER:
                self._counts[tenant, word] = count, then
            counts[word] = count + last - then  # each text since then may have it
        return counts


def _count(connection: sqlite3.Connection, tenant: int, word: str, most: int) -> int:
    table = words_table(tenant)
    counting = f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {table} MATCH ? LIMIT ?)"  # noqa: S608  # a number
    return int(connection.execute(counting, (f'"{word}"', most)).fetchone()[0])


def _ranked(connection: sqlite3.Connection, tenant: int, match: str, limits: Limits, limit: int) -> Sequence[Hit]:
    """The best of the view. BM25 does not depend on the filter, so the best of all, filtered, are the same."""
    table = words_table(tenant)
    best = f"SELECT rowid, rank FROM {table} WHERE {table} MATCH ? ORDER BY rank LIMIT ?"  # noqa: S608  # a number
    first = _FIRST * limit
    ranks = {row[0]: row[1] for row in connection.execute(best, (match, first))}
    hits, texts = list[Hit](), list(ranks)
    while texts and len(hits) < limit:  # mostly the view shows nearly all of the best: no more are looked at
        part, texts = texts[: limit + _SPARE], texts[limit + _SPARE :]
        rows = connection.execute(_ADMITTED, [json(part), *limits.all])
        hits += sorted((Hit(row[0], -ranks[row[1]]) for row in rows), key=_order)
    if len(hits) >= limit or len(ranks) < first:
        return hits[:limit]
    filtered = (
        f"SELECT v.id, f.rank FROM {table} f JOIN versions v ON v.text_id = f.rowid"  # noqa: S608  # a number
        f" WHERE f.{table} MATCH ? AND{IN_VIEW} ORDER BY f.rank, v.id LIMIT ?"
    )
    return [Hit(row[0], -row[1]) for row in connection.execute(filtered, [match, *limits.all, limit])]


def _order(hit: Hit) -> tuple[float, int]:
    return -hit.score, hit.row
