"""The sections and keys of `interlock.toml`, as frozen pydantic models. `gateway/config.md` documents each key."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from gateway.boxes import Level, steers_the_launcher
from gateway.config.secrets import anchored, is_reference, looks_secret, resolve_secret

MIB: Final = 1024 * 1024
STARTER: Final = "starter"

Overrides: TypeAlias = Mapping[str, Mapping[str, object]]
"""Section to key to value: what the command line says instead of the file."""
NO_OVERRIDES: Final[Overrides] = {}

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]|_(?!_)){0,30}")
_BIND = re.compile(r"(?P<source>[^:\0]+)(?P<target>:/[^:\0]*)?(?P<mode>:r[ow])?")


def starter_policies() -> Path:
    """Where the policies that come with Interlock are."""
    return Path(__file__).resolve().parents[2] / "policies" / STARTER


def policy_library() -> Path:
    """Where the Rego is that turns rules into decisions; it is loaded together with any policies."""
    return starter_policies().with_name("lib")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener bound to that host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _based(info: ValidationInfo) -> Path:
    context: Mapping[str, Path] = info.context or {}
    return context.get("base_dir", Path())


def _reference(text: str, info: ValidationInfo) -> str:
    if not text:
        return text
    if not is_reference(text):
        raise ValueError("must be a reference to a secret, env:NAME or file:PATH, not the secret itself")
    return anchored(text, _based(info))


def _location(path: Path, info: ValidationInfo) -> Path:
    try:
        return _based(info) / path.expanduser()
    except RuntimeError as exc:
        raise ValueError(f"there is nobody whose home {path.parts[0]} could be") from exc


def _policies(path: Path, info: ValidationInfo) -> Path:
    return starter_policies() if path == Path(STARTER) else _location(path, info)


def _http_url(text: str) -> str:
    if not text:
        return text
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be an address: http:// or https://, and a host")
    if parts.username or parts.password:
        raise ValueError("must not hold a user or a password; send credentials with `headers` or a reference")
    return text


def _database_url(text: str) -> str:
    if not text:
        return text
    if urlsplit(text).scheme not in {"sqlite+aiosqlite", "postgresql+asyncpg"}:
        raise ValueError("must begin with sqlite+aiosqlite:// or postgresql+asyncpg://")
    if urlsplit(text).password:
        raise ValueError("must not hold a password; set state.password to a reference (env:NAME or file:PATH)")
    return text


def _labelled(values: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
    """Literals are welcome where the name does not say that the value is a secret."""
    literal = sorted(name for name, value in values.items() if looks_secret(name) and not is_reference(value))
    if literal:
        raise ValueError(f"{', '.join(literal)}: must be a reference to a secret, env:NAME or file:PATH")
    return {name: anchored(value, _based(info)) for name, value in values.items()}


def _references(values: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
    literal = sorted(name for name, value in values.items() if not is_reference(value))
    if literal:
        raise ValueError(f"{', '.join(literal)}: must be a reference to a secret, env:NAME or file:PATH")
    return {name: anchored(value, _based(info)) for name, value in values.items()}


def _binds(texts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    """The same with each source absolute; whether it may be shown is looked at when a box is made of it."""
    return tuple(_bind(text, info) for text in texts)


def _bind(text: str, info: ValidationInfo) -> str:
    match = _BIND.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r}: write it as /srv/data (read-only), /srv/data:rw, /srv/data:/in/box or /srv/data:/in/box:rw"
        )
    source = _location(Path(match["source"]), info)
    return f"{source}{match['target'] or ''}{match['mode'] or ''}"


def _boxed(level: str) -> str:
    if level == "none":
        raise ValueError(
            'must be a level that holds something: code runs on the host only where sandbox = "none" is said '
            "at its own upstream"
        )
    return level


def _some(drivers: tuple[str, ...]) -> tuple[str, ...]:
    if not drivers:
        raise ValueError("must name at least one driver: without any, nothing that needs a sandbox can run")
    return drivers


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name is 1 to 31 of a-z, 0-9, - and single _, and begins with a letter or digit")
    return name


def _name_or_nothing(name: str) -> str:
    return _named(name) if name else name


Name = Annotated[str, AfterValidator(_named)]
Reference = Annotated[str, AfterValidator(_reference)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Location = Annotated[Path, Field(strict=False), AfterValidator(_location)]
PolicyPath = Annotated[Path, Field(strict=False), AfterValidator(_policies)]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"
]  # fmt: skip
Texts = Annotated[tuple[str, ...], Field(strict=False)]
Binds = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_binds)]
DriverName = Literal["microsandbox", "qemu", "qemu-tcg", "gvisor", "bubblewrap"]
_DRIVERS: Final[Mapping[str, Level]] = {
    "microsandbox": Level.VM,
    "qemu": Level.VM,
    "qemu-tcg": Level.VM_EMULATED,
    "gvisor": Level.GVISOR,
    "bubblewrap": Level.PROCESS,
}
"""How strong each can be, by its name: known without loading one."""


def _fault(key: str, what: str, *depends_on: str) -> PydanticCustomError:
    """A fault that several keys of a section make together, said at one of them."""
    return PydanticCustomError("fault", "{what}", {"key": key, "what": what, "depends_on": depends_on})


class Section(BaseModel):
    """What all sections share: no unknown key, no silent conversion, no change after reading."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, validate_default=True
    )


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
            raise _fault("host", what, "public_url", "allowed_hosts")
        return self


class Policy(Section):
    """Who decides, and by which rules."""

    engine: Literal["embedded", "opa"] = "embedded"
    path: PolicyPath = Path(STARTER)
    url: HttpUrl = ""
    token: Reference = ""
    timeout_ms: int = Field(default=150, ge=1, le=60_000)
    isolation: Literal["auto", "inline", "process"] = "auto"
    cache: bool = True

    @model_validator(mode="after")
    def _opa_has_an_address(self) -> Self:
        if self.engine == "opa" and not self.url:
            raise _fault("url", 'engine = "opa" needs url, for example "http://127.0.0.1:8181"', "url")
        if self.engine == "embedded" and (self.url or self.token):
            raise _fault("engine", 'url and token are for engine = "opa"; remove them or change engine', "engine")
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
            raise _fault("issuer", "must be the address that the tokens carry in `iss`")
        return self


class Identity(Section):
    """Who may be behind a request. API keys need no entry here."""

    anonymous: str = Field(default="", max_length=200)
    issuers: Mapping[Name, Issuer] = {}


class State(Section):
    """Where keys and pins are kept."""

    dir: Location = Path(".interlock")
    url: Annotated[str, AfterValidator(_database_url)] = ""
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
            raise _fault("password", "needs a url with a user, like postgresql+asyncpg://user@host/name", "url")
        return self


class Audit(Section):
    """How long and in which portions the record of calls is kept."""

    retention_days: int = Field(default=400, ge=1, le=36_500)
    segment_mb: int = Field(default=64, ge=1, le=4096)
    checkpoint_s: float = Field(default=60, ge=1, le=86_400)


class Telemetry(Section):
    """Where spans and metrics go."""

    otlp_endpoint: HttpUrl = ""
    otlp_headers: Annotated[Mapping[str, str], AfterValidator(_references)] = {}
    service_name: str = Field(default="interlock", min_length=1)
    environment: str = Field(default="dev", min_length=1)


class Limits(Section):
    """What one call, one principal and one upstream may use up."""

    call_timeout_s: float = Field(default=60, gt=0, le=86_400)
    parked_ttl_s: float = Field(default=600, gt=0, le=86_400)
    max_parked: int = Field(default=32, ge=0, le=100_000)
    max_concurrency: int = Field(default=64, ge=1, le=100_000)


class Sandbox(Section):
    """How code of others, that the gateway starts, is kept apart."""

    level: Annotated[Literal["none", "process", "vm-emulated", "gvisor", "vm"], AfterValidator(_boxed)] = "process"
    drivers: Annotated[tuple[DriverName, ...], Field(strict=False), AfterValidator(_some)] = (
        "microsandbox",
        "qemu",
        "gvisor",
        "bubblewrap",
    )
    environments: Location = Path("environments")
    pool: int = Field(default=0, ge=0, le=1000)

    @model_validator(mode="after")
    def _can_be_held(self) -> Self:
        if not any(_DRIVERS[name].holds(Level(self.level)) for name in self.drivers):
            what = f'level = "{self.level}" is more than any of these drivers gives: add one, or ask for less'
            raise _fault("drivers", what, "level", "drivers")
        return self


class Remote(Section):
    """What servers and agents behind the gateway have in common: one set of keys, with one meaning."""

    headers: Annotated[Mapping[str, str], AfterValidator(_labelled)] = {}
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
            raise _fault("card_url", "must be the address of the agent's card (.../.well-known/agent-card.json)")
        return self


class Upstream(Remote):
    """One server behind the gateway: over HTTP (`url`), as a process of ours (`command`), or built in (`sandbox`)."""

    type: Literal["mcp", "sandbox"]
    url: HttpUrl = ""
    command: Texts = ()
    env: Annotated[Mapping[str, str], AfterValidator(_labelled)] = {}
    cwd: Location = Path()
    sandbox: Literal["", "none", "process", "vm-emulated", "gvisor", "vm"] = ""
    binds: Binds = ()
    environment: Annotated[str, AfterValidator(_name_or_nothing)] = ""
    idle_s: float = Field(default=300, gt=0, le=604_800)
    max_processes: int = Field(default=4, ge=1, le=1000)
    era: Literal["auto", "legacy", "modern"] = "auto"
    tools: Texts = ("*",)

    @model_validator(mode="after")
    def _reached_in_one_way(self) -> Self:
        if self.type == "sandbox":
            return self._built_in()
        if bool(self.url) == bool(self.command):
            raise _fault("", "needs either url (HTTP) or command (a process), and not both", "url", "command")
        if self.command and self.headers:
            raise _fault("headers", "headers are for upstreams with url; give a process its credentials with env")
        if self.url and self.env:
            raise _fault("env", "env is for upstreams with command; give an HTTP upstream its credentials with headers")
        return self

    def _built_in(self) -> Self:
        for key in ("url", "command", "env", "headers", "binds"):
            if getattr(self, key):
                what = f'{key} is not for type = "sandbox", which runs what callers send: see `environment`'
                raise _fault(key, what, "type")
        if self.sandbox == "none":
            raise _fault("sandbox", "code that callers send never runs on the host: remove it, or give a level", "type")
        return self

    @model_validator(mode="after")
    def _kept_apart_where_it_can_be(self) -> Self:
        for key in ("sandbox", "binds", "environment"):
            if self.url and getattr(self, key):
                raise _fault(key, f"{key} is for what the gateway starts; an upstream with url runs elsewhere", "url")
        for key in ("binds", "environment"):
            if self.sandbox == "none" and getattr(self, key):
                raise _fault(key, f'{key} is for a sandbox, and sandbox = "none" gives it none', "sandbox")
        steering = sorted(name for name in self.env if steers_the_launcher(name))
        if steering and self.sandbox != "none":
            what = (
                f"{', '.join(steering)}: would act on what builds its box too; set it in a script that is the command"
            )
            raise _fault("env", what, "sandbox")
        return self


@dataclass(frozen=True, slots=True)
class Source:
    """Where settings came from, so that they can be read again."""

    path: Path
    overrides: Overrides


class Settings(Section):
    """All of `interlock.toml`."""

    _source: Source | None = PrivateAttr(default=None)

    listen: Listen = Listen()
    policy: Policy = Policy()
    identity: Identity = Identity()
    state: State = State()
    audit: Audit = Audit()
    telemetry: Telemetry = Telemetry()
    limits: Limits = Limits()
    sandbox: Sandbox = Sandbox()
    upstreams: Mapping[Name, Upstream] = {}
    agents: Mapping[Name, Agent] = {}

    @property
    def source(self) -> Source | None:
        """The file that was read, or `None` for settings made in code."""
        return self._source

    def came_from(self, source: Source) -> None:
        """Remember where these settings were read."""
        self._source = source

    @model_validator(mode="after")
    def _one_name_for_one_thing(self) -> Self:
        for name in self.agents:
            if name in self.upstreams:
                raise _fault(f"agents.{name}", "is the name of an upstream too: rules could not tell the two apart")
        return self

    @model_validator(mode="after")
    def _anonymous_stays_at_home(self) -> Self:
        if self.identity.anonymous and not self.listen.on_loopback:
            raise _fault("identity.anonymous", "is for loopback only: remove it, or set listen.host to 127.0.0.1")
        return self

    def audience(self, issuer: Issuer) -> str:
        """The audience that a token of this issuer must name: its own, or the address of this gateway."""
        return issuer.audience or self.listen.url
