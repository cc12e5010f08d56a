"""Which calls are in flight in which box: what they ask of it holds, and what they grant it ends with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import anyio

from gateway.authz.boxed import egress_of, sandbox_of
from gateway.authz.egress import Egress, merge_egress
from gateway.authz.isolation import Sandbox, merge_sandboxes
from gateway.authz.refusals import failed_closed
from gateway.boxes import BoxFacts, Hold, Level
from gateway.errors import IsolationUnavailable, UpstreamTimeout
from gateway.ports import Relay
from gateway.types import Authorized, Call


@dataclass(eq=False, slots=True)
class Flight:
    """One call while it is carried out in a box. `connections` are ended with it."""

    box: BoxFacts
    authorized: Authorized
    relay: Relay
    egress: Egress | None
    connections: set[anyio.CancelScope] = field(default_factory=set)

    def grants(self, host: str, port: int) -> bool:
        """Whether the call's permit lets its box connect there."""
        return self.egress is not None and self.egress.grants(host, port)

    def same_cause(self, other: Flight) -> bool:
        """Whether the two calls count as one cause of a connection: the same thing by the same caller in one session.

        Their arguments may differ: what a process was told in one call it knows in the next.
        """
        mine, theirs = self.authorized, other.authorized
        return _cause(mine.call) == _cause(theirs.call) and mine.identity == theirs.identity

    def end_connections(self) -> None:
        """What was connected because of this call is not any more."""
        for connection in self.connections:
            connection.cancel()


_NOTHING: Final = nullcontext()


class Flights:
    """The calls in flight, by box."""

    def __init__(self) -> None:
        self._by_box: dict[str, list[Flight]] = {}

    def of(self, box_id: str) -> tuple[Flight, ...]:
        """The calls that run in a box now, oldest first."""
        return tuple(self._by_box.get(box_id, ()))

    def hold(self, box: BoxFacts | None, authorized: Authorized, relay: Relay) -> AbstractContextManager[Flight | None]:
        """See `Hold`."""
        if box is None and not authorized.permit.obligations:  # as nearly every call over HTTP: nothing to hold
            return _NOTHING
        return self.hold_all(box, (authorized,), relay)

    @contextmanager
    def hold_all(self, box: BoxFacts | None, permitted: Sequence[Authorized], relay: Relay) -> Iterator[Flight | None]:
        """The same for a call and those that caused it: what any of their permits asks for holds for it."""
        authorized = permitted[0]
        if box is not None and box.level is not Level.NONE:
            relay.note("sandbox", box.note())
        sandboxes = [asked for each in permitted if (asked := sandbox_of(each.permit)) is not None]
        grants = [granted for each in permitted if (granted := egress_of(each.permit)) is not None]
        sandbox = merge_sandboxes(sandboxes) if sandboxes else None
        egress = merge_egress(grants) if grants else None
        _check_isolation(box, sandbox, authorized)
        if box is None or box.level is Level.NONE:
            if egress is not None:
                words = "egress: the server runs outside of any sandbox, where nothing could hold it to that"
                raise failed_closed("obligation_unsupported", authorized.permit.ruling, words)
            yield None
            return
        with _within(sandbox, authorized), self._flying(Flight(box, authorized, relay, egress)) as flight:
            yield flight

    @contextmanager
    def _flying(self, flight: Flight) -> Iterator[Flight]:
        flights = self._by_box.setdefault(flight.box.id, [])
        for other in flights:
            if not other.same_cause(flight):  # what it connected to could hear of this call from here on
                other.end_connections()
        flights.append(flight)
        try:
            yield flight
        finally:
            flights.remove(flight)
            if not flights:
                del self._by_box[flight.box.id]
            flight.end_connections()


def _cause(call: Call) -> tuple[str, str, str, str, str]:
    resource = call.resource
    return call.action, resource.type, resource.id, resource.upstream, call.session_id


def _check_isolation(box: BoxFacts | None, sandbox: Sandbox | None, authorized: Authorized) -> None:
    if sandbox is None:
        return
    upstream = authorized.call.resource.upstream
    if box is None:
        raise IsolationUnavailable(
            f"policy asks for isolation of level {sandbox.level}; upstream {upstream!r} is reached over HTTP and runs "
            "where the gateway has no say: configure it with `command`, or change the policy"
        )
    if not sandbox.allows(box.level):
        raise IsolationUnavailable(
            f"policy asks for isolation of level {sandbox.level}, and upstream {upstream!r} runs at level {box.level}: "
            "`interlock sandbox doctor` says what a stronger one needs"
        )
    for name, most in sandbox.limits.items():
        if box.limits.get(name, float("inf")) > most and name != "wall_s":
            raise IsolationUnavailable(
                f"policy asks for {name} of at most {most:g}, and the box of upstream {upstream!r} may use "
                f"{box.limits.get(name, 'any')}: set the limit in its environment"
            )


@contextmanager
def _within(sandbox: Sandbox | None, authorized: Authorized) -> Iterator[None]:
    wall_s = sandbox.limits.get("wall_s") if sandbox is not None else None
    if wall_s is None:
        yield
        return
    with anyio.move_on_after(wall_s) as scope:
        yield
    if scope.cancelled_caught:
        name = authorized.call.resource.name
        raise UpstreamTimeout(f"{name!r} did not end within the {wall_s:g} s that policy gives it")


_: type[Hold] = Flights.hold  # type: ignore[assignment]  # a method fills the protocol once it is bound
