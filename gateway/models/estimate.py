"""How many tokens a request will take, before anybody has counted: what budgets reserve and routes compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway import codec
from gateway.models.limits import max_output
from gateway.models.neutral import Api

CHARACTERS_PER_TOKEN: Final = 3.5
"""Of text in Latin letters and of JSON; tokenizers find 3.3 to 4.5, so that this is rather too much than too little."""
IMAGE_TOKENS: Final = 1_600
"""What providers charge at most for a picture that they do not cut up."""
MESSAGE_TOKENS: Final = 4
_NOT_SHOWN: Final = frozenset({"model", "metadata", "user", "stop", "stop_sequences"})
"""Members that no model reads. Of others that nobody here knows, some server makes a part of the prompt."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """`output_tokens` is the most that the model may write."""

    input_tokens: int
    output_tokens: int


def estimate(api: Api, params: Mapping[str, object], *, max_output_tokens: int = 0) -> Estimate:
    """What a request will take. `max_output_tokens` is what the model can write at most, where that is known."""
    read = 0
    for name, value in params.items():
        if name not in _NOT_SHOWN:
            read += sum(_parts(value))
    if api == "embeddings":
        return Estimate(max(1, read), 0)
    return Estimate(max(1, read), max_output(api, params, max_output_tokens))


def text_tokens(text: str) -> int:
    """About how many tokens a text has: letters beyond ASCII are taken for one each."""
    plain = len(text) if text.isascii() else sum(character < "\x80" for character in text)
    return int(plain / CHARACTERS_PER_TOKEN + len(text) - plain) + (1 if text else 0)


def _parts(value: object) -> Iterator[int]:
    """The tokens of whatever stands there: its texts, its names, and pictures at a flat rate."""
    if isinstance(value, str):
        yield text_tokens(value)
    elif isinstance(value, dict):
        yield from _object(value)
    elif isinstance(value, list | tuple):
        if value and all(isinstance(inner, int) for inner in value):  # of a text that is given as tokens
            yield len(value)
            return
        for inner in value:
            yield from _parts(inner)


def _object(value: Mapping[str, object]) -> Iterator[int]:
    if "role" in value:
        yield MESSAGE_TOKENS
    if "parameters" in value or "input_schema" in value:  # a tool: all of it is shown to the model
        yield text_tokens(codec.dumps(value).decode())
        return
    for name, inner in value.items():
        if _holds_picture(value, name, inner):
            yield IMAGE_TOKENS
        else:
            yield from _parts(inner)


def _holds_picture(value: Mapping[str, object], name: str, inner: object) -> bool:
    """Whether a member is a picture and not words: no provider reads it as any where the words are said."""
    if name == "source":
        return value.get("type") == "image"
    return name in {"url", "image_url"} and isinstance(inner, str) and inner.startswith("data:image/")
