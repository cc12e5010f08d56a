"""Counts of what was seen, by rows of texts, however many different ones callers can bring about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

Row: TypeAlias = tuple[str, ...]

OTHER: Final = "(other)"
MAX_ROWS: Final = 1_000
MAX_TEXT: Final = 200


@dataclass(slots=True)
class Count:
    """How often, the latest decision that is an example of it, and the words that came with it."""

    times: int = 0
    example: str = ""
    note: str = ""


class Tally:
    """Counts for `fields`. Of what does not fit any more, the first `kept` fields are still told apart."""

    def __init__(self, fields: tuple[str, ...], *, kept: int, max_rows: int = MAX_ROWS) -> None:
        self.fields = fields
        self._kept = kept
        self._max_rows = max_rows
        self._counts: dict[Row, Count] = {}

    def add(self, row: Row, example: str, note: str = "") -> int:
        """Count one; how often that row was seen by now."""
        row = tuple([text[:MAX_TEXT] for text in row])
        count = self._counts.get(row) or self._new(row)
        count.times += 1
        count.example = example
        count.note = note[:MAX_TEXT]
        return count.times

    def __len__(self) -> int:
        return len(self._counts)

    def __iter__(self) -> Iterator[tuple[Row, Count]]:
        """Rows with their counts, the most frequent first."""
        return iter(sorted(self._counts.items(), key=lambda item: (-item[1].times, item[0])))

    def totals(self, field: str) -> dict[str, int]:
        """How often each value of one field was seen."""
        place, found = self.fields.index(field), dict[str, int]()
        for row, count in self._counts.items():
            found[row[place]] = found.get(row[place], 0) + count.times
        return found

    def plain(self) -> list[dict[str, object]]:
        """The rows as JSON, the most frequent first."""
        return [
            {**dict(zip(self.fields, row, strict=True)), "count": one.times, "example": one.example, "note": one.note}
            for row, one in self
        ]

    def restore(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Take up rows that `plain` gave. What is not such a row is left out."""
        for entry in rows:
            row = tuple(entry.get(field) for field in self.fields)
            times, texts = entry.get("count"), [text for text in row if isinstance(text, str)]
            if type(times) is not int or times < 1 or len(texts) != len(row):
                continue
            count = self._counts.get(tuple(texts)) or self._new(tuple(texts))
            count.times += times
            count.example, count.note = str(entry.get("example", "")), str(entry.get("note", ""))

    def _new(self, row: Row) -> Count:
        if len(self._counts) >= self._max_rows:
            row = (*row[: self._kept], *[OTHER] * (len(row) - self._kept))
        if row not in self._counts and len(self._counts) >= 2 * self._max_rows:  # even those are too many
            row = (OTHER,) * len(row)
        return self._counts.setdefault(row, Count())
