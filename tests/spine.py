"""A pipeline over fakes, for the tests of the spine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from gateway.errors import InterlockError
from gateway.pipeline import Pipeline
from gateway.ports import CallRecord
from gateway.types import Call, Credentials, FrozenDict, Identity, Obligation, Permit, Resource, Result, freeze
from tests.fakes import ANA, FakeDecider, FakeExchange, FakeIdentifier, FakeRecorder, FakeUpstream, permit_for

TOOL = Resource("tool", "files/read", "files", "read", catalog=FrozenDict({"risk": "low"}))
CREDENTIALS = Credentials("ana", "192.0.2.7")


@dataclass
class World:
    """A pipeline over fakes."""

    decider: FakeDecider = field(default_factory=FakeDecider)
    upstream: FakeUpstream = field(default_factory=FakeUpstream)
    trail: FakeRecorder = field(default_factory=FakeRecorder)
    exchange: FakeExchange = field(default_factory=FakeExchange)
    identifier: FakeIdentifier = field(default_factory=lambda: FakeIdentifier({"ana": ANA}))

    def __post_init__(self) -> None:
        self.pipeline = Pipeline(
            identifier=self.identifier,
            authz=self.decider,
            upstream_for=lambda call: self.upstream,
            trail=self.trail,
            clock_ns=lambda: 42,
            new_id=lambda: f"q{len(self.decider.asked)}",
        )

    async def handle(self, call: Call | None = None) -> Result:
        return await self.pipeline.handle(call or a_call(), CREDENTIALS, self.exchange)

    @property
    def record(self) -> CallRecord:
        """The only record there is."""
        (record,) = self.trail.records
        return record


def a_call(arguments: Mapping[str, object] | None = None, *, resource: Resource = TOOL) -> Call:
    params = freeze({"name": "read", "arguments": arguments or {"path": "/tmp/x"}})
    assert isinstance(params, FrozenDict)
    return Call("c1", "mcp.tools.call", "tools/call", resource, params, session_id="s1")


def under(*obligations: Obligation) -> Callable[[Call, Identity], Permit]:
    """A decision that permits under obligations."""
    return lambda call, identity: replace(permit_for(call, identity), obligations=obligations)


def refusing(error: InterlockError) -> Callable[[Call, Identity], Permit]:
    def refuse(call: Call, identity: Identity) -> Permit:
        raise error

    return refuse
