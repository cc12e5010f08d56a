"""Kinds of values in `interlock.toml`: what may stand there, and what is said when something else does."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from gateway.boxes import Level
from gateway.config.secrets import anchored, is_reference, looks_secret

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


def database_url(text: str) -> str:
    if not text:
        return text
    if urlsplit(text).scheme not in {"sqlite+aiosqlite", "postgresql+asyncpg"}:
        raise ValueError("must begin with sqlite+aiosqlite:// or postgresql+asyncpg://")
    if urlsplit(text).password:
        raise ValueError("must not hold a password; set state.password to a reference (env:NAME or file:PATH)")
    return text


def labelled(values: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
    """Literals are welcome where the name does not say that the value is a secret."""
    literal = sorted(name for name, value in values.items() if looks_secret(name) and not is_reference(value))
    if literal:
        raise ValueError(f"{', '.join(literal)}: must be a reference to a secret, env:NAME or file:PATH")
    return {name: anchored(value, _based(info)) for name, value in values.items()}


def references(values: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
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


def boxed(level: str) -> str:
    if level == "none":
        raise ValueError(
            'must be a level that holds something: code runs on the host only where sandbox = "none" is said '
            "at its own upstream"
        )
    return level


def some(drivers: tuple[str, ...]) -> tuple[str, ...]:
    if not drivers:
        raise ValueError("must name at least one driver: without any, nothing that needs a sandbox can run")
    return drivers


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name is 1 to 31 of a-z, 0-9, - and single _, and begins with a letter or digit")
    return name


def name_or_nothing(name: str) -> str:
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
DRIVERS: Final[Mapping[str, Level]] = {
    "microsandbox": Level.VM,
    "qemu": Level.VM,
    "qemu-tcg": Level.VM_EMULATED,
    "gvisor": Level.GVISOR,
    "bubblewrap": Level.PROCESS,
}
"""How strong each can be, by its name: known without loading one."""


def fault(key: str, what: str, *depends_on: str) -> PydanticCustomError:
    """A fault that several keys of a section make together, said at one of them."""
    return PydanticCustomError("fault", "{what}", {"key": key, "what": what, "depends_on": depends_on})


class Section(BaseModel):
    """What all sections share: no unknown key, no silent conversion, no change after reading."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, validate_default=True
    )
