"""A small world with prompts of two kinds: sums, which only the strong model does, and greetings, which both do."""

from __future__ import annotations

import random
from collections.abc import Sequence

from adapters.embedders.hashing import Hashing
from gateway.embedding import EmbeddingUnavailable
from gateway.routing.outcomes import key_of
from gateway.routing.ports import Outcome
from gateway.routing.prompts import Sample, condensed, features_of

EMBEDDER = Hashing(dimensions=64)
SUM = "Add the matrix of 17 and 23 to 41"
GREETING = "Write a friendly greeting to Ann"
_NAMES = ("Ann", "Bert", "Cleo", "Dora", "Emil", "Fritz", "Gina")


def prompts(count: int, seed: int = 1) -> list[tuple[str, bool]]:
    """So many prompts, each with whether it is a sum."""
    chance = random.Random(seed)
    return [_prompt(chance, number) for number in range(count)]


def _prompt(chance: random.Random, number: int) -> tuple[str, bool]:
    if chance.random() < 0.5:
        return f"Add the matrix of {chance.randrange(99)} and {chance.randrange(99)} to {number}", True
    return f"Write a friendly greeting to {chance.choice(_NAMES)} and {chance.choice(_NAMES)}, letter {number}", False


def outcomes(count: int, seed: int = 1, noise: float = 0.1) -> list[Outcome]:
    """Judged prompts; a tenth of the answers are the other way round by luck."""
    chance = random.Random(seed + 1)
    return [_outcome(text, hard, chance, noise) for text, hard in prompts(count, seed)]


def _outcome(text: str, hard: bool, chance: random.Random, noise: float) -> Outcome:
    weak = float((not hard) != (chance.random() < noise))
    strong = float(chance.random() >= noise / 2)
    return Outcome(sample(text), weak, strong, "sum" if hard else "greeting", key_of(text))


def sample(text: str) -> Sample:
    """As the router makes one of a prompt."""
    return Sample(EMBEDDER.vector(condensed(text)), features_of(text))


class Broken:
    """An embedder that has no vectors."""

    name = EMBEDDER.name
    dimensions = EMBEDDER.dimensions

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        """Raises, as the port allows."""
        raise EmbeddingUnavailable("the model is gone")
