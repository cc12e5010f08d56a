"""The obligation `egress`: where the box of one call may connect to while the call runs, and how much.

It is a grant that several rules have to agree on: of several, what is in all of them. One that names neither hosts
nor ranges only caps what the others grant, and alone grants nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, TypeAlias, TypeVar

from gateway.authz.hosts import Address, HostPattern, canonical_host, host_pattern, in_both
from gateway.authz.reading import UnsupportedObligation, fields_of, texts_of, whole_number
from gateway.types import Obligation

Network: TypeAlias = IPv4Network | IPv6Network

MIB: Final = 1 << 20
MAX_PATTERNS: Final = 64
CAPS: Final[Mapping[str, int]] = {"max_connections": 10_000, "max_mb": 1 << 20, "max_s": 86_400}
"""The caps, and the most that each may be."""
WIDEST: Final[Mapping[int, int]] = {4: 8, 6: 7}
"""IP version -> shortest prefix of a range: the widest private ones are 10.0.0.0/8 and fc00::/7."""
FIELDS: Final = frozenset({"hosts", "ranges", *CAPS})
_MAPPED: Final = ip_network("::ffff:0:0/96")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Egress(Obligation):
    """Connections that a call may make from its box. `None` is no cap of policy's, so that the gateway's own holds."""

    hosts: tuple[HostPattern, ...] = ()
    ranges: tuple[Network, ...] = ()
    """Addresses that are not public and may be connected to all the same."""
    max_bytes: int | None = None
    """Both ways together, for each connection."""
    max_s: int | None = None
    """How long each connection may last."""
    max_connections: int | None = None
    """How many there may be at a time."""

    @property
    def caps_only(self) -> bool:
        """Whether it names neither hosts nor ranges."""
        return not self.properties.keys() & {"hosts", "ranges"}

    def grants(self, host: str, port: int) -> bool:
        """Whether it lets the call connect there: a name in lower case, or an address, without brackets."""
        canonical = canonical_host(host)
        return bool(canonical) and any(pattern.matches(canonical, port) for pattern in self.hosts)

    def reaches(self, address: Address) -> bool:
        """Whether an address that is not public is within its ranges. What stands in IPv6 for IPv4 is not."""
        return any(address in network for network in self.ranges)


def read_egress(properties: object) -> Egress:
    """Read one obligation. Raises `UnsupportedObligation`."""
    fields = fields_of(properties, FIELDS, "egress")
    if not fields:
        raise UnsupportedObligation("egress: give hosts, ranges or a cap")
    hosts = _patterns(fields, "hosts", host_pattern)
    ranges = _patterns(fields, "ranges", _network)
    caps = {cap: whole_number(fields[cap], most, f"egress: {cap}") for cap, most in CAPS.items() if cap in fields}
    return _egress(hosts, ranges, caps)


def _patterns(fields: Mapping[str, object], name: str, read: Callable[[str], T]) -> tuple[T, ...] | None:
    """What a list names; `None` when there is no list, which is not the same as an empty one."""
    if name not in fields:
        return None
    texts = texts_of(fields[name], f"egress: {name}")
    if len(texts) > MAX_PATTERNS:
        raise UnsupportedObligation(f"egress: at most {MAX_PATTERNS} {name}")
    try:
        return tuple(dict.fromkeys([read(text) for text in texts]))
    except ValueError as exc:
        raise UnsupportedObligation(f"egress: {name}: {exc}") from exc


def _network(text: str) -> Network:
    """A range such as 10.1.0.0/16, written canonically. The message of the error does not repeat it."""
    try:
        network = ip_network(text)
    except ValueError as exc:
        raise ValueError("a range is an address, / and the length of its prefix") from exc
    if "%" in text or str(network) != text or network.prefixlen < WIDEST[network.version]:
        raise ValueError("a range is written in its shortest form and at most as wide as 10.0.0.0/8 or fc00::/7")
    if network.version == 6 and network.overlaps(_MAPPED):
        raise ValueError("a range of IPv4 addresses is written as one")
    return network


def _egress(hosts: Sequence[HostPattern] | None, ranges: Sequence[Network] | None, caps: Mapping[str, int]) -> Egress:
    properties: dict[str, object] = {**caps}
    if hosts is not None:
        properties["hosts"] = [str(pattern) for pattern in hosts]
    if ranges is not None:
        properties["ranges"] = [str(network) for network in ranges]
    megabytes = caps.get("max_mb")
    return Egress(
        "egress",
        properties,
        tuple(hosts or ()),
        tuple(ranges or ()),
        None if megabytes is None else megabytes * MIB,
        caps.get("max_s"),
        caps.get("max_connections"),
    )


def merge_egress(items: Iterable[Egress]) -> Egress:
    """One for several: hosts and ranges that are in all that name any, and the least of each cap."""
    every = list(items)
    if len(every) == 1:
        return every[0]
    grants = [item for item in every if not item.caps_only]
    caps = {cap: min(given) for cap in CAPS if (given := [found for item in every if (found := _cap(item, cap))])}
    if not grants:
        return _egress(None, None, caps)
    hosts = reduce(in_both, [item.hosts for item in grants])
    ranges = reduce(_in_both_ranges, [item.ranges for item in grants])
    names = {name for item in grants for name in ("hosts", "ranges") if name in item.properties}
    return _egress(hosts if "hosts" in names else None, ranges if "ranges" in names else None, caps)


def _cap(item: Egress, name: str) -> int:
    value = item.properties.get(name)
    return value if isinstance(value, int) else 0


def _in_both_ranges(one: Iterable[Network], other: Iterable[Network]) -> tuple[Network, ...]:
    others = tuple(other)
    found = [both for mine in one for theirs in others if (both := _both(mine, theirs)) is not None]
    return tuple(dict.fromkeys(found))


def _both(one: Network, other: Network) -> Network | None:
    """Two ranges are apart, or one is within the other."""
    if not one.overlaps(other):
        return None
    return one if one.prefixlen >= other.prefixlen else other
