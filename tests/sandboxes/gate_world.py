"""A policy gate over the real pipeline, and connections that can be watched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count

import anyio
import anyio.lowlevel

from gateway.app.egress import PolicyGate, Resident
from gateway.authz.egress import read_egress
from gateway.boxes import BoxFacts, Level
from gateway.errors import (
    SandboxFailure,
)
from gateway.flights import Flights
from gateway.pipeline import Decider, Pipeline
from gateway.ports import CallRecord, Relay
from gateway.types import Authorized, Call, Identity, Obligation, Result
from sandboxes.ceiling import Ceiling
from sandboxes.egress.gate import Destination, Terms, Traffic
from tests.fakes import (
    ANA,
    FakeDecider,
    FakeExchange,
    FakeIdentifier,
    FakeRecorder,
    FakeUpstream,
    permit_for,
)
from tests.spine import a_call

BOX = BoxFacts("b1", "bubblewrap", "0.8.0", Level.PROCESS, "sha256:e")
API = Destination("api.example.org", 443, "tunnel", "CONNECT")
GRANT = read_egress({"hosts": ["api.example.org"]})


class Carried:
    """A connection that lasts until it is told to end, and knows the terms it was carried under."""

    def __init__(self, fault: Exception | None = None, *, lasting: bool = False) -> None:
        self.terms: Terms | None = None
        self.traffic = Traffic(ended="cancelled")
        self.begun = anyio.Event()
        self.end = anyio.Event()
        self._fault = fault
        if not lasting:
            self.end.set()

    async def __call__(self, terms: Terms) -> Traffic:
        self.terms = terms
        self.traffic = replace(self.traffic, address="203.0.113.7", sent=3)
        self.begun.set()
        if self._fault is not None:
            raise self._fault
        await self.end.wait()
        self.traffic = replace(self.traffic, received=5, ended="closed")
        return self.traffic


@dataclass
class World:
    """A gate over a pipeline, and calls that run in boxes behind it."""

    decider: Decider = field(default_factory=FakeDecider)
    trail: FakeRecorder = field(default_factory=FakeRecorder)
    ceiling: Ceiling | None = None

    def __post_init__(self) -> None:
        self.flights = Flights()
        self.upstream = FakeUpstream()
        numbers = count(1)
        self.pipeline = Pipeline(
            identifier=FakeIdentifier({}),
            authz=self.decider,
            upstream_for=lambda call: self.upstream,
            trail=self.trail,
            clock_ns=lambda: 42,
            new_id=lambda: f"n{next(numbers)}",
        )
        self.gate = PolicyGate(self.flights, self.pipeline.handle, self.resident, lambda: f"e{next(numbers)}")

    def resident(self, box_id: str) -> Resident:
        if box_id != "b1":
            raise SandboxFailure("this box is not one that runs")
        return Resident(BOX, "files", self.ceiling)

    @asynccontextmanager
    async def calls(self, *calls: Mapping[str, object]) -> AsyncIterator[Sequence[anyio.Event]]:
        """Calls that run in the box for the time of the block, or until their event is set."""
        ends = [anyio.Event() for _ in calls]
        async with anyio.create_task_group() as group:
            for number, (call, end) in enumerate(zip(calls, ends, strict=True)):
                await group.start(self._run, number, dict(call), end)
            yield ends
            for end in ends:
                end.set()

    async def _run(
        self, number: int, what: dict[str, object], end: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        identity = what.get("identity", ANA)
        granted = what.get("egress", ())
        assert isinstance(identity, Identity)
        assert isinstance(granted, tuple)
        call = what.get("call", replace(a_call(), id=f"c{number}"))
        assert isinstance(call, Call)

        async def work(authorized: Authorized, relay: Relay) -> Result:
            permit = replace(authorized.permit, obligations=granted)
            with self.flights.hold(BOX, replace(authorized, permit=permit), relay):
                task_status.started()
                await end.wait()
            return Result(b"{}")

        await self.pipeline.handle(call, identity, FakeExchange(), by=FakeUpstream(work))

    async def connect(self, carry: Carried | None = None, to: Destination = API) -> Carried:
        carry = carry or Carried()
        with anyio.fail_after(5):
            await self.gate.connect("b1", to, carry)
        return carry

    @property
    def asked(self) -> Call:
        """The last call that policy was asked about."""
        assert isinstance(self.decider, FakeDecider)
        return self.decider.asked[-1]

    @property
    def records(self) -> list[CallRecord]:
        """Those of connections."""
        return [record for record in self.trail.records if record.call.action == "egress.connect"]


def permitting(*obligations: Obligation) -> FakeDecider:
    """Permits connections under obligations, and all else."""
    decider = FakeDecider()
    decider.decide_with = lambda call, identity: replace(
        permit_for(call, identity), obligations=obligations if call.action == "egress.connect" else ()
    )
    return decider


def egress(**properties: object) -> Obligation:
    return read_egress(properties)


# -- Whose connection it is --
