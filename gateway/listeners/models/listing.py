"""`/v1/models`: which models may be called, in the shape that the asker's API has for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol
from urllib.parse import unquote

from gateway import codec
from gateway.codec import JsonObject, JsonValue
from gateway.errors import UnknownResource
from gateway.listeners.models.inbound import MODELS
from gateway.models import Api
from gateway.types import Call, Identity, Resource

ACTION: Final = "model.list"
METHOD: Final = "models"
EVERY: Final = Resource("model", "*", name="*")
LOOK: Final = f"GET {MODELS} lists those that you may use"
_BEGAN: Final = "1970-01-01T00:00:00Z"
"""Anthropic's clients want a date for each model; nobody knows one."""


class Chooser(Protocol):
    """Which of these may the identity use? Raises rather than guess."""

    async def visible(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]: ...


class Directory(Protocol):
    """The models that there are."""

    def resolve(self, name: str) -> Resource:
        """What a name stands for; one that is not `known` where it stands for nothing."""

    def listed(self) -> Sequence[Resource]:
        """All that can be named, as far as anybody has written it down."""


def described(resource: Resource) -> JsonObject:
    """What a list knows of a model, whatever API it is for."""
    catalog = resource.catalog
    known: JsonObject = {
        name: value for name in ("context_tokens", "max_output_tokens") if isinstance(value := catalog.get(name), int)
    }
    return {"id": resource.id, "provider": resource.upstream, **{name: value for name, value in known.items() if value}}


def listed(api: Api, payload: bytes, path: str) -> bytes:
    """The answer to `GET /v1/models`, or to `GET /v1/models/NAME`. Raises `UnknownResource`."""
    value = codec.loads(payload)
    found = value.get("models") if isinstance(value, dict) else None
    models = [model for model in found if isinstance(model, dict)] if isinstance(found, list) else []
    shaped: list[JsonValue] = [(_anthropic if api == "messages" else _openai)(model) for model in models]
    if path == MODELS:
        return codec.dumps(_page(api, shaped))
    name = unquote(path.removeprefix(MODELS + "/"))
    for model in shaped:
        if isinstance(model, dict) and model["id"] == name:
            return codec.dumps(model)
    raise unknown(name)


def unknown(name: str) -> UnknownResource:
    """The answer for a model that does not exist, and for one that the caller may not know of."""
    return UnknownResource(f"model {name!r} does not exist or is not visible to you; {LOOK}")


def _page(api: Api, models: list[JsonValue]) -> JsonObject:
    if api != "messages":
        return {"object": "list", "data": models}
    ids = [model["id"] for model in models if isinstance(model, dict)]
    ends: JsonObject = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
    return {"data": models, "has_more": False, **ends}


def _openai(model: JsonObject) -> JsonObject:
    more: JsonObject = {name: value for name, value in model.items() if name not in {"id", "provider"}}
    return {"id": model["id"], "object": "model", "created": 0, "owned_by": model["provider"], **more}


def _anthropic(model: JsonObject) -> JsonObject:
    limits: JsonObject = {"max_input_tokens": model.get("context_tokens"), "max_tokens": model.get("max_output_tokens")}
    return {"type": "model", "id": model["id"], "display_name": model["id"], "created_at": _BEGAN, **limits}
