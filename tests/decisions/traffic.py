"""Traffic through a real pipeline with real rules, and its decision log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import anyio

from adapters.pdp.activation import ActivePdp, EngineSpec, build_engine
from adapters.pdp.bundle import Bundle, load_bundle
from gateway import codec
from gateway.app.decisions import MaskingByRevision
from gateway.authz.authz import Authz
from gateway.config.fields import policy_library, starter_policies
from gateway.decisions.event import Event, timestamp
from gateway.decisions.files import SegmentLimits, Segments
from gateway.decisions.log import DecisionLog, LogLimits
from gateway.decisions.reader import event_in, lines_in
from gateway.decisions.upload import UploadBuffer
from gateway.errors import ApprovalPending, PolicyDenied
from gateway.pipeline import Pipeline
from gateway.ports import DecisionTap
from gateway.types import Call, Credentials, Entity, FrozenDict, Identity, Resource, freeze
from tests.fakes import FakeExchange, FakeIdentifier, FakeRecorder, FakeUpstream

NOW_NS = 1_800_000_000_000_000_000
PEOPLE = {
    "dev": Identity(Entity("agent", "key:dev"), tenant="acme", roles=("developer",)),
    "writer": Identity(Entity("agent", "key:writer"), tenant="acme", roles=("developer", "writer")),
    "guest": Identity(Entity("user", "user:guest"), tenant="other"),
}


class Ticking:
    """A clock that moves a millisecond each time it is read."""

    def __init__(self) -> None:
        self._steps = count(NOW_NS, 1_000_000)

    def __call__(self) -> int:
        return next(self._steps)


def tool(name: str, **catalog: object) -> Resource:
    """A tool by its full name."""
    upstream, _, bare = name.partition("/")
    return Resource("tool", name, upstream, bare, catalog=FrozenDict({"risk": "medium", "labels": (), **catalog}))


def call(name: str, arguments: Mapping[str, object], number: int = 0) -> Call:
    """A call of that tool."""
    params = freeze({"name": name, "arguments": arguments})
    assert isinstance(params, FrozenDict)
    trace = f"00-{number + 1:032x}-b7ad6b7169203331-01"
    return Call(f"c{number}", "mcp.tools.call", "tools/call", tool(name), params, traceparent=trace)


def bundle_from(*directories: Path) -> Bundle:
    """The library with these rules; the starter policies when none are named."""
    return load_bundle([policy_library(), *(directories or (starter_policies(),))])


@dataclass
class Gateway:
    """A pipeline that decides by a bundle and tells `tap` of it."""

    policy: ActivePdp
    tap: DecisionTap
    upstream: FakeUpstream = field(default_factory=FakeUpstream)

    def __post_init__(self) -> None:
        numbers, clock = count(1), Ticking()
        self.authz = Authz(
            self.policy,
            env="test",
            clock_ns=clock,
            monotonic_ns=clock,
            new_id=lambda: f"d{next(numbers)}",
            response_differs=lambda: self.policy.may_read(("resource", "properties", "result")),
            tap=self.tap,
        )
        self.pipeline = Pipeline(
            identifier=FakeIdentifier(PEOPLE),
            authz=self.authz,
            upstream_for=lambda call: self.upstream,
            trail=FakeRecorder(),
            new_id=lambda: "q",
        )

    async def use(self, who: str, name: str, arguments: Mapping[str, object], number: int = 0) -> str:
        """Make one call; what became of it."""
        try:
            result = await self.pipeline.handle(call(name, arguments, number), Credentials(who, ""), FakeExchange())
        except PolicyDenied:
            return "denied"
        except ApprovalPending:
            return "held"
        return result.outcome


def open_log(directory: Path, masking: MaskingByRevision, upload: UploadBuffer | None = None) -> DecisionLog:
    """A decision log that writes soon."""
    segments = Segments.open(directory, SegmentLimits(), lambda: NOW_NS)
    limits = LogLimits(flush_s=0.01)
    return DecisionLog(
        segments,
        labels={"id": "test"},
        rules_of=masking.of,
        clock_ns=lambda: NOW_NS,
        upload=upload,
        limits=limits,
    )


@asynccontextmanager
async def recording(directory: Path, bundle: Bundle) -> AsyncIterator[Gateway]:
    """A gateway whose decisions are in `directory` when the block is left."""
    masking, policy = MaskingByRevision(), ActivePdp()
    masking.use(bundle)
    policy.activate(await build_engine(EngineSpec(), bundle))
    log = open_log(directory, masking)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            await group.start(log.run)
            yield Gateway(policy, log)
            group.cancel_scope.cancel()
    policy.close()
    masking.close()


def events_in(directory: Path) -> list[Event]:
    """Every event of a log."""
    return [event for line in lines_in(directory) if (event := event_in(line)) is not None]


def write_log(directory: Path, events: list[Event]) -> None:
    """A log with these events, as they are."""
    segments = Segments.open(directory, SegmentLimits(), lambda: NOW_NS)
    segments.append([codec.dumps(event) for event in events])
    segments.close()


def at(number: int) -> str:
    """A timestamp, `number` seconds into the test's time."""
    return timestamp(NOW_NS + number * 1_000_000_000)


async def until(condition: Callable[[], object]) -> None:
    """Let others run until it holds, for a bounded time."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110  # what changes it has no event
            await anyio.sleep(0.005)
