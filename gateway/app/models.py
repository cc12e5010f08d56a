"""Models: the catalogue that names are looked up in, and the providers behind it as running upstreams."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from gateway.app.code import Misconfigured
from gateway.app.model_path import Handler, ModelPath
from gateway.app.tracing import trace_of
from gateway.config.models import Catalogue, Model, provider_of
from gateway.config.secrets import resolve_value
from gateway.config.tree import ROUTED, Settings, Upstream
from gateway.errors import ConfigError, InvalidCall, Unauthenticated, UnknownResource
from gateway.identity.metadata import challenge, metadata_url
from gateway.listeners.guards import Guards
from gateway.listeners.models.endpoint import ModelParts, ModelsEndpoint
from gateway.listeners.models.listing import Chooser
from gateway.listeners.models.replays import Replays
from gateway.models import Alias, Price, parse_name, price_facts, price_from
from gateway.ports import Identifier
from gateway.ports import Upstream as Carrier
from gateway.running import Runnable
from gateway.types import EMPTY, Call, FrozenDict, Resource, freeze

if TYPE_CHECKING:
    from adapters.models.prices import KnownModel, PriceList

ECHO: Final = "echo"
"""The one model of a provider of that type that is listed without being written down."""
BY_CATALOGUE: Final = "litellm"
"""Its names of models say which vendor, or which port of this host, is sent the key: not for callers to choose."""
_FREE: Final = Price()


class Models:
    """The models that can be named now. `routed` carries out calls by a route's name, once there is something."""

    def __init__(self) -> None:
        self.routed: Carrier | None = None
        self.catalogue = Catalogue()
        self._providers: Mapping[str, Upstream] = {}
        self._prices: PriceList | None = None
        self.generation = 0
        """Counts what was configured: another one may stand for other models by the same names."""

    def configure(self, settings: Settings, catalogue: Catalogue) -> None:
        """Take these for the ones that can be named."""
        self._providers = settings.providers
        self.catalogue = catalogue
        self.generation += 1
        if any(spec.type != ECHO for spec in self._providers.values()):
            self.prices()  # now, while nobody waits

    def resolve(self, name: str) -> Resource:
        """What a name stands for; one that is not `known` where it stands for nothing."""
        try:
            parsed = parse_name(name)
        except InvalidCall:
            return _unknown(name)
        if isinstance(parsed, Alias):
            return self._route(parsed)
        spec = self._providers.get(parsed.provider)
        found = self.catalogue.entry(name) if spec is None or name in self.catalogue.models else None
        if found is not None:
            return self._written(*found)
        if spec is None:
            return _unknown(name)
        same = self.catalogue.known_as(parsed.provider, parsed.model)
        if same:  # one entry has its labels and its price; of several, nobody knows which are meant
            return self._written(same[0], self.catalogue.models[same[0]]) if len(same) == 1 else _unknown(name)
        free = spec.type != BY_CATALOGUE
        return self._resource(parsed.provider, parsed.model, spec, Model()) if free else _unknown(name)

    def listed(self) -> Sequence[Resource]:
        """The catalogue, the routes, and what is built in."""
        every = [self.resolve(name) for name in (*self.catalogue.routes, *self.catalogue.models)]
        every += [self.resolve(f"{name}/{ECHO}") for name, spec in self._providers.items() if spec.type == ECHO]
        return [resource for resource in {resource.id: resource for resource in every}.values() if resource.known]

    def upstream_for(self, call: Call) -> Carrier | None:
        """What carries out calls by a route's name. Raises `UnknownResource` while nothing does."""
        if call.resource.type != "model" or call.resource.upstream != ROUTED:
            return None
        if self.routed is None:
            raise UnknownResource(f"model {call.resource.name!r} does not exist or is not visible to you")
        return self.routed

    def _route(self, alias: Alias) -> Resource:
        known = alias.route in self.catalogue.routes and self.routed is not None
        return Resource("model", str(alias), upstream=ROUTED, name=str(alias), known=known)

    def _written(self, key: str, entry: Model) -> Resource:
        provider = provider_of(key, entry)
        spec = self._providers.get(provider)
        if spec is None:
            return _unknown(key)
        return self._resource(provider, key.removeprefix(f"{provider}/"), spec, entry, key)

    def _resource(self, provider: str, name: str, spec: Upstream, entry: Model, key: str = "") -> Resource:
        facts = self._facts(provider, name, spec, entry)
        frozen = freeze(facts)
        catalog = frozen if isinstance(frozen, FrozenDict) else EMPTY
        return Resource("model", key or f"{provider}/{name}", upstream=provider, name=name, catalog=catalog)

    def _facts(self, provider: str, name: str, spec: Upstream, entry: Model) -> dict[str, object]:
        model = entry.model or name
        known = self._known(model, spec)
        listed = _FREE if spec.type == ECHO else known.price if known is not None else None
        price = price_from(entry.model_dump()) or listed
        return {
            "risk": spec.risk,
            "labels": tuple(dict.fromkeys((*spec.labels, *entry.labels))),
            "provider": provider,
            "api": spec.type,
            "model": model,
            "region": entry.region,
            "tier": entry.tier,
            "lacks": entry.lacks,
            "context_tokens": entry.context_tokens or (known.context_tokens if known is not None else 0),
            "max_output_tokens": entry.max_output_tokens or (known.max_output_tokens if known is not None else 0),
            **(price_facts(price) if price is not None else {}),
        }

    def _known(self, model: str, spec: Upstream) -> KnownModel | None:
        if spec.type == ECHO:
            return None
        prices = self.prices()
        return prices.find(model, spec.type) if spec.type != "litellm" else prices.find(model)

    def prices(self) -> PriceList:
        """The list of prices, read when the first model is looked up that may stand in it."""
        if self._prices is None:
            from adapters.models.prices import litellm_prices  # a file of 2 MB, for those who have models

            self._prices = litellm_prices()
        return self._prices


def _unknown(name: str) -> Resource:
    return Resource("model", name, name=name, known=False)


def model_upstream(name: str, spec: Upstream, timeout_s: float, prices: Callable[[], PriceList]) -> Runnable:
    """A provider of models that is not running yet. What is missing for it is said when it is run."""
    from adapters.models.terms import Terms  # none of these where no model is configured

    def price(model: str) -> Price | None:
        return prices().price(model, "" if spec.type == "litellm" else spec.type)

    try:
        headers = tuple([(key, resolve_value(value)) for key, value in spec.headers.items()])
        maker = _maker(spec.type)
    except ConfigError as exc:
        return Misconfigured(name, exc)
    free = spec.type == ECHO
    terms = Terms(
        name,
        spec.url,
        headers,
        min(spec.timeout_s, timeout_s),
        spec.max_result_bytes,
        (lambda _: _FREE) if free else price,
    )
    return cast("Runnable", maker(terms))


def _maker(kind: str) -> Callable[..., object]:
    if kind == "openai":
        from adapters.models.openai import openai_upstream

        return openai_upstream
    if kind == "anthropic":
        from adapters.models.anthropic import anthropic_upstream

        return anthropic_upstream
    if kind == "litellm":
        from adapters.models.litellm import litellm_upstream

        return litellm_upstream
    from adapters.models.echo import echo_upstream

    return echo_upstream


@dataclass(slots=True)
class ModelDoor:
    """The models, and what serves them once there is a path for their calls."""

    models: Models = field(default_factory=Models)
    endpoint: ModelsEndpoint | None = None

    def open(
        self,
        handler: Handler,
        identifier: Identifier,
        guards: Guards,
        chooser: Chooser,
        carrier: Callable[[Call], Carrier],
        new_id: Callable[[], str],
        url: str,
    ) -> None:
        """Serve `/v1/...`."""
        challenged = partial(_challenged, metadata_url(f"{url}/v1"))
        self.endpoint = ModelsEndpoint(
            ModelParts(
                ModelPath(handler, self.models, chooser, carrier),
                identifier,
                guards,
                self.models,
                new_id,
                trace_of,
                challenged,
                Replays(time.monotonic),
            )
        )


def _challenged(metadata: str, error: Unauthenticated) -> Unauthenticated:
    return Unauthenticated(str(error), challenge=challenge(error, resource_metadata_url=metadata))
