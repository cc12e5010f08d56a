"""One permitted connection: dialled, carried and counted."""

from __future__ import annotations

import socket

from gateway.errors import InterlockError, PermitMismatch
from gateway.lookups import Lookups
from sandboxes.egress.gate import Carry, Terms, Traffic
from sandboxes.egress.pump import Pump
from sandboxes.egress.request import Request
from sandboxes.egress.route import Router
from sandboxes.egress.sockets import end_both, hang_up


class Carriage:
    """Fills `Carry` for one request of one client, whose bytes behind the head are `early`."""

    def __init__(self, client: socket.socket, request: Request, early: bytes, router: Router, lookups: Lookups) -> None:
        self._client = client
        self._request = request
        self._early = early
        self._router = router
        self._lookups = lookups
        self._address = ""
        self._ended = "cancelled"  # until it is known better
        self._pump: Pump | None = None
        self._over = False
        self.failure: InterlockError | None = None
        """Why no connection came about, where policy had permitted it."""

    @property
    def connected(self) -> bool:
        """Whether a connection came about."""
        return self._pump is not None

    @property
    def answered(self) -> bool:
        """Whether the client has been sent anything."""
        if self._pump is None:
            return False
        return self._request.destination.scheme == "tunnel" or self._pump.received > 0

    @property
    def traffic(self) -> Traffic:
        """See `Carry`."""
        if self._pump is None:
            return Traffic(self._address, ended=self._ended)
        return Traffic(self._address, self._pump.sent, self._pump.received, self._ended)

    def void(self) -> None:
        """Nobody may carry from here on."""
        self._over = True

    async def __call__(self, terms: Terms) -> Traffic:
        """See `Carry`."""
        if self._over:
            raise PermitMismatch(f"{self._request.destination.authority}: a permit is for one connection")
        self.void()
        try:
            upstream = await self._connected(terms)
        except InterlockError as exc:
            self.failure, self._ended = exc, exc.code
            raise
        try:
            await self._carry(upstream, terms)
        finally:
            hang_up(upstream, clean=self._ended == "closed")
        return self.traffic

    async def _connected(self, terms: Terms) -> socket.socket:
        destination = self._request.destination
        addresses = await self._router.find(destination, self._lookups)
        self._address = ",".join(str(address) for address in addresses[:8])  # until one of them answers
        self._router.check(destination, addresses, terms.ranges)
        upstream, address = await self._router.connect(destination, addresses)
        self._address = str(address)
        return upstream

    async def _carry(self, upstream: socket.socket, terms: Terms) -> None:
        self._pump = Pump(self._client, upstream, terms, self._router.limits)
        try:
            await self._pump.run(self._request, self._early)
            self._ended = self._pump.ended
        finally:
            if self.answered:  # at once, however long whoever cancelled this takes to come back
                end_both(self._client)


_: type[Carry] = Carriage
