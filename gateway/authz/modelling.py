"""The obligation `model`: which models a call may reach, how much they may write, and whether before all is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from gateway.authz.reading import UnsupportedObligation, fields_of, texts_of, whole_number
from gateway.types import Call, Obligation, Resource

ACTION: Final = "model.call"
ROUTED: Final = "models"
"""Who carries out calls of models by a route's name: the calls that it makes are each held to their own permit."""
MAX_TOKENS: Final = 1 << 30
MODEL_FIELDS: Final = frozenset({"models", "regions", "max_tokens", "stream"})


@dataclass(frozen=True, slots=True)
class Model(Obligation):
    """Narrows a call of a model. `models` and `regions` hold one group of patterns for each rule: all must match."""

    models: tuple[tuple[str, ...], ...] = ()
    regions: tuple[tuple[str, ...], ...] = ()
    max_tokens: int = 0
    stream: bool = True


def read_model(properties: object) -> Model:
    """What policy asks for. Raises `UnsupportedObligation`."""
    fields = fields_of(properties, MODEL_FIELDS, "model")
    if not fields:
        raise UnsupportedObligation("model: give models, regions, max_tokens or stream = false")
    limit = whole_number(fields["max_tokens"], MAX_TOKENS, "model: max_tokens") if "max_tokens" in fields else 0
    if fields.get("stream", False) is not False:
        raise UnsupportedObligation("model: stream can only be false; without it, callers choose")
    return _model(_group(fields, "models"), _group(fields, "regions"), limit, stream="stream" not in fields)


def _group(fields: Mapping[str, object], name: str) -> tuple[tuple[str, ...], ...]:
    if name not in fields:
        return ()
    texts = texts_of(fields[name], f"model: {name}")
    if not texts:
        raise UnsupportedObligation(f"model: {name} is empty, which no model matches; deny the call instead")
    return (tuple(texts),)


def _model(
    models: Iterable[tuple[str, ...]], regions: Iterable[tuple[str, ...]], max_tokens: int, *, stream: bool
) -> Model:
    every, places = tuple(dict.fromkeys(models)), tuple(dict.fromkeys(regions))
    properties: dict[str, object] = {
        **({"models": [list(group) for group in every]} if every else {}),
        **({"regions": [list(group) for group in places]} if places else {}),
        **({"max_tokens": max_tokens} if max_tokens else {}),
        **({} if stream else {"stream": False}),
    }
    return Model("model", properties, every, places, max_tokens, stream)


def merge_models(found: Sequence[Model]) -> Sequence[Model]:
    """One in place of several: the strictest of all."""
    if not found:
        return ()
    models = [group for item in found for group in item.models]
    regions = [group for item in found for group in item.regions]
    limits = [item.max_tokens for item in found if item.max_tokens]
    return (_model(models, regions, min(limits, default=0), stream=all(item.stream for item in found)),)


def check_model(call: Call, obligations: Iterable[Obligation]) -> str:
    """Why a permit does not reach this model, for its caller; empty where it does.

    Raises `UnsupportedObligation` for an action that reaches no model.
    """
    for item in obligations:
        if not isinstance(item, Model):
            continue
        if call.action != ACTION:
            raise UnsupportedObligation(f"model: {call.action} asks no model; name the action in the rule")
        if call.resource.upstream != ROUTED and (why := outside(item, call.resource)):
            return why
    return ""


def outside(model: Model, resource: Resource) -> str:
    """Why a model is not one that the obligation leaves; empty where it is."""
    if not all(_matches(resource.id, group) for group in model.models):
        return f"policy leaves {_words(model.models)} of the models"
    region = resource.catalog.get("region")
    if not all(isinstance(region, str) and region and _matches(region, group) for group in model.regions):
        where = region if isinstance(region, str) and region else "nobody knows where"
        return f"policy leaves {_words(model.regions)} of the regions, and this model runs in {where}"
    return ""


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _words(groups: Sequence[Sequence[str]]) -> str:
    return " and ".join(" or ".join(group) for group in groups)
