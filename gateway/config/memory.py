"""`memory.toml`, beside the configuration: where vectors are, who makes them, and what holds in which namespace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.config.fields import HttpUrl, Reference, Section, fault, labelled
from gateway.config.reading import section_in, text_of

FILE: Final = "memory.toml"

Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class Index(Section):
    """Where the index of vectors is. `exact` is in process; `chroma` is a directory of ours, or with `url` a server."""

    kind: Literal["exact", "chroma"] = "exact"
    url: HttpUrl = ""
    headers: Annotated[Mapping[str, str], AfterValidator(labelled)] = {}

    @model_validator(mode="after")
    def _reached(self) -> Self:
        if self.url and self.kind != "chroma":
            raise fault("url", 'url is for kind = "chroma"', "kind")
        if self.headers and not self.url:
            raise fault("headers", "headers are for a Chroma server: give its url", "url")
        return self


class Embedder(Section):
    """Who makes vectors. `auto` is `minilm` where the extra `memory` is installed, else `hashing`."""

    kind: Literal["auto", "minilm", "hashing", "remote"] = "auto"
    url: HttpUrl = ""
    model: str = Field(default="", max_length=200)
    dimensions: int = Field(default=384, ge=8, le=8_192)
    key: Reference = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "remote" and not (self.url and self.model):
            raise fault("url", 'kind = "remote" needs a url (up to and with /v1) and a model', "model")
        if self.kind != "remote" and (self.url or self.model or self.key):
            raise fault("kind", 'url, model and key are for kind = "remote"', "url")
        return self


class NamespaceTerms(Section):
    """What holds in one namespace. Without an entry, records are kept until somebody forgets them."""

    retention_days: int = Field(default=0, ge=0, le=36_500)
    residency: str = Field(default="", max_length=64)
    legal_hold: bool = False


class MemorySettings(Section):
    """All of `memory.toml`."""

    index: Index = Index()
    embedder: Embedder = Embedder()
    namespaces: Mapping[Namespace, NamespaceTerms] = {}


def load_memory(file: Path) -> MemorySettings:
    """The settings in that file, or those of none. Raises `ConfigError` with every fault and its line."""
    if not file.is_file():
        return MemorySettings()
    return section_in(MemorySettings, text_of(file), file.parent, FILE)
