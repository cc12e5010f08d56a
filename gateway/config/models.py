"""The catalogue of models, `models.toml` beside `interlock.toml`: what each costs and can hold, and the routes.

It need not exist: `provider/model` may be asked for wherever `provider` is a configured upstream, litellm's excepted.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gateway.config.fields import Location, Section, Texts, fault
from gateway.config.reading import faults_at, section_in, text_of
from gateway.config.suggestions import nearest
from gateway.config.tree import MODELS, Settings
from gateway.errors import InvalidCall
from gateway.models import Alias, Pinned, parse_name

AUTO: Final = "auto"
_UNWRITTEN: Final = '{0!r} is a model of type litellm, and those have to be written down: add [models."{0}"]'
MAX_MODELS: Final = 2_000
_PRICES: Final = ("usd_per_mtok_in", "usd_per_mtok_out", "usd_per_mtok_cached", "usd_per_mtok_cache_written")
_ROUTE: Final = re.compile(r"auto(?:-[a-z0-9][a-z0-9-]{0,30})?", re.ASCII)


def _model_name(name: str) -> str:
    try:
        parsed = parse_name(name)
    except InvalidCall as exc:
        raise ValueError(str(exc)) from None
    if not isinstance(parsed, Pinned):
        raise ValueError("is the name of a route, and a model is wanted; routes are written as [routes.auto]")  # noqa: TRY004  # pydantic's way
    return name


def _route_name(name: str) -> str:
    if not _ROUTE.fullmatch(name):
        raise ValueError("a route is called auto, or auto- and more of a-z, 0-9 and -")
    return name


def _asked_for(name: str) -> str:
    try:
        parse_name(name)
    except InvalidCall as exc:
        if name:
            raise ValueError(str(exc)) from None
    return name


ModelName = Annotated[str, AfterValidator(_model_name)]
RouteName = Annotated[str, AfterValidator(_route_name)]
Money = Annotated[float | None, Field(ge=0, le=1_000_000)]


class Model(Section):
    """One model. What is left out is taken from its name and from the list of prices that comes with litellm."""

    upstream: str = ""
    model: str = Field(default="", max_length=256)
    region: str = Field(default="", max_length=64)
    usd_per_mtok_in: Money = None
    usd_per_mtok_out: Money = None
    usd_per_mtok_cached: Money = None
    usd_per_mtok_cache_written: Money = None
    context_tokens: int = Field(default=0, ge=0, le=1_000_000_000)
    max_output_tokens: int = Field(default=0, ge=0, le=1_000_000_000)
    labels: Texts = ()
    tier: str = Field(default="", max_length=64)
    lacks: Annotated[tuple[Literal["tools", "json_schema", "images", "streaming"], ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _has_both_prices(self) -> Self:
        for given in _PRICES:
            for missing in _PRICES[:2]:  # without which none of them holds
                if getattr(self, given) is not None and getattr(self, missing) is None:
                    raise fault(missing, f"is required beside {given}", given)
        return self


class Route(Section):
    """One name that stands for several models, of which one is chosen for each call."""

    weak: ModelName
    strong: ModelName
    quality: float = Field(default=0.95, ge=0, le=1)
    fallbacks: Annotated[tuple[ModelName, ...], Field(strict=False, max_length=16)] = ()
    retries: int = Field(default=1, ge=0, le=5)
    cooldown_s: float = Field(default=30, ge=0, le=86_400)
    router: Location | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All models that it may choose."""
        return tuple(dict.fromkeys((self.weak, self.strong, *self.fallbacks)))


class Catalogue(Section):
    """All of `models.toml`."""

    models: Annotated[Mapping[ModelName, Model], Field(max_length=MAX_MODELS)] = {}
    routes: Mapping[RouteName, Route] = {}
    sampling: Annotated[str, AfterValidator(_asked_for)] = ""

    def entry(self, name: str) -> tuple[str, Model] | None:
        """An entry by its name, or by what stands behind the provider in the name of just one."""
        if name in self.models:
            return name, self.models[name]
        found = [key for key in self.models if key.partition("/")[2] == name]
        return (found[0], self.models[found[0]]) if len(found) == 1 else None

    def known_as(self, provider: str, model: str) -> tuple[str, ...]:
        """The entries of a provider's model, by whatever name it goes there, in capitals or not."""
        wanted = model.casefold()
        return tuple(
            key
            for key, entry in self.models.items()
            if provider_of(key, entry) == provider
            and wanted in {entry.model.casefold(), key.removeprefix(f"{provider}/").casefold()}
        )

    def unknown(self, providers: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        """Where a provider is named that there is not."""
        for key, entry in self.models.items():
            if provider_of(key, entry) not in providers:
                yield ("models", key, *(("upstream",) if entry.upstream else ())), provider_of(key, entry)
        for path, name in self._used():
            if self.entry(name) is None and name.partition("/")[0] not in providers:
                yield path, name.partition("/")[0]
        pinned = self.sampling and parse_name(self.sampling)
        if isinstance(pinned, Pinned) and self.entry(self.sampling) is None and pinned.provider not in providers:
            yield ("sampling",), pinned.provider or self.sampling
        if isinstance(pinned, Alias) and pinned.route not in self.routes:
            yield ("sampling",), pinned.route

    def unwritten(self, providers: Container[str]) -> Iterator[tuple[tuple[str, ...], str]]:
        """Where a model of one of these providers is used that stands in no entry."""
        for path, name in (*self._used(), (("sampling",), self.sampling)):
            if self.entry(name) is None and name.partition("/")[0] in providers:
                yield path, name

    def _used(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """The models of the routes."""
        for route, described in self.routes.items():
            yield ("routes", route, "weak"), described.weak
            yield ("routes", route, "strong"), described.strong
            for name in described.fallbacks:
                yield ("routes", route, "fallbacks"), name


def provider_of(key: str, entry: Model) -> str:
    """The upstream that an entry belongs to."""
    return entry.upstream or key.partition("/")[0]


def load_models(settings: Settings) -> Catalogue:
    """The catalogue beside these settings' file; an empty one where there is none. Raises `ConfigError`."""
    if not settings.models.is_file():
        return Catalogue()
    return loads_models(text_of(settings.models), settings)


def loads_models(text: str, settings: Settings) -> Catalogue:
    """The catalogue in that text. Raises `ConfigError` with every fault, the line of each, and what was meant."""
    catalogue = section_in(Catalogue, text, settings.models.parent, MODELS)
    providers = tuple(settings.providers)
    faults = [(path, _no_provider(name, providers)) for path, name in catalogue.unknown(providers)]
    of_litellm = {name for name, spec in settings.providers.items() if spec.type == "litellm"}
    faults += [(path, _UNWRITTEN.format(name)) for path, name in catalogue.unwritten(of_litellm)]
    if faults:
        raise faults_at(faults, text, MODELS)
    return catalogue


def _no_provider(name: str, providers: tuple[str, ...]) -> str:
    hint = nearest(name, providers).removeprefix("unknown key; ") if providers else "none is configured"
    if name.startswith(AUTO):
        return f"there is no [routes.{name}]"
    return f"{name!r} is no upstream of type openai, anthropic, litellm or echo; {hint}"
