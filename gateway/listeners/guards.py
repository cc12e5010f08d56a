"""The front door: which requests are looked at, and whom one may be from. The same for every protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from gateway.errors import Unauthenticated
from gateway.identity.bearer import bearer_of
from gateway.listeners.http import Headers, Scope
from gateway.types import Credentials

_PROXY_HEADERS: Final = frozenset(
    {
        b"forwarded", b"via", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto",
        b"x-forwarded-port", b"x-forwarded-server", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip",
    }
)  # fmt: skip
"""What proxies add; one that adds none of these cannot be told from a caller on this machine."""
MAX_CHAIN_BYTES: Final = 8_192
"""A token of this gateway's is shorter."""


@dataclass(frozen=True, slots=True)
class Guards:
    """What a request must satisfy before anything of it is read.

    `hosts` and `origins` are lower-case `host` or `host:port`, and whole origins; a loopback listener always takes
    loopback names (DNS rebinding: 2026-07-28, basic/transports/streamable-http, "Security & Endpoint").
    """

    max_body_bytes: int
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    loopback: bool = True

    def refusal(self, headers: Headers) -> tuple[int, str] | None:
        """Status and words when Host or Origin is not one that is served here."""
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or not self._host_allowed(hosts[0].decode("latin-1").lower()):
            return 421, "Host is not served here; add it to listen.allowed_hosts"
        origins = headers.get(b"origin")
        if origins is not None and not (
            len(origins) == 1 and self._origin_allowed(origins[0].decode("latin-1").lower())
        ):
            return 403, "Origin is not allowed; add it to listen.allowed_origins"
        return None

    def with_host(self, host: str) -> Guards:
        """The same for what is served at one more host."""
        return replace(self, hosts=self.hosts | {host.lower()})

    def _host_allowed(self, host: str) -> bool:
        name = _name_of(host)
        return host in self.hosts or name in self.hosts or (self.loopback and _is_loopback_name(name))

    def _origin_allowed(self, origin: str) -> bool:
        if origin in self.origins:
            return True
        try:
            parts = urlsplit(origin)
            name = parts.hostname or ""
        except ValueError:
            return False
        return self.loopback and parts.scheme in ("http", "https") and _is_loopback_name(name)


def _name_of(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _is_loopback_name(name: str) -> bool:
    return name in ("localhost", "127.0.0.1", "[::1]", "::1")


def credentials_of(scope: Scope, headers: Headers) -> Credentials:
    """Who a request may be from. Behind a proxy everybody seems to come from loopback, so then nobody does."""
    client = scope.get("client")
    address: str = client[0] if client else ""  # type: ignore[index]  # ASGI: a pair of host and port, or nothing
    on_loopback = _PROXY_HEADERS.isdisjoint(headers) and _on_loopback(address)
    try:
        bearer, chain = bearer_of(headers.get(b"authorization", ())), _chain(headers.get(b"interlock-chain", ()))
        return Credentials(bearer, address, on_loopback, chain)
    except Unauthenticated as exc:
        return Credentials("", address, fault=str(exc))


def _chain(values: Sequence[bytes]) -> str:
    if len(values) > 1:
        raise Unauthenticated("more than one Interlock-Chain header came with the request: send one")
    if values and len(values[0]) > MAX_CHAIN_BYTES:
        raise Unauthenticated(f"the Interlock-Chain header is longer than {MAX_CHAIN_BYTES} bytes: leave it out")
    return values[0].decode("latin-1") if values else ""


@lru_cache(maxsize=4_096)
def _on_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
