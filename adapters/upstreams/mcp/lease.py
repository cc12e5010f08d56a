"""How one MCP server is reached, whatever carries the messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from adapters.upstreams.mcp.discovery import Description
from adapters.upstreams.mcp.link import Link, News, Object
from gateway.ports import Relay

CALLBACKS: Final[Object] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
"""What the gateway's own connection declares, so that the upstream shows all it has."""
ALL_LISTS: Final[Object] = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}


@dataclass(frozen=True, slots=True)
class Lease:
    """A link for one call. `may_ask`: a question that comes over it can only belong to that call's client."""

    link: Link
    may_ask: bool


class Server(Protocol):
    """One MCP server. Everything here raises the `Upstream*` errors."""

    keep_awake: bool
    """Somebody subscribed to what it announces, so it must not be stopped for idleness."""

    @property
    def resting(self) -> bool:
        """Stopped for idleness; the next call wakes it."""

    @property
    def stderr(self) -> str:
        """The last words of its process, if it is one."""

    @property
    def max_parked(self) -> int:
        """Calls that may wait for their clients at a time without harm to others."""

    async def connect(self) -> Description:
        """Reach the server and agree on the era."""

    async def main(self) -> Link:
        """The gateway's own link, awake."""

    async def lease(self, relay: Relay, *, alone: bool = False) -> Lease:
        """A link for a call of this client's; one that serves no other call if `alone` and there is room for that."""

    async def changes(self, watched: list[str], take: News) -> None:
        """Hand over the notifications that belong to no call until the stream is to be opened again.

        Raises `NoStream` when there is nothing to follow.
        """

    async def over(self) -> None:
        """Return never, and raise when the connection has ended by itself."""

    async def tidy(self) -> None:
        """Give up what nobody uses."""

    async def aclose(self) -> None:
        """Leave nothing behind."""


def callbacks_of(relay: Relay) -> dict[str, object]:
    """The part of a client's capabilities that lets an upstream ask it something."""
    return {name: value for name, value in relay.capabilities.items() if name in CALLBACKS}
