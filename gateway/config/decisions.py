"""Who decides: the sections about policies, the decisions they make, and the people who are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.config.fields import STARTER, HttpUrl, PolicyPath, Reference, Section, fault


class Policy(Section):
    """Who decides, and by which rules. With the embedded engine, `url` is where the rules come from, as a bundle."""

    engine: Literal["embedded", "opa", "authzen"] = "embedded"
    path: PolicyPath = Path(STARTER)
    url: HttpUrl = ""
    token: Reference = ""
    timeout_ms: int = Field(default=150, ge=1, le=60_000)
    isolation: Literal["auto", "inline", "process"] = "auto"
    cache: bool = True
    candidate: Annotated[PolicyPath | None, BeforeValidator(lambda path: path or None)] = None
    bundle_key: Reference = ""

    @property
    def from_bundle(self) -> bool:
        """Whether the rules are those of a bundle at `url`, and not those in `path`."""
        return self.engine == "embedded" and bool(self.url)

    @model_validator(mode="after")
    def _engine_has_an_address(self) -> Self:
        if self.engine != "embedded" and not self.url:
            raise fault("url", f'engine = "{self.engine}" needs url, for example "http://127.0.0.1:8181"', "url")
        if self.token and not self.url:
            raise fault("token", "is for url; remove it, or name the server", "url")
        return self

    @model_validator(mode="after")
    def _key_is_for_a_bundle(self) -> Self:
        if self.bundle_key and not self.from_bundle:
            what = 'is for a bundle, which engine = "embedded" loads from url; remove it, or name the bundle'
            raise fault("bundle_key", what, "engine", "url")
        return self


class Decisions(Section):
    """What is kept of each decision, so that it can be decided again under other rules."""

    retention_days: int = Field(default=30, ge=0, le=36_500)
    upload_url: HttpUrl = ""
    upload_token: Reference = ""

    @model_validator(mode="after")
    def _token_has_an_address(self) -> Self:
        if self.upload_token and not self.upload_url:
            raise fault("upload_token", "is for upload_url; remove it, or say where decisions are to go", "upload_url")
        if self.upload_url and not self.retention_days:
            what = "retention_days = 0 keeps no decisions, and so has none to send; remove it, or keep them for a day"
            raise fault("upload_url", what, "retention_days")
        return self


class Approvals(Section):
    """Who is told of calls that wait for people."""

    webhook_url: HttpUrl = ""
