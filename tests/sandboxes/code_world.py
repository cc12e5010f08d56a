"""The sandbox's tools with real boxes behind them: on the host for speed, or by a driver."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import anyio
import anyio.lowlevel
import pytest

from gateway import codec
from gateway.boxes import BoxFacts, Level, Program
from gateway.registry import Listing
from gateway.types import Authorized, Call, Era, FrozenDict, Identity, Obligation, Permit, Resource, Result, freeze
from sandboxes.bubblewrap import Bubblewrap
from sandboxes.code.environment import AGENT, Environment
from sandboxes.code.upstream import CodeTerms, CodeUpstream
from sandboxes.driver import Probe
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.inside import GUEST_SOURCE
from sandboxes.spec import BoxSpec
from tests.fakes import ANA, FakeRelay
from tests.sandboxes.places import a_place

SPEC = BoxSpec("python", (), egress=False)
PLAIN = Environment("default", SPEC, Level.PROCESS, wall_s=20)
HOST_PATH = "/usr/local/bin:/usr/bin:/bin"


class HostBoxes:
    """Agents on the host, each in directories of its own: no wall at all, but the same protocol."""

    def __init__(self, directory: Path, *, level: Level = Level.PROCESS, path: str = HOST_PATH) -> None:
        self.directory = directory
        self.level = level
        self.path = path
        self.script = ""
        """What runs instead of the agent, if set."""
        self.fail_with: Exception | None = None
        self.started: list[Program] = []
        self.asked: list[tuple[str, Level, str]] = []
        self.gate: anyio.Event | None = None
        """What a start waits for, if set."""

    async def start(self, environment: Environment, level: Level, purpose: str) -> Program:
        self.asked.append((environment.name, level, purpose))
        if self.gate is not None:
            await self.gate.wait()
        if self.fail_with is not None:
            raise self.fail_with
        program = await self.launch(environment)
        self.started.append(program)
        return program

    async def launch(self, environment: Environment) -> Program:
        number = f"box-{len(self.asked)}"
        work, tmp = self.directory / number / "work", self.directory / number / "tmp"
        work.mkdir(parents=True)
        tmp.mkdir()
        code = ("-c", self.script) if self.script else (str(GUEST_SOURCE / AGENT), str(work), str(tmp))
        return await ChildProcess.start(
            ProcessSpec(
                command=(sys.executable, "-I", "-S", "-B", *code),
                env={"PATH": self.path, **environment.box.env},
                facts=BoxFacts(number, "host", "0", self.level),
            )
        )


class DriverBoxes(HostBoxes):
    """Boxes of a real driver, in places of their own."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        super().__init__(directory)
        self._stack = stack
        self._driver = Bubblewrap()

    async def launch(self, environment: Environment) -> Program:
        place = await self._stack.enter_async_context(a_place(self.directory))
        return await self._driver.start(environment.box, replace(place, environment=environment.digest))


Kind = Literal["host", "bubblewrap"]
_PROBED: list[Probe] = []


async def skip_without_bubblewrap() -> None:
    """Skip the test where there is no bubblewrap that works; found out once."""
    if not _PROBED:
        _PROBED.append(await Bubblewrap().probe())
    if not _PROBED[0].ok:
        pytest.skip(f"bubblewrap: apt-get install bubblewrap ({_PROBED[0].reason})")


@asynccontextmanager
async def boxes_of(kind: Kind, directory: Path) -> AsyncIterator[HostBoxes]:
    async with AsyncExitStack() as stack:
        yield HostBoxes(directory) if kind == "host" else DriverBoxes(directory, stack)


@dataclass
class Answer:
    """What a tool call brought."""

    result: Result
    relay: FakeRelay
    payload: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.payload = cast("dict[str, Any]", codec.loads(self.result.payload))

    @property
    def failed(self) -> bool:
        return bool(self.payload["isError"])

    @property
    def structured(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self.payload["structuredContent"])

    @property
    def session(self) -> str:
        return str(self.structured["session"])

    @property
    def stdout(self) -> str:
        return str(self.structured["stdout"])

    @property
    def texts(self) -> list[str]:
        return [block["text"] for block in self.payload["content"] if block["type"] == "text"]

    def blocks(self, kind: str) -> list[dict[str, Any]]:
        return [block for block in self.payload["content"] if block["type"] == kind]


PermitOf = Callable[[Call], Permit]


def plain_permit(call: Call) -> Permit:
    return Permit("d1", call.digest)


def permit_with(*obligations: Obligation, method: str = "") -> PermitOf:
    """Permits with these obligations, for calls of that method or for all."""

    def permit(call: Call) -> Permit:
        return Permit("d1", call.digest, obligations if method in ("", call.method) else ())

    return permit


@dataclass
class World:
    """A running upstream, and clients of it."""

    upstream: CodeUpstream
    boxes: HostBoxes
    listings: list[Listing] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    inner: Callable[[Result], Result] = lambda result: result
    """What policy makes of the operation's result."""

    async def call(
        self,
        tool: str,
        *,
        owner: str = "ana",
        era: Era = Era.MODERN,
        identity: Identity = ANA,
        permit: PermitOf = plain_permit,
        relay: FakeRelay | None = None,
        **arguments: Any,
    ) -> Answer:
        relay = relay or FakeRelay(owner, era=era)
        number = f"call-{len(self.calls)}"
        resource = Resource("tool", f"sandbox/{tool}", upstream="sandbox", name=tool)
        params = cast("FrozenDict", freeze({"name": tool, "arguments": arguments}))
        outer = Call(number, "mcp.tools.call", "tools/call", resource, params)

        async def carry(action: str, method: str, resource: Resource, params: Mapping[str, object]) -> Result:
            frozen = cast("FrozenDict", freeze(dict(params)))
            inner = Call(number + "-inner", action, method, resource, frozen, parent_id=number)
            self.calls.append(inner)
            await anyio.lowlevel.checkpoint()  # policy takes its time
            return self.inner(await self.upstream.execute(Authorized(inner, identity, permit(inner)), relay))

        relay.carry = carry
        self.calls.append(outer)
        result = await self.upstream.execute(Authorized(outer, identity, permit(outer)), relay)
        return Answer(result, relay)

    async def run(self, code: str, language: str = "python", **more: Any) -> Answer:
        return await self.call("run_code", code=code, language=language, **more)


@asynccontextmanager
async def a_world(boxes: HostBoxes, *environments: Environment, **more: Any) -> AsyncIterator[World]:
    """The upstream while it runs; afterwards nothing of any box is left."""
    given = environments or (PLAIN,)
    listings: list[Listing] = []

    async def offer(listing: Listing) -> None:
        listings.append(listing)

    limits = {"limits": more.pop("limits")} if "limits" in more else {}
    terms = CodeTerms("sandbox", {environment.name: environment for environment in given}, **limits)
    upstream = CodeUpstream(terms, boxes.start, offer=offer, **more)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(upstream.run)
            await upstream.settled.wait()
            try:
                yield World(upstream, boxes, listings)
            finally:
                group.cancel_scope.cancel()
        for program in boxes.started:
            await program.wait()


async def until(condition: Callable[[], object]) -> None:
    """Look again and again, without taking the processor from those who are waited for."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110  # files and processes set no event of ours
            await anyio.sleep(0.005)
