"""The vectors of one namespace in memory, with all that decides whether they may be shown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.memory.ports import Changes, State
from gateway.memory.records import Hit, Status

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]

_BLOCK: Final = 8_192
"""Vectors in one piece of memory: more come without a copy of those that are there."""
_GATHERED: Final = 4
"""Where no more than one in so many may be shown, only those are looked at."""
_STATUSES: Final = {status: number for number, status in enumerate(Status)}
_TEXT, _SLOT, _CLASS, _STATUS, _FROM, _TO, _RECORDED, _SUPERSEDED = range(8)


@dataclass(frozen=True, slots=True)
class Filter:
    """A view as this shard understands it."""

    classes: frozenset[int]
    statuses: frozenset[Status]
    valid_ms: int
    recorded_ms: int


class Shard:
    """Finds the nearest of the vectors that a filter shows, exactly. Not for two threads at once."""

    def __init__(self, dimensions: int) -> None:
        self.position = 0
        self._dimensions = dimensions
        self._blocks: list[Floats] = []
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self._waiting: dict[int, list[int]] = {}
        self._places: dict[int, int] = {}
        self._rows: Integers = np.zeros(_BLOCK, np.int64)
        self._states: Integers = np.zeros((8, _BLOCK), np.int64)

    @property
    def size(self) -> int:
        """What it takes, about."""
        return len(self._blocks) * _BLOCK * self._dimensions * 4 + self._states.nbytes + 300 * len(self._places)

    def apply(self, changes: Changes) -> None:
        """Take what changed. Doing so twice changes nothing."""
        for text, vector in changes.vectors:
            self._keep(text, vector)
        for state in changes.states:
            self._state(state)
        self.position = changes.position

    def _keep(self, text: int, vector: bytes) -> None:
        values = np.frombuffer(vector, "<f4")
        if values.shape != (self._dimensions,):
            raise ValueError(f"a vector of {values.size} dimensions, where {self._dimensions} are expected")
        slot = self._slots.get(text)
        if slot is None:
            slot = self._slots[text] = self._free.pop() if self._free else self._new_slot()
            for place in self._waiting.pop(text, ()):
                if self._states[_TEXT, place] == text:  # it may have been erased meanwhile
                    self._states[_SLOT, place] = slot
        length = float(np.linalg.norm(values))
        self._blocks[slot // _BLOCK][slot % _BLOCK] = values / length if length else values

    def _new_slot(self) -> int:
        slot = len(self._slots)  # nothing is free, so all before it are taken
        if slot >= len(self._blocks) * _BLOCK:
            self._blocks.append(np.zeros((_BLOCK, self._dimensions), np.float32))
        return slot

    def _state(self, state: State) -> None:
        if state.gone:
            self._drop(state.text)
        place = self._places.setdefault(state.row, len(self._places))
        if place >= len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
            self._states = np.concatenate([self._states, np.zeros_like(self._states)], axis=1)
        slot = self._slots.get(state.text, -1)
        if slot < 0 and not state.gone:
            self._waiting.setdefault(state.text, []).append(place)
        times = (state.valid_from_ms, state.valid_to_ms, state.recorded_at_ms, state.superseded_at_ms)
        self._rows[place] = state.row
        self._states[:, place] = (state.text, slot, state.class_id, _STATUSES[state.status], *times)

    def _drop(self, text: int) -> None:
        slot = self._slots.pop(text, None)
        if slot is not None:
            self._blocks[slot // _BLOCK][slot % _BLOCK] = 0
            self._free.append(slot)
            texts = self._states[_TEXT, : len(self._places)]
            self._states[_SLOT, : len(self._places)][texts == text] = -1

    def nearest(self, vector: bytes, shown: Filter, limit: int) -> Sequence[Hit]:
        """The best of what the filter shows, best first."""
        query = np.frombuffer(vector, "<f4")
        if query.shape != (self._dimensions,):
            raise ValueError(f"a vector of {query.size} dimensions, where {self._dimensions} are expected")
        places = self._shown(shown)
        if not places.size or limit < 1:
            return []
        length = float(np.linalg.norm(query))
        scores = self._scores((query / length if length else query).astype(np.float32), self._states[_SLOT, places])
        return _best(self._rows[places], scores, limit)

    def _shown(self, shown: Filter) -> Integers:
        """Where the versions are that the filter shows and that have a vector."""
        count = len(self._places)
        states = self._states[:, :count]
        keep = _among(states[_CLASS], shown.classes)
        keep &= _among(states[_STATUS], [_STATUSES[status] for status in shown.statuses])
        keep &= (states[_SLOT] >= 0) & (states[_RECORDED] <= shown.recorded_ms)
        keep &= (states[_SUPERSEDED] > shown.recorded_ms) & (states[_FROM] <= shown.valid_ms)
        keep &= states[_TO] > shown.valid_ms
        return np.flatnonzero(keep)

    def _scores(self, query: Floats, slots: Integers) -> Floats:
        if slots.size * _GATHERED > len(self._slots):
            return np.concatenate([_dots(block, query) for block in self._blocks])[slots]
        found = np.empty(slots.size, np.float32)
        blocks = slots // _BLOCK
        for number in np.unique(blocks):
            inside = blocks == number
            found[inside] = _dots(self._blocks[number][slots[inside] % _BLOCK], query)
        return found


def _among(numbers: Integers, wanted: Collection[int]) -> NDArray[np.bool_]:
    """Where one of the wanted stands, by looking each up: `np.isin` compares or sorts."""
    known = np.zeros(1 + max([*wanted, int(numbers.max(initial=0))]), np.bool_)
    known[list(wanted)] = True
    return known[numbers]


def _dots(vectors: Floats, query: Floats) -> Floats:
    # Not `@`: BLAS shares such a product among threads that spin for each other, 20 times slower on a busy machine.
    return np.asarray(np.vecdot(vectors, query), np.float32)


def _best(rows: Integers, scores: Floats, limit: int) -> Sequence[Hit]:
    if scores.size > limit:
        chosen = np.argpartition(scores, -limit)[-limit:]
        rows, scores = rows[chosen], scores[chosen]
    order = np.lexsort((rows, -scores))
    return [Hit(int(rows[place]), float(scores[place])) for place in order]
