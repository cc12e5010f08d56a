"""OpenAI's Embeddings: the one shape in which vectors are asked for and given."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.codec import JsonObject, JsonValue
from gateway.models.neutral import Tokens
from gateway.models.reading import Fields, answered

MAX_INPUTS = 2_048
MAX_DIMENSIONS = 8_192


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Which texts are to become vectors. Texts that came as token numbers stand as those, in `tokens`."""

    model: str
    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...] = ()
    dimensions: int | None = None
    as_base64: bool = False

    @property
    def count(self) -> int:
        """How many vectors are asked for."""
        return len(self.texts) + len(self.tokens)


def read_request(body: Mapping[str, object]) -> EmbeddingRequest:
    """What a caller asks. Raises `InvalidCall` that names the field."""
    fields = Fields(dict(body))
    fields.skip("user")
    texts, tokens = _inputs(fields)
    dimensions = fields.count("dimensions")
    if dimensions is not None and not 1 <= dimensions <= MAX_DIMENSIONS:
        raise fields.wrong("dimensions", f"is not between 1 and {MAX_DIMENSIONS}")
    encoding = fields.one_of("encoding_format", ("float", "base64"), "float")
    request = EmbeddingRequest(fields.text("model"), texts, tokens, dimensions, encoding == "base64")
    fields.done()
    return request


def _inputs(fields: Fields) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    value = fields.raw("input")
    if isinstance(value, str):
        return (value,), ()
    items = fields.array("input")
    if not items or len(items) > MAX_INPUTS:
        raise fields.wrong("input", f"does not hold between 1 and {MAX_INPUTS} texts")
    if all(isinstance(item, str) for item in items):
        return tuple([item for item in items if isinstance(item, str)]), ()
    numbers = _numbers(items)
    if numbers:
        return (), (numbers,)
    several = tuple([_numbers(item) for item in items if isinstance(item, list | tuple)])
    if len(several) != len(items) or not all(several):
        raise fields.wrong("input", "is neither texts nor token numbers")
    return (), several


def _numbers(items: Sequence[object]) -> tuple[int, ...]:
    """Token numbers; none where it is anything else."""
    found = tuple([item for item in items if isinstance(item, int) and not isinstance(item, bool)])
    return found if len(found) == len(items) else ()


def write_answer(model: str, vectors: Sequence[Sequence[float]], tokens: int, *, as_base64: bool) -> JsonObject:
    """The vectors, in the order of their texts."""
    data: list[JsonValue] = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if as_base64 else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage: JsonObject = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def tokens_in(answer: Mapping[str, object]) -> Tokens:
    """What an answer says that it cost."""
    usage = answer.get("usage")
    return Tokens() if usage is None else Tokens(input=answered(usage).count("prompt_tokens") or 0)
