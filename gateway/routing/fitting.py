"""Which models can take a request at all: by their context window, their longest answer, and what they lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.errors import InvalidCall
from gateway.models import ProviderRefused, Talk, estimate, facts_of
from gateway.models.errors import CONTEXT_EXCEEDED
from gateway.models.limits import limit_of
from gateway.types import Resource

TOOLS: Final = "tools"
SCHEMA: Final = "json_schema"
IMAGES: Final = "images"
STREAMING: Final = "streaming"
LACKS: Final = (TOOLS, SCHEMA, IMAGES, STREAMING)
"""What the catalogue may say that a model lacks (`lacks`)."""
_STATES: Final = ("previous_response_id", "conversation", "container")
"""Members that name what one provider keeps: another knows nothing of it."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a request asks of a model. `writes` is the caller's own limit, or 0."""

    reads: int
    writes: int
    features: frozenset[str] = frozenset()


def needs_of(api: Talk, params: Mapping[str, object]) -> Needs:
    """What a model must have for this request. Raises `InvalidCall` where only one provider can go on."""
    for name in _STATES:
        if params.get(name):
            raise InvalidCall(f"{name} names what one provider keeps: name its model, and no route")
    facts = facts_of(api, params)
    wanted = {
        TOOLS: bool(facts["tools_count"]),
        IMAGES: facts["images"] is True,
        SCHEMA: wants_form(api, params),
        STREAMING: False,  # an answer that comes as a whole is turned into a stream
    }
    features = frozenset(name for name, needed in wanted.items() if needed)
    return Needs(estimate(api, params).input_tokens, limit_of(api, params) or 0, features)


def wants_form(api: Talk, params: Mapping[str, object]) -> bool:
    """Whether the answer must be of a form."""
    place: object = params
    path = {"chat.completions": ("response_format",), "responses": ("text", "format")}
    for name in path.get(api, ("output_config", "format")):
        place = place.get(name) if isinstance(place, Mapping) else None
    return isinstance(place, Mapping) and place.get("type") not in (None, "text")


def misfit(needs: Needs, resource: Resource) -> str:
    """Why a model cannot take such a request, for people; empty where it can, as far as anybody knows."""
    lacks = resource.catalog.get("lacks")
    missing = sorted(needs.features.intersection(lacks if isinstance(lacks, tuple | list) else ()))
    if missing:
        return f"has no {' and no '.join(missing)}"
    longest = _count(resource, "max_output_tokens")
    if longest and needs.writes > longest:
        return f"writes at most {longest} tokens"
    room = _count(resource, "context_tokens")
    if room and needs.reads + max(needs.writes, 1) > room:
        return f"holds at most {room} tokens"
    return ""


def _count(resource: Resource, name: str) -> int:
    value = resource.catalog.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def nothing_fits(needs: Needs, why: Sequence[str]) -> InvalidCall:
    """What a caller is told whose request no model of the route can take."""
    words = "; ".join(dict.fromkeys(why))
    if any("holds at most" in each for each in why) and not any("has no" in each for each in why):
        asked = f"about {needs.reads} tokens to read and {needs.writes} to write"
        return ProviderRefused(f"no model of this route takes {asked}: {words}", provider_code=CONTEXT_EXCEEDED)
    return InvalidCall(f"no model of this route can take this request: {words}")
