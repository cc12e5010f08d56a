"""How much a caller lets a model write: read so that policy and budgets never take it for less than its provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.errors import InvalidCall
from gateway.models.facts import disguised
from gateway.models.neutral import Api
from gateway.models.reading import MAX_NAME

DEFAULT_OUTPUT_TOKENS: Final = 4_096
MAX_LIMIT: Final = 2**31 - 1
MAX_CHOICES: Final = 128
_OTHER_MODELS: Final = ("models", "fallbacks")
"""What routers behind the API of OpenAI (OpenRouter, litellm's proxy) read other models from."""
_LIMITS: Final[Mapping[Api, tuple[str, ...]]] = {
    "chat.completions": ("max_completion_tokens", "max_tokens", "n_predict"),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
    "embeddings": (),
}
"""`n_predict` is llama.cpp's, whose server prefers it to the others."""


def check_limits(api: Api, params: Mapping[str, object]) -> None:
    """Raises `InvalidCall` for numbers that some servers would read and the gateway would not (`5.0`, `"5"`)."""
    for name in _LIMITS[api]:
        value = params.get(name)
        if value is not None and not (type(value) is int and 0 <= value <= MAX_LIMIT):
            raise InvalidCall(f"{name} is not a whole number up to {MAX_LIMIT}")
    choices = params.get("n")
    if api == "chat.completions" and choices is not None and not (type(choices) is int and 1 <= choices <= MAX_CHOICES):
        raise InvalidCall(f"n is not a whole number from 1 to {MAX_CHOICES}")


def check_reach(params: Mapping[str, object]) -> None:
    """Raises `InvalidCall` for what would have the provider do more than the one call that policy decides on."""
    if params.get("background") not in (None, False):
        raise InvalidCall("background: no policy and no budget sees an answer that is fetched later; leave it out")
    if odd := disguised(params)[:MAX_NAME]:
        raise InvalidCall(f"{odd}: servers may take it for another member; write that as its API does")
    for name in _OTHER_MODELS:
        if params.get(name):
            raise InvalidCall(f"{name}: the provider would choose another model than policy decides on; name a route")


def limit_of(api: Api, params: Mapping[str, object]) -> int | None:
    """The caller's own limit for one answer; which of two holds is up to the provider, so it is the higher one."""
    limits = [value for name in _LIMITS[api] if type(value := params.get(name)) is int and value >= 0]
    return max(limits, default=None)


def max_output(api: Api, params: Mapping[str, object], known: int = 0) -> int:
    """The most that a model may write for this request; `known` is what it can write at all, or 0."""
    limit = limit_of(api, params)
    several = params.get("n")
    times = several if type(several) is int and 1 <= several <= MAX_CHOICES else 1
    if limit is None:
        return times * (known or DEFAULT_OUTPUT_TOKENS)
    return times * (min(limit, known) if known else limit)


def capped(api: Api, params: Mapping[str, object], max_tokens: int) -> dict[str, object]:
    """The request with its limit on what the model writes no higher than this."""
    names = _LIMITS[api]
    if not names:
        return dict(params)
    given = {name: value for name in names if (value := params.get(name)) is not None}
    lowered = {
        name: min(value, max_tokens) if type(value) is int else max_tokens for name, value in given.items()
    }  # fmt: skip
    return {**params, **(lowered or {names[0]: max_tokens})}
