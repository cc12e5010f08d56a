"""Where push notifications may go: to hosts that callers name, as long as all their addresses are public."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Final

from adapters.upstreams.wire.origin import Origin, split_url
from gateway.a2a.push import MAX_URL, AddressCheck
from gateway.addresses import Address, Network, named, parsed, passes
from gateway.authz.hosts import canonical_host
from gateway.errors import InvalidCall, PolicyDenied, UpstreamTimeout, UpstreamUnavailable
from gateway.lookups import Lookups, is_own, system_resolve

MAX_TRIED: Final = 4
RESOLVE_S: Final = 5.0
MAX_LOOKUPS: Final = 8

_URL: Final = re.compile(r"https?://[\x21\x24-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7a\x7e]+", re.IGNORECASE)
"""No space, control or other character that one reader of URLs drops and another keeps, and no `#`, `\\` or quote."""


@dataclass(frozen=True, slots=True)
class Receivers:
    """Judges URLs of receivers: when a caller names one, and again for each connection.

    `ranges` are addresses beyond the public ones that notifications may go to (loopback, for a test). `plain_http`
    permits `http` URLs. One address that may not be reached spoils a name: whoever owns it could have it drawn next.
    With `unknown_names`, a name that has no address now may be named all the same: it is judged at each connection.
    """

    lookups: Lookups = field(default_factory=lambda: Lookups(system_resolve, MAX_LOOKUPS))
    ranges: Sequence[Network] = ()
    plain_http: bool = False
    unknown_names: bool = False
    own: Callable[[str], bool] = is_own
    resolve_s: float = RESOLVE_S

    async def check(self, url: str) -> None:
        """Raises `InvalidCall` for what is no URL to send to, `PolicyDenied` for one that may not be reached."""
        try:
            await self.pinned(url)
        except (UpstreamTimeout, UpstreamUnavailable) as exc:
            if self.unknown_names:
                return
            raise InvalidCall(f"the push notification URL cannot be used: {exc}") from exc

    async def pinned(self, url: str) -> tuple[tuple[Origin, ...], str]:
        """The origins to connect to, each with an address that was judged, best first; and the request target.

        Raises `InvalidCall`, `PolicyDenied`, and `UpstreamUnavailable` or `UpstreamTimeout` when the name cannot be
        looked up.
        """
        origin, target = self._split(url)
        addresses = await self._addresses(origin)
        for address in addresses:
            self._judge(address)
        return tuple(replace(origin, address=str(address)) for address in addresses[:MAX_TRIED]), target

    def _split(self, url: str) -> tuple[Origin, str]:
        if len(url) > MAX_URL or not _URL.fullmatch(url):
            raise InvalidCall(
                f"the push notification URL must be an https URL of at most {MAX_URL} characters, without fragment, "
                "percent-encoded and with its host in ASCII"
            )
        try:
            origin, target = split_url(url)
        except ValueError as exc:
            raise InvalidCall("the push notification URL names no host that can be used, or holds a password") from exc
        if origin.scheme == "http" and not self.plain_http:
            raise InvalidCall("the push notification URL must start with https://")
        bracketed = "[" in url or "]" in url  # as only the host can be, and only if it is an IPv6 address
        if origin.port == 0 or bracketed != (":" in origin.host) or not canonical_host(_plain(origin.host)):
            raise InvalidCall("the host of the push notification URL is neither a DNS name nor an address as usual")
        return origin, target

    async def _addresses(self, origin: Origin) -> tuple[Address, ...]:
        literal = parsed(origin.host)
        if literal is not None:
            return (literal,)
        try:
            texts = await self.lookups.find(origin.host, origin.port, self.resolve_s)
        except TimeoutError as exc:
            raise UpstreamTimeout("its host could not be looked up in time") from exc
        except OSError as exc:
            raise UpstreamUnavailable("its host is not known") from exc
        found = [parsed(text) for text in dict.fromkeys(texts)]
        if not found:
            raise UpstreamUnavailable("its host has no address")
        judged = tuple([address for address in found if address is not None])
        if len(judged) < len(found):
            raise _refused()
        return judged

    def _judge(self, address: Address) -> None:
        if not passes(address, self.ranges):
            raise _refused()
        granted = address.is_loopback or named(address, self.ranges)
        if not granted and self.own(str(address)):
            raise _refused()


def _plain(host: str) -> str:
    """An address in its shortest spelling, whichever it came in; a name as it is."""
    try:
        return str(ip_address(host)) if ":" in host else host
    except ValueError:
        return ""


def _refused() -> PolicyDenied:
    return PolicyDenied("the push notification URL leads to an address that is not public; notifications go to those")


def _fits(receivers: Receivers) -> AddressCheck:
    return receivers.check
