"""Patterns of hosts that a rule may grant: `api.example.org`, `*.example.org:8443`, `[2001:db8::1]:443`.

They are written canonically: lower case, no trailing dot, addresses in their shortest form, those of IPv6 in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

DEFAULT_PORT: Final = 443
"""The port of a pattern without one. Unencrypted HTTP is granted by writing `:80`."""
MAX_NAME: Final = 253
MAX_PORT: Final = 65_535

Address: TypeAlias = IPv4Address | IPv6Address

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NUMBER: Final = r"(?:[0-9]+|0x[0-9a-f]*)"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*(?!{_NUMBER}\Z){_LABEL}", re.ASCII)
"""A name as in DNS. One that ends in a number would be read as an IPv4 address by some (`127.1`, `0x7f.1`)."""
_PATTERN: Final = re.compile(r"(?P<below>\*\.)?(?P<host>\[[^\[\]]*\]|[^\[\]:*]+)(?::(?P<port>[1-9][0-9]{0,4}))?")


@dataclass(frozen=True, slots=True)
class HostPattern:
    """One host on one port; with `below`, every name below `host` instead, and not `host` itself."""

    host: str
    port: int = DEFAULT_PORT
    below: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'*.' if self.below else ''}{host}:{self.port}"

    def matches(self, host: str, port: int) -> bool:
        """Whether it covers a host, which is canonical (`canonical_host`), on that port."""
        return port == self.port and (host.endswith(f".{self.host}") if self.below else host == self.host)

    def both(self, other: HostPattern) -> HostPattern | None:
        """What both cover, which is one of the two or nothing."""
        if self == other or (other.below and other.matches(self.host, self.port)):
            return self
        return other if self.below and self.matches(other.host, other.port) else None


@lru_cache(maxsize=1_024)  # the texts are policy's, few, and read at each call
def host_pattern(text: str) -> HostPattern:
    """Read a pattern. Raises `ValueError` for whatever is not exactly one; the message does not repeat it."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError("a host is a name, *. and a name, or an address ([..] for IPv6), and perhaps : and a port")
    port = int(match["port"] or DEFAULT_PORT)
    if port > MAX_PORT:
        raise ValueError(f"a port is at most {MAX_PORT}")
    host = _bare(match["host"])
    if canonical_host(host) != host or not host:
        raise ValueError("a host is written in lower case without a trailing dot, an address in its shortest form")
    below = match["below"] is not None
    if below and ("." not in host or _address(host) is not None):
        raise ValueError("after *. comes a name of two parts or more")
    return HostPattern(host, port, below)


def _bare(text: str) -> str:
    """Without the brackets, which are for IPv6 alone; empty where they are wrong."""
    if not text.startswith("["):
        return text
    return text[1:-1] if ":" in text else ""


def canonical_host(text: str) -> str:
    """A name or an address (without brackets) as patterns compare it; empty for anything else."""
    address = _address(text)
    if address is not None:
        return str(address)
    return text if len(text) <= MAX_NAME and _NAME.fullmatch(text) else ""


def _address(text: str) -> Address | None:
    """An address that is written as what it is: neither an IPv4 address in IPv6, nor one with a zone."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or address.scope_id is not None):
        return None
    return address


def in_both(one: Iterable[HostPattern], other: Iterable[HostPattern]) -> tuple[HostPattern, ...]:
    """Patterns that together cover what both collections cover."""
    others = tuple(other)
    found = [both for mine in one for theirs in others if (both := mine.both(theirs)) is not None]
    return tuple(dict.fromkeys(found))
