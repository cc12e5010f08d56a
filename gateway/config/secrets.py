"""References to secrets: the configuration says where one is kept (`env:NAME`, `file:PATH`) and never what it is.

A header may put an authentication scheme in front (`Bearer env:TOKEN`), since that is how credentials are sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.errors import ConfigError

MAX_SECRET_BYTES: Final = 64 * 1024

_ENV = re.compile(r"(?:([A-Za-z]+) )?env:([A-Za-z_][A-Za-z0-9_]*)")
_FILE = re.compile(r"(?:([A-Za-z]+) )?file:(.+)")
_SENSITIVE = re.compile(
    r"authorization|cookie|passw|secret|token|credential|private.?key|api.?key|access.?key|(^|[_-])(key|pwd|auth|dsn)$",
    re.IGNORECASE,
)


def is_reference(text: str) -> bool:
    """Whether this says where a secret is kept."""
    return bool(_ENV.fullmatch(text) or _FILE.fullmatch(text))


def file_of(text: str) -> Path | None:
    """The file that a reference leads to; `None` for one that leads elsewhere, and for what is none."""
    match = _FILE.fullmatch(text)
    return Path(match[2]) if match is not None and not _ENV.fullmatch(text) else None


def looks_secret(name: str) -> bool:
    """Whether a variable or header of this name usually carries a secret, so that its value must be a reference."""
    return bool(_SENSITIVE.search(name))


def anchored(reference: str, base_dir: Path) -> str:
    """The same reference with its path made absolute: relative ones are relative to the configuration file."""
    match = _FILE.fullmatch(reference)
    if match is None or _ENV.fullmatch(reference):
        return reference
    scheme = f"{match[1]} " if match[1] else ""
    return f"{scheme}file:{base_dir / Path(match[2]).expanduser()}"


def resolve_secret(reference: str, environ: Mapping[str, str] = os.environ) -> str:
    """The secret that a reference leads to.

    Raises `ConfigError` when it is not there, is empty, or is no reference at all (which is then not repeated).
    """
    if match := _ENV.fullmatch(reference):
        return _prefixed(match[1], _from_environment(match[2], environ))
    if match := _FILE.fullmatch(reference):
        return _prefixed(match[1], _from_file(Path(match[2])))
    raise ConfigError([("secret", "is not a reference; write env:NAME or file:PATH")])


def resolve_value(value: str, environ: Mapping[str, str] = os.environ) -> str:
    """A value that may be a literal: a reference is followed, anything else is itself."""
    return resolve_secret(value, environ) if is_reference(value) else value


def _prefixed(scheme: str | None, secret: str) -> str:
    return f"{scheme} {secret}" if scheme else secret


def _from_environment(name: str, environ: Mapping[str, str]) -> str:
    secret = environ.get(name, "")
    if not secret:
        raise ConfigError([(f"env:{name}", f"the environment variable {name} is not set or is empty; set it first")])
    return secret


def _from_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        secret = content.decode().strip("\r\n")
    except OSError as exc:
        raise ConfigError([(f"file:{path}", f"cannot be read: {exc.strerror}")]) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError([(f"file:{path}", "is not UTF-8 text")]) from exc
    if not secret or len(content) > MAX_SECRET_BYTES:
        raise ConfigError([(f"file:{path}", f"must hold one secret of 1 to {MAX_SECRET_BYTES} bytes")])
    return secret
