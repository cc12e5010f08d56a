"""Which host a connection goes to, and under what TLS settings."""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS: Final[dict[str, int]] = {"http": 80, "https": 443}


@functools.cache
def shared_tls_context() -> ssl.SSLContext:
    """The one TLS context that all upstreams share, made when the first `https` upstream appears.

    Reading the system's certificate authorities costs 30 to 45 ms of CPU, so it is done once per process.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what a pool of connections belongs to (RFC 6454 section 4)."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    address: str = ""
    """Where to connect, as a number, instead of looking the host up: one that was judged. TLS asks for the host."""

    @classmethod
    def parse(cls, url: str) -> Origin:
        """The origin of an absolute `http` or `https` URL. Raises `ValueError` that says what is wrong with the URL."""
        return split_url(url)[0]

    @property
    def authority(self) -> str:
        """The `Host` header's value: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def split_url(url: str) -> tuple[Origin, str]:
    """Origin and request target (path with query) of an absolute URL.

    Raises `ValueError` for other schemes, a missing host, and a user or password in the URL: those would end up in
    logs. The message holds no part of the URL but its scheme.
    """
    parts = urlsplit(url)
    match parts.scheme:
        case "http" | "https" as scheme:
            pass
        case other:
            raise ValueError(f"an upstream URL starts with http:// or https://, not with {other!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an upstream URL holds no user or password: configure the credential by reference")
    target = parts.path or "/"
    if parts.query:
        target += "?" + parts.query
    return Origin(scheme, _host_in(parts), _port_in(parts)), target


def _host_in(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if not host:
        raise ValueError("an upstream URL names a host")
    try:
        ascii_host = host.encode("idna").decode("ascii") if not host.isascii() else host
    except UnicodeError as exc:
        raise ValueError("the host of the upstream URL is not a name that DNS can hold") from exc
    if not all("\x21" <= char <= "\x7e" for char in ascii_host):
        raise ValueError("the host of the upstream URL holds a space or a control character")
    return ascii_host


def _port_in(parts: SplitResult) -> int:
    port = parts.port  # raises ValueError itself when out of range
    return _DEFAULT_PORTS[parts.scheme] if port is None else port
