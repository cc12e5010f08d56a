"""From a permitted name to a connection: look up once, check every address, dial one of those that were checked."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio

from gateway.addresses import Address, named, parsed, passes
from gateway.errors import PolicyDenied, UpstreamTimeout, UpstreamUnavailable
from gateway.lookups import Lookups, is_own
from sandboxes.egress.gate import Destination, Network
from sandboxes.egress.limits import EgressLimits

Dial: TypeAlias = Callable[[str, int], Awaitable[socket.socket]]
"""A connection, not blocking, to an address. Raises `OSError`."""

MAX_TRIED: Final = 8

_WORDS: Final = {
    errno.ECONNREFUSED: "refuses the connection",
    errno.EHOSTUNREACH: "cannot be reached: no route to the host",
    errno.ENETUNREACH: "cannot be reached: no route to its network",
    errno.ETIMEDOUT: "does not answer",
}


@dataclass(frozen=True, slots=True)
class Router:
    """How connections to destinations come about. Each failure says for the box what was wrong with which of them."""

    dial: Dial
    limits: EgressLimits
    own: Callable[[str], bool] = is_own

    async def find(self, destination: Destination, lookups: Lookups) -> tuple[Address, ...]:
        """The addresses of a destination. Raises `UpstreamUnavailable`, `UpstreamTimeout`, and `PolicyDenied` for what
        is no address that can be judged.
        """
        literal = parsed(destination.host)
        if literal is not None:
            return (literal,)
        where = destination.authority
        try:
            texts = await lookups.find(destination.host, destination.port, self.limits.resolve_s)
        except TimeoutError as exc:
            raise UpstreamTimeout(f"{where}: the name could not be looked up in time; try again") from exc
        except OSError as exc:
            raise UpstreamUnavailable(f"{where}: the name is not known; is it spelt right?") from exc
        found = [parsed(text) for text in dict.fromkeys(texts)]
        if not found:
            raise UpstreamUnavailable(f"{where}: the name has no address")
        judged = tuple(address for address in found if address is not None)
        if len(judged) < len(found):
            raise _not_public(destination)
        return judged

    def check(self, destination: Destination, addresses: Sequence[Address], ranges: Sequence[Network]) -> None:
        """Raises `PolicyDenied` unless every address may be dialled: one that may not spoils the name."""
        for address in addresses:
            if not passes(address, ranges):
                raise _not_public(destination)
            if not address.is_loopback and not named(address, ranges) and self.own(str(address)):
                raise PolicyDenied(
                    f"{destination.authority} is the gateway's own machine; policy has to name its address to permit it"
                )

    async def connect(self, destination: Destination, addresses: Sequence[Address]) -> tuple[socket.socket, Address]:
        """A connection to the first address that answers. Raises `UpstreamUnavailable` and `UpstreamTimeout`."""
        refused: OSError | None = None
        tried = addresses[:MAX_TRIED]
        by = anyio.current_time() + self.limits.dial_s
        for left, address in zip(range(len(tried), 0, -1), tried, strict=True):
            with anyio.move_on_after((by - anyio.current_time()) / left):
                try:
                    return await self.dial(str(address), destination.port), address
                except OSError as exc:
                    refused = exc
        where = destination.authority
        if refused is None:
            raise UpstreamTimeout(f"{where} does not answer")
        raise UpstreamUnavailable(f"{where} {_WORDS.get(refused.errno or 0, 'cannot be reached')}") from refused


def _not_public(destination: Destination) -> PolicyDenied:
    if parsed(destination.host) is not None:
        return PolicyDenied(f"{destination.authority} is not a public address; policy has to grant its range")
    return PolicyDenied(
        f"{destination.authority} is refused: not every address of the name is public; policy has to grant their range"
    )
