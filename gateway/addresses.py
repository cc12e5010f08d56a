"""Which addresses others may have us connect to: public ones, and what they are granted beyond them.

A box, a push notification's receiver and an issuer of tokens each name hosts of their choosing.

Rules, in this order:

1. An IPv4 address wrapped into IPv6 (`::ffff:a.b.c.d`) is that IPv4 address.
2. "This host", multicast, broadcast and local NAT64 are no destination, whatever is granted.
3. Link-local addresses and those of the clouds' metadata services need a range that names exactly that one address.
4. Everything else that is not public needs a range that contains it.
5. An IPv6 address that carries an IPv4 address (NAT64, 6to4, Teredo, ISATAP ...) leads to that address as well: both
   have to pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


_NOWHERE: Final = _networks(
    "0.0.0.0/8",
    "255.255.255.255",
    "224.0.0.0/4",
    "::",
    "ff00::/8",
    "64:ff9b:1::/48",  # NAT64 of a local network: which IPv4 address is meant depends on its configuration (RFC 8215)
)
_ONE_BY_ONE: Final = _networks(
    "169.254.0.0/16",  # link-local: 169.254.169.254 of most clouds, 169.254.170.2 of containers
    "fe80::/10",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::/32",
    "fd00:c1::/32",
    "fd20:ce::254",
)
_NOT_PUBLIC: Final = _networks(
    # The IANA registries of special-purpose addresses (RFC 6890), written out: `is_global` follows them only as far as
    # the Python at hand does.
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
)
_PUBLIC_V6: Final = IPv6Network("2000::/3")
"""All that has been given out so far; what is outside of it is translated, local or unknown."""

_LOW_32: Final = _networks("::/96", "::ffff:0:0:0/96", "64:ff9b::/96")
"""Where an IPv4 address stands in the last 32 bits: IPv4-compatible, translated (SIIT), NAT64."""
_LOOPBACK: Final = IPv6Address("::1")  # the one address in ::/96 that is no IPv4 address
_ISATAP: Final = (0x00005EFE, 0x02005EFE)


def passes(address: Address, ranges: Sequence[Network]) -> bool:
    """Whether this address may be connected to where `ranges` are granted."""
    plain = unwrapped(address)
    return _passes(plain, ranges) and all(_passes(inner, ranges) for inner in _carried(plain))


def unwrapped(address: Address) -> Address:
    """The IPv4 address in an IPv4-mapped one, else the address itself."""
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def parsed(text: str) -> Address | None:
    """The address that a resolver wrote; `None` for what is none, or has a zone and is of this machine only."""
    try:
        address = unwrapped(ip_address(text))
    except ValueError:
        return None
    return None if isinstance(address, IPv6Address) and address.scope_id else address


def named(address: Address, ranges: Sequence[Network]) -> bool:
    """Whether one of the ranges is exactly this address."""
    return any(network.num_addresses == 1 and address in network for network in ranges)


def _passes(address: Address, ranges: Sequence[Network]) -> bool:
    if _within(address, _NOWHERE):
        return False
    if _within(address, _ONE_BY_ONE):
        return named(address, ranges)
    return _within(address, ranges) or _is_public(address)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _PUBLIC_V6:
        return False
    return address.is_global and not _within(address, _NOT_PUBLIC)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)  # of another version: false


def _carried(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that an IPv6 address leads to."""
    if isinstance(address, IPv4Address):
        return
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    number = int(address)
    if (_within(address, _LOW_32) and address != _LOOPBACK) or (number >> 32) & 0xFFFFFFFF in _ISATAP:
        yield IPv4Address(number & 0xFFFFFFFF)
