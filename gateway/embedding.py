"""Turns texts into vectors: the port that memory and routing share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class EmbeddingUnavailable(Exception):
    """No vector can be had now, or ever: the model is missing, altered or unreachable. The message says what to do."""


class EmbeddingRefused(EmbeddingUnavailable):
    """The embedder works, and takes not all of these texts: too long for it, or not to its liking."""


class Embedder(Protocol):
    """One vector for each text, in order: `dimensions` little-endian float32 numbers, of length 1.

    The same text gives the same vector, whatever it is embedded with. The work is done in a thread or elsewhere, never
    on the event loop. Raises `EmbeddingUnavailable`, and of its kinds `EmbeddingRefused` where others may do better.
    """

    @property
    def name(self) -> str:
        """Names everything that changes vectors: those of two names are never compared."""

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]: ...
