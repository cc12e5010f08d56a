"""What is known of both models' answers to prompts, as routers learn from it: from judged tables, and as lines.

A line holds the vector and the measures of a prompt, never its text; and which models were asked, if that is known.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import Final, TypeAlias

from gateway import codec
from gateway.embedding import Embedder
from gateway.routing.likeness import cosine
from gateway.routing.ports import Outcome
from gateway.routing.prompts import FEATURES, FEATURES_VERSION, Sample, condensed, features_of
from gateway.routing.tables import Judged

Pair: TypeAlias = tuple[str, str]
"""The weak and the strong one that were asked."""
MOST: Final = 1e6
"""What no measure of a prompt reaches: one such number would drown those of all other outcomes."""


def key_of(prompt: str) -> str:
    """Names a prompt without holding it."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


async def embedded(rows: Sequence[Judged], embedder: Embedder) -> list[Outcome]:
    """The rows as outcomes, with the vectors that prompts will have when they are routed."""
    vectors = await embedder.embed([condensed(row.prompt) for row in rows])
    return [
        Outcome(Sample(vector, features_of(row.prompt)), row.weak, row.strong, row.task, key_of(row.prompt))
        for row, vector in zip(rows, vectors, strict=True)
    ]


def as_line(outcome: Outcome, embedder: str, models: Pair | None = None) -> bytes:
    """One line of a file of outcomes."""
    value = {
        "embedder": embedder,
        "features_version": FEATURES_VERSION,
        **({} if models is None else {"models": models}),
        "key": outcome.key,
        "task": outcome.task,
        "weak": outcome.weak,
        "strong": outcome.strong,
        "features": list(outcome.sample.features),
        "vector": base64.b64encode(outcome.sample.vector).decode(),
    }
    return codec.dumps(value) + b"\n"


def read_lines(lines: Iterable[bytes], embedder: str, models: Pair | None = None) -> Iterator[Outcome]:
    """The outcomes whose vectors are of this embedder, and that say of no other models that they were asked.

    Others cannot be compared and are left out.
    """
    for number, line in enumerate(lines, start=1):
        try:
            outcome = _outcome(codec.loads(line), embedder, models)
        except (ValueError, binascii.Error) as exc:
            raise ValueError(f"line {number} is no outcome: {exc}") from exc
        if outcome is not None:
            yield outcome


def _outcome(value: codec.JsonValue, embedder: str, models: Pair | None) -> Outcome | None:
    match value:
        case {"embedder": str(made), "features_version": int(version)} if (made, version) != (
            embedder,
            FEATURES_VERSION,
        ):
            return None
        case {"models": [str(weak_one), str(strong_one)]} if models is not None and models != (weak_one, strong_one):
            return None
        case {
            "key": str(key),
            "task": str(task),
            "weak": float() | int() as weak,
            "strong": float() | int() as strong,
            "features": list(features),
            "vector": str(vector),
        }:
            return Outcome(_sample(base64.b64decode(vector, validate=True), features), weak, strong, task, key)
        case _:
            raise ValueError("members are missing")


def _sample(vector: bytes, features: Sequence[object]) -> Sample:
    numbers = tuple(float(each) for each in features if isinstance(each, int | float))
    if len(numbers) != len(FEATURES) or not all(abs(each) < MOST for each in numbers):
        raise ValueError("its measures are not those of a prompt")
    if not isfinite(cosine(vector, vector)):
        raise ValueError("its vector is not of numbers")
    return Sample(vector, numbers)
