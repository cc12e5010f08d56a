"""Reads issuers' keys over HTTP, from addresses that an issuer may have (`gateway.identity.discovery.KeySource`).

Metadata of an issuer can name any URL. What is asked here therefore stays where the issuer is: no redirect is
followed, and each address is judged after the name is resolved, in the connection that then uses it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Mapping
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.addresses import passes
from gateway.identity.discovery import KeySource, KeysUnavailable
from gateway.identity.issuers import Reach, is_fetchable

MAX_BYTES: Final = 262_144
TIMEOUT_S: Final = 5.0

_PRIVATE: Final = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
_NAT64: Final = IPv6Network("64:ff9b::/96")
_HEADERS: Final = {"Accept": "application/json, application/jwk-set+json", "Accept-Encoding": "identity"}


class HttpKeySource:
    """One connection pool per reach, so that no connection to a near address is used for a far name.

    An asynchronous context manager: leaving it closes the connections.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        session = partial(_session, timeout_s=timeout_s)
        self._sessions: Mapping[Reach, aiohttp.ClientSession] = {
            "public": session("public"),
            "private": session("private"),
            "loopback": session("loopback"),
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            await session.close()

    async def fetch(self, url: str, reach: Reach) -> bytes:
        """The body of a 200 answer. Raises `KeysUnavailable` with what was wrong."""
        _check(url, reach)
        try:
            async with self._sessions[reach].get(url, headers=_HEADERS, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise KeysUnavailable(f"it answers with status {answer.status} (redirects are not followed)")
                return await self._body(answer)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise KeysUnavailable(f"it cannot be read: {exc or type(exc).__name__}") from exc

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > self._max_bytes:
                raise KeysUnavailable(f"it is larger than {self._max_bytes} bytes")
        return bytes(body)


def _session(reach: Reach, *, timeout_s: float) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(resolver=_Resolver(reach), limit=8, use_dns_cache=False)
    # No proxy and no netrc from the environment, no cookies: nothing but the configuration decides what is sent where.
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


def _check(url: str, reach: Reach) -> None:
    if not is_fetchable(url):
        raise KeysUnavailable("it is not an https URL (http only on loopback)")
    host = urlsplit(url).hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        return  # a name: its addresses are judged when they are known
    if not is_within(address, reach):
        raise KeysUnavailable(f"its address is not {reach}")


def is_within(address: IPv4Address | IPv6Address, reach: Reach) -> bool:
    """Whether an address may be asked. An IPv4 address inside an IPv6 one counts as what it is."""
    judged = _inner(address) if isinstance(address, IPv6Address) else address
    if reach == "loopback":
        return judged.is_loopback
    return passes(judged, _PRIVATE if reach == "private" else ())


def _inner(address: IPv6Address) -> IPv4Address | IPv6Address:
    if address in _NAT64:
        return IPv4Address(address.packed[12:])
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (address,))[-1]


class _Resolver(AbstractResolver):
    """The system's resolver, minus the addresses out of reach: what is judged is what is connected to."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        allowed = [
            ResolveResult(
                hostname=host, host=str(sockaddr[0]), port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST
            )
            for kind, _, proto, _, sockaddr in found
            if is_within(ip_address(str(sockaddr[0]).partition("%")[0]), self._reach)
        ]
        if not allowed:
            raise OSError(errno.EADDRNOTAVAIL, f"no address of {host} is {self._reach}")
        return allowed

    async def close(self) -> None:
        """Nothing is kept."""


_: type[KeySource] = HttpKeySource
