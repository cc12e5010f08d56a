"""Vectors from hashes of words and of their parts: offline, deterministic, with no library.

Texts that share words are near each other; what only means the same is not. For machines without the extra `memory`.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from math import sqrt
from sys import byteorder
from typing import Final

import anyio.to_thread

from gateway.embedding import Embedder

DIMENSIONS: Final = 384
_MAX_CHARS: Final = 8_192
_WORD: Final = re.compile(r"\w+")
_PART_WEIGHT: Final = 0.3


class Hashing:
    """Each word and each three letters of one add to two places of the vector, with a sign (feature hashing)."""

    def __init__(self, *, dimensions: int = DIMENSIONS) -> None:
        if dimensions < 8:
            raise ValueError(f"dimensions is {dimensions}; give at least 8")
        self._dimensions = dimensions

    @property
    def name(self) -> str:
        """As the port says."""
        return f"hashing-1/{self._dimensions}"

    @property
    def dimensions(self) -> int:
        """As the port says."""
        return self._dimensions

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        """As the port says."""
        return await anyio.to_thread.run_sync(lambda: [self.vector(text) for text in texts])

    def vector(self, text: str) -> bytes:
        """That of one text, here and now. A text without a word has a vector too, which is its own."""
        sums = [0.0] * self._dimensions
        for piece, weight in _pieces(text[:_MAX_CHARS].casefold()):
            number = int.from_bytes(blake2b(piece.encode("utf-8", "replace"), digest_size=16).digest(), "little")
            for half in (number & (2**64 - 1), number >> 64):
                sums[(half >> 1) % self._dimensions] += weight if half & 1 else -weight
        length = sqrt(sum(value * value for value in sums))
        if not length:
            sums[0] = length = 1.0
        return _float32(value / length for value in sums)


def _pieces(text: str) -> Iterator[tuple[str, float]]:
    for word in _WORD.findall(text):
        yield word, 1.0
        marked = f"<{word}>"
        for start in range(len(marked) - 2):
            yield f"#{marked[start : start + 3]}", _PART_WEIGHT


def _float32(values: Iterator[float]) -> bytes:
    numbers = array("f", values)
    if byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


_: type[Embedder] = Hashing
