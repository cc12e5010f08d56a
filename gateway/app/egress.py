"""Puts each connection that a box wants to make before policy, as the call `egress.connect` of whoever caused it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import anyio

from gateway.authz.boxed import egress_of
from gateway.authz.egress import Egress, merge_egress
from gateway.boxes import BoxFacts, caller_of
from gateway.errors import InvalidCall, PolicyDenied, QuotaExceeded
from gateway.flights import Flight, Flights
from gateway.ports import Exchange, Relay, Upstream
from gateway.types import EMPTY, Authorized, Call, Entity, Era, FrozenDict, Identity, Reason, Resource, Result
from sandboxes.ceiling import Ceiling
from sandboxes.egress.gate import Carry, Destination, Gate, Terms, Traffic

ACTION: Final = "egress.connect"
METHOD: Final = "egress/connect"
OVER: Final = "the call that it was made for is over"


Connections: TypeAlias = dict[str, set[anyio.CancelScope]]
"""The connections of each box that run for no call, as long as there are any."""


@dataclass(frozen=True, slots=True)
class Resident:
    """What is known of a box that may want to connect: whose it is, and how far its environment lets it go."""

    facts: BoxFacts
    label: str
    ceiling: Ceiling | None
    """Hosts above which policy is not asked; `None` where the environment sets no bound."""


class Handle(Protocol):
    """`Pipeline.handle`."""

    async def __call__(
        self, call: Call, credentials: Identity, exchange: Exchange, *, by: Upstream | None = None
    ) -> Result: ...


class PolicyGate:
    """The egress proxy's way to policy.

    A connection is caused by the call that runs in the box at that moment. Where several of one cause run, it is the
    oldest's; where they differ, nobody's, and only what all of them are granted is granted. It ends with the first of
    the calls that ran when it was asked for, and when a call of another cause begins. What nobody caused, the box
    connects to as itself (subject type `sandbox`, without tenant and roles): a right that it has at any time.
    """

    def __init__(
        self, flights: Flights, handle: Handle, residents: Callable[[str], Resident], new_id: Callable[[], str]
    ) -> None:
        self._flights = flights
        self._handle = handle
        self._residents = residents
        self._new_id = new_id
        self._uncaused: Connections = {}

    async def connect(self, box_id: str, destination: Destination, carry: Carry) -> None:
        """See `sandboxes.egress.Gate`."""
        resident = self._residents(box_id)
        flights = self._flights.of(box_id)
        granted = bool(flights) and all(flight.grants(destination.host, destination.port) for flight in flights)
        cause = flights[0] if flights and all(flights[0].same_cause(other) for other in flights) else None
        resource = Resource(
            "endpoint", destination.authority, upstream=resident.label, name=destination.host, catalog=EMPTY
        )
        params = _params(destination, resident, cause, granted=granted)
        carrier = _Carrier(self._flights, self._uncaused, resident, destination, carry, flights, granted=granted)
        if cause is not None:
            await cause.relay.act(ACTION, METHOD, resource, params, by=carrier)
            return
        call = Call(self._new_id(), ACTION, METHOD, resource, FrozenDict(params), protocol="egress")
        await self._handle(call, Identity(Entity("sandbox", resident.label)), _Nobody(), by=carrier)


def _params(
    destination: Destination, resident: Resident, cause: Flight | None, *, granted: bool
) -> Mapping[str, object]:
    return {
        "host": destination.host,
        "port": destination.port,
        "scheme": destination.scheme,
        "box": FrozenDict({"driver": resident.facts.driver, "level": resident.facts.level.value}),
        "caller": caller_of(cause.authorized.call) if cause is not None else EMPTY,
        "granted": granted,
    }


class _Carrier:
    """Carries one permitted connection, for as long as the calls that it depends on."""

    def __init__(  # what one connection depends on
        self,
        flights: Flights,
        uncaused: Connections,
        resident: Resident,
        destination: Destination,
        carry: Carry,
        causes: tuple[Flight, ...],
        *,
        granted: bool,
    ) -> None:
        self._flights = flights
        self._uncaused = uncaused
        self._resident = resident
        self._destination = destination
        self._carry = carry
        self._causes = causes
        self._granted = granted

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        relay.note("sandbox", self._resident.facts.note())
        self._check(authorized)
        own = egress_of(authorized.permit)
        calls = [cause.egress for cause in self._causes if cause.egress is not None]
        bounds = [*([own] if own is not None else []), *calls]
        self._check_room(bounds)
        try:
            await self._carried(_terms(own, bounds, calls if self._granted else []))
        finally:
            relay.note("egress", _note(self._carry.traffic))
        return Result(b"{}")

    async def _carried(self, terms: Terms) -> None:
        """Until it ends by itself, or one of the calls that it depends on does."""
        with anyio.CancelScope() as scope, self._counted(scope):
            await self._carry(terms)

    @contextmanager
    def _counted(self, scope: anyio.CancelScope) -> Iterator[None]:
        box_id = self._resident.facts.id
        among = [cause.connections for cause in self._causes] or [self._uncaused.setdefault(box_id, set())]
        for connections in among:
            connections.add(scope)
        try:
            yield
        finally:
            for connections in among:
                connections.discard(scope)
            if not self._uncaused.get(box_id, True):
                del self._uncaused[box_id]

    def _check(self, authorized: Authorized) -> None:
        """What may have changed while policy was asked, and what policy has no say in."""
        ceiling, where = self._resident.ceiling, self._destination
        if ceiling is not None and not ceiling.allows(where.host, where.port):
            raise _refused(authorized, "outside_environment", "its environment does not let it connect there")
        if any(cause not in self._flights.of(self._resident.facts.id) for cause in self._causes):
            raise _refused(authorized, "call_over", OVER)

    def _check_room(self, bounds: list[Egress]) -> None:
        most = min((item.max_connections for item in bounds if item.max_connections), default=0)
        open_now = [len(cause.connections) for cause in self._causes]
        if most and max(open_now or [len(self._uncaused.get(self._resident.facts.id, ()))]) >= most:
            raise QuotaExceeded(f"policy gives {most} connections at a time")


def _refused(authorized: Authorized, code: str, what: str) -> PolicyDenied:
    words = f"{authorized.call.resource.id}: {what}"
    reason = Reason(code, words, rule="gateway.egress", public=True)
    return PolicyDenied(words, decision_id=authorized.permit.decision_id, reasons=(reason,))


def _terms(own: Egress | None, bounds: list[Egress], granting: list[Egress]) -> Terms:
    """The connection's own permit may name ranges, and so may the calls that grant it, as far as they agree.

    Of the caps the least counts.
    """
    usual = Terms()
    agreed = merge_egress(granting).ranges if granting else ()
    return Terms(
        ranges=(*(own.ranges if own is not None else ()), *agreed),
        max_bytes=min([usual.max_bytes, *(item.max_bytes for item in bounds if item.max_bytes)]),
        max_s=min([usual.max_s, *(item.max_s for item in bounds if item.max_s)]),
    )


def _note(traffic: Traffic) -> Mapping[str, object]:
    return {
        "address": traffic.address,
        "sent": traffic.sent,
        "received": traffic.received,
        "ended": traffic.ended,
    }


class _Nobody:
    """The client of a connection that no call caused: there is none."""

    owner = "sandbox"
    era = Era.MODERN
    capabilities: Mapping[str, object] = EMPTY
    log_level = ""
    wants_progress = False

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        return

    async def emit(self, event: bytes) -> None:
        raise InvalidCall("nobody waits for a stream behind a sandbox's own connection")

    async def ask(self, call: Call) -> Result:
        raise InvalidCall("there is no client behind a sandbox's own connection")


_gate: type[Gate] = PolicyGate
_upstream: type[Upstream] = _Carrier
