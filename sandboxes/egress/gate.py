"""What the proxy asks of whoever decides: may this box reach that destination, and on which terms."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Literal, Protocol, TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a box wants to go.

    `host` is canonical, so that it can be compared as text: lower case, no brackets, no trailing dot; an address in its
    one usual form, an IPv4 address wrapped into IPv6 unwrapped; an international name as its ASCII (`xn--`) form.
    `method` is `CONNECT` for a tunnel, of which nothing more can be known.
    """

    host: str
    port: int
    scheme: Literal["tunnel", "http"]
    method: str

    @property
    def authority(self) -> str:
        """`host:port` as it is written in a request, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a permit allows. Public addresses always may be dialled; what else, stands in `ranges` (`addresses.py`)."""

    ranges: tuple[Network, ...] = ()
    max_bytes: int = 256 * MIB
    """Of both directions together."""
    max_s: float = 3600.0
    """From the first byte on."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one connection carried, for its record. Bytes are counted from the box's point of view.

    `address` is the one that was dialled, or that was refused. `ended` says why it is over: `closed` is the good end,
    `cancelled` says that the permit was taken back, the rest names the limit or the fault.
    """

    address: str = ""
    sent: int = 0
    received: int = 0
    ended: str = ""


class Carry(Protocol):
    """Carries the connection that a permit was given for. It can be called once."""

    async def __call__(self, terms: Terms) -> Traffic:
        """Resolve, check, dial and pump until the connection ends.

        Raises `PolicyDenied` for an address that the terms do not allow, `UpstreamUnavailable` and `UpstreamTimeout`
        when nobody can be reached, `PermitMismatch` when it is called again.
        """

    @property
    def traffic(self) -> Traffic:
        """What was carried so far; also after an error, and after it was cancelled."""


class Gate(Protocol):
    """Decides about each connection."""

    async def connect(self, box_id: str, destination: Destination, carry: Carry) -> None:
        """Ask policy, and run `carry` as what is permitted. Cancel it when the call that it was granted to ends.

        Raises `InterlockError` when it is refused; `str(error)` is shown to the box. Nothing was sent anywhere then,
        and no name was looked up.
        """
