"""The sections and keys of `interlock.toml`, as frozen pydantic models. `gateway/config.md` documents each key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from gateway.boxes import Level, steers_the_launcher
from gateway.config.decisions import Approvals, Decisions, Policy
from gateway.config.fields import (
    DRIVERS,
    MIB,
    Algorithm,
    Binds,
    DriverName,
    HttpUrl,
    Location,
    Name,
    Overrides,
    Reference,
    Section,
    Texts,
    boxed,
    database_url,
    fault,
    is_loopback,
    labelled,
    name_or_nothing,
    references,
    some,
)
from gateway.config.secrets import resolve_secret

ENVIRONMENTS: Final = "environments"
MODELS: Final = "models.toml"
ROUTED: Final = "models"
"""Who carries out calls of models by a route's name (`auto`); no upstream may be called so."""
PROVIDERS: Final = frozenset({"openai", "anthropic", "litellm", "echo"})
"""Types of upstreams that are providers of models and no MCP servers."""

_OF_PROVIDERS: Final = frozenset({"type", "url", "headers", "timeout_s", "max_result_bytes", "labels", "risk"})
_OF_MEMORY: Final = frozenset({"type", "timeout_s", "max_result_bytes", "labels", "risk", "pin", "tools"})


class Listen(Section):
    """Where clients reach the gateway."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    public_url: HttpUrl = ""
    allowed_hosts: Texts = ()
    allowed_origins: Texts = ()
    max_body_bytes: int = Field(default=4 * MIB, ge=1024, le=1024 * MIB)
    grpc_port: int = Field(default=0, ge=0, le=65535)

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        """The address that clients use: `public_url`, or the one that it listens on."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url.rstrip("/") or f"http://{host}:{self.port}"

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.host in {"0.0.0.0", "::", ""} and not (self.public_url or self.allowed_hosts):  # noqa: S104  # refused
            what = "listening on every address needs public_url or allowed_hosts: all else is refused (421)"
            raise fault("host", what, "public_url", "allowed_hosts")
        return self


class Issuer(Section):
    """Somebody whose tokens (JWTs) are trusted."""

    issuer: HttpUrl
    audience: str = ""
    jwks_uri: HttpUrl = ""
    algorithms: Annotated[tuple[Algorithm, ...], Field(strict=False, min_length=1)] = ("RS256", "ES256", "EdDSA")
    roles_claim: str = "roles"
    tenant_claim: str = "tenant"
    typ: str = "at+jwt"

    @model_validator(mode="after")
    def _named_issuer(self) -> Self:
        if not self.issuer:
            raise fault("issuer", "must be the address that the tokens carry in `iss`")
        return self


class Identity(Section):
    """Who may be behind a request. API keys need no entry here."""

    anonymous: str = Field(default="", max_length=200)
    issuers: Mapping[Name, Issuer] = {}


class State(Section):
    """Where keys and pins are kept."""

    dir: Location = Path(".interlock")
    url: Annotated[str, AfterValidator(database_url)] = ""
    password: Reference = ""

    def address(self, environ: Mapping[str, str] = os.environ) -> str:
        """`url` with the password in it, for the database driver and nobody else. Raises `ConfigError`."""
        if not self.password:
            return self.url
        parts = urlsplit(self.url)
        user, _, host = parts.netloc.rpartition("@")
        password = quote(resolve_secret(self.password, environ), safe="")
        return parts._replace(netloc=f"{user}:{password}@{host}").geturl()

    @model_validator(mode="after")
    def _password_has_a_user(self) -> Self:
        if self.password and not urlsplit(self.url).username:
            raise fault("password", "needs a url with a user, like postgresql+asyncpg://user@host/name", "url")
        return self


class Audit(Section):
    """How long the record of calls is kept."""

    retention_days: int = Field(default=400, ge=1, le=36_500)


class Telemetry(Section):
    """Where spans and metrics go."""

    otlp_endpoint: HttpUrl = ""
    otlp_headers: Annotated[Mapping[str, str], AfterValidator(references)] = {}
    environment: str = Field(default="dev", min_length=1)


class Limits(Section):
    """What one call, one principal and one upstream may use up."""

    call_timeout_s: float = Field(default=60, gt=0, le=86_400)
    max_parked: int = Field(default=32, ge=0, le=100_000)
    max_concurrency: int = Field(default=64, ge=1, le=100_000)


class Sandbox(Section):
    """How code of others, that the gateway starts, is kept apart."""

    level: Annotated[Literal["none", "process", "vm-emulated", "gvisor", "vm"], AfterValidator(boxed)] = "process"
    drivers: Annotated[tuple[DriverName, ...], Field(strict=False), AfterValidator(some)] = (
        "microsandbox",
        "qemu",
        "gvisor",
        "bubblewrap",
    )
    pool: int = Field(default=0, ge=0, le=1000)

    @model_validator(mode="after")
    def _can_be_held(self) -> Self:
        if not any(DRIVERS[name].holds(Level(self.level)) for name in self.drivers):
            what = f'level = "{self.level}" is more than any of these drivers gives: add one, or ask for less'
            raise fault("drivers", what, "level", "drivers")
        return self


class Remote(Section):
    """What servers and agents behind the gateway have in common: one set of keys, with one meaning."""

    headers: Annotated[Mapping[str, str], AfterValidator(labelled)] = {}
    timeout_s: float = Field(default=60, gt=0, le=86_400)
    max_result_bytes: int = Field(default=16 * MIB, ge=1024, le=4096 * MIB)
    labels: Texts = ()
    risk: Literal["low", "medium", "high"] = "medium"
    pin: Literal["first-use", "manual"] = "first-use"


class Agent(Remote):
    """One A2A agent behind the gateway, by the address of its card. With `skills`, only as much of it as these."""

    card_url: HttpUrl
    skills: Texts = ()

    @model_validator(mode="after")
    def _has_a_card(self) -> Self:
        if not self.card_url:
            raise fault("card_url", "must be the address of the agent's card (.../.well-known/agent-card.json)")
        return self


class Upstream(Remote):
    """One server behind the gateway: over HTTP (`url`), as a process of ours (`command`), or built in (`sandbox`,
    `memory`); or a provider of models."""

    type: Literal["mcp", "sandbox", "memory", "openai", "anthropic", "litellm", "echo"]
    url: HttpUrl = ""
    command: Texts = ()
    env: Annotated[Mapping[str, str], AfterValidator(labelled)] = {}
    cwd: Location = Path()
    sandbox: Literal["", "none", "process", "vm-emulated", "gvisor", "vm"] = ""
    binds: Binds = ()
    environment: Annotated[str, AfterValidator(name_or_nothing)] = ""
    idle_s: float = Field(default=300, gt=0, le=604_800)
    era: Literal["auto", "legacy", "modern"] = "auto"
    tools: Texts = ("*",)

    @model_validator(mode="after")
    def _reached_in_one_way(self) -> Self:
        if self.type == "sandbox":
            return self._built_in()
        if self.type != "mcp":
            return self._without_process()
        if bool(self.url) == bool(self.command):
            raise fault("", "needs either url (HTTP) or command (a process), and not both", "url", "command")
        if self.command and self.headers:
            raise fault("headers", "headers are for upstreams with url; give a process its credentials with env")
        if self.url and self.env:
            raise fault("env", "env is for upstreams with command; give an HTTP upstream its credentials with headers")
        return self

    def _built_in(self) -> Self:
        for key in ("url", "command", "env", "headers", "binds"):
            if getattr(self, key):
                what = f'{key} is not for type = "sandbox", which runs what callers send: see `environment`'
                raise fault(key, what, "type")
        if self.sandbox == "none":
            raise fault("sandbox", "code that callers send never runs on the host: remove it, or give a level", "type")
        return self

    @property
    def in_a_box(self) -> bool:
        """Whether the gateway starts something for it, and in a sandbox."""
        return self.type in {"mcp", "sandbox"} and not self.url and self.sandbox != "none"

    @property
    def is_provider(self) -> bool:
        """Whether it is a provider of models."""
        return self.type in PROVIDERS

    def _without_process(self) -> Self:
        known = _OF_PROVIDERS if self.is_provider else _OF_MEMORY
        known -= {"url", "headers"} if self.type == "echo" else set()
        for key in sorted(self.model_fields_set - known):
            what = f'{key} is not for type = "{self.type}", which has: {", ".join(sorted(known - {"type"}))}'
            raise fault(key, what, "type")
        return self

    @model_validator(mode="after")
    def _kept_apart_where_it_can_be(self) -> Self:
        for key in ("sandbox", "binds", "environment"):
            if self.url and getattr(self, key):
                raise fault(key, f"{key} is for what the gateway starts; an upstream with url runs elsewhere", "url")
        for key in ("binds", "environment"):
            if self.sandbox == "none" and getattr(self, key):
                raise fault(key, f'{key} is for a sandbox, and sandbox = "none" gives it none', "sandbox")
        steering = sorted(name for name in self.env if steers_the_launcher(name))
        if steering and self.sandbox != "none":
            what = (
                f"{', '.join(steering)}: would act on what builds its box too; set it in a script that is the command"
            )
            raise fault("env", what, "sandbox")
        return self


@dataclass(frozen=True, slots=True)
class Source:
    """Where settings came from, so that they can be read again."""

    path: Path
    overrides: Overrides


class Settings(Section):
    """All of `interlock.toml`."""

    _source: Source | None = PrivateAttr(default=None)
    _base_dir: Path = PrivateAttr(default=Path())

    listen: Listen = Listen()
    policy: Policy = Policy()
    identity: Identity = Identity()
    state: State = State()
    audit: Audit = Audit()
    telemetry: Telemetry = Telemetry()
    limits: Limits = Limits()
    decisions: Decisions = Decisions()
    approvals: Approvals = Approvals()
    sandbox: Sandbox = Sandbox()
    upstreams: Mapping[Name, Upstream] = {}
    agents: Mapping[Name, Agent] = {}

    @property
    def source(self) -> Source | None:
        """The file that was read, or `None` for settings made in code."""
        return self._source

    @property
    def environments(self) -> Path:
        """The directory of environments (`sandboxes/environments.md`): beside the file. It need not exist."""
        return self._base_dir / ENVIRONMENTS

    @property
    def models(self) -> Path:
        """The catalogue of models (`gateway/listeners/models/README.md`): beside the file. It need not exist."""
        return self._base_dir / MODELS

    @property
    def servers(self) -> tuple[str, ...]:
        """The upstreams that are MCP servers."""
        return tuple([name for name, upstream in self.upstreams.items() if not upstream.is_provider])

    @property
    def providers(self) -> Mapping[str, Upstream]:
        """The upstreams that are providers of models."""
        return {name: upstream for name, upstream in self.upstreams.items() if upstream.is_provider}

    def model_post_init(self, context: object) -> None:
        """Remember what relative paths are relative to."""
        if isinstance(context, Mapping):
            self._base_dir = Path(context.get("base_dir", Path()))

    def came_from(self, source: Source) -> None:
        """Remember where these settings were read."""
        self._source = source

    @model_validator(mode="after")
    def _one_name_for_one_thing(self) -> Self:
        for name in self.agents:
            if name in self.upstreams:
                raise fault(f"agents.{name}", "is the name of an upstream too: rules could not tell the two apart")
        if ROUTED in self.providers:
            what = "is what the routes of models.toml are carried out by: give the provider another name"
            raise fault(f"upstreams.{ROUTED}", what)
        return self

    @model_validator(mode="after")
    def _anonymous_stays_at_home(self) -> Self:
        if self.identity.anonymous and not self.listen.on_loopback:
            raise fault("identity.anonymous", "is for loopback only: remove it, or set listen.host to 127.0.0.1")
        return self

    def audience(self, issuer: Issuer) -> str:
        """The audience that a token of this issuer must name: its own, or the address of this gateway."""
        return issuer.audience or self.listen.url
