"""What configuration says of one provider, and what is read off a permitted call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.errors import InvalidCall
from gateway.models import APIS, Api, Price, capped, price_from
from gateway.models.calls import may_stream
from gateway.models.messages import DEFAULT_MAX_TOKENS
from gateway.types import Authorized, Permit, Resource


def unpriced(_model: str) -> Price | None:
    """Nothing is known of what models cost."""
    return None


@dataclass(frozen=True, slots=True)
class Terms:
    """How a provider is reached. Times are seconds, sizes bytes; `headers` carry the gateway's own credentials."""

    name: str
    url: str = ""
    """Up to and with `/v1`; empty: the provider's own."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout_s: float = 60.0
    """For a whole answer, and for every silence in a stream."""
    max_bytes: int = 16 * 1024 * 1024
    price: Callable[[str], Price | None] = unpriced
    """What a model of this provider costs where the catalogue does not say so."""
    max_stream_s: float = 3600.0
    """For a whole stream, however little of it comes at a time."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a permitted call asks of a provider: in which API, of which model, and whether as a stream."""

    api: Api
    params: Mapping[str, object]
    model: str
    stream: bool
    max_tokens: int
    price: Price | None


def job_of(authorized: Authorized, terms: Terms) -> Job:
    """Read a permitted call, narrowed as its permit says. Raises `InvalidCall` for a method of no model API."""
    call, resource = authorized.call, authorized.call.resource
    if call.method not in APIS:
        raise InvalidCall(f"{call.method!r} is not asked of models")
    api: Api = call.method
    model = model_of(resource)
    if resource.catalog.get("region") and call.params.get("inference_geo"):
        raise InvalidCall("inference_geo: this model runs where the catalogue says; leave it out")
    narrowed = _narrowed(api, call.params, authorized.permit)
    stream = api != "embeddings" and call.params.get("stream") is True and may_stream(authorized.permit)
    price = price_from(resource.catalog) or terms.price(model)
    return Job(api, narrowed, model, stream, _whole(resource.catalog.get("max_output_tokens")), price)


def model_of(resource: Resource) -> str:
    """What the provider itself calls the model."""
    named = resource.catalog.get("model")
    return named if isinstance(named, str) and named else resource.name


def _narrowed(api: Api, params: Mapping[str, object], permit: Permit) -> Mapping[str, object]:
    for obligation in permit.obligations:
        limit = obligation.properties.get("max_tokens") if obligation.type == "model" else None
        if isinstance(limit, int) and not isinstance(limit, bool):
            params = capped(api, params, limit)
    return params


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else DEFAULT_MAX_TOKENS
