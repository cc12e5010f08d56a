"""The server that runs code, as configuration and environments describe it, over a real driver and a real pipeline."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import anyio
import pytest

from gateway import codec
from gateway.app import boxes as app
from gateway.app import code
from gateway.app.boxes import Sandboxing, open_sandboxing
from gateway.app.code import code_upstream
from gateway.app.upstreams import UpstreamFactory
from gateway.authz.egress import read_egress
from gateway.authz.isolation import read_sandbox
from gateway.boxes import Level
from gateway.errors import ConfigError, IsolationUnavailable, SandboxFailure, UpstreamUnavailable
from gateway.events import Events
from gateway.pipeline import Pipeline
from gateway.registry import Listing, Registry
from gateway.types import Authorized, Call, FrozenDict, Identity, Obligation, Permit, Resource, Result, freeze
from sandboxes.bubblewrap import Bubblewrap
from sandboxes.code.upstream import CodeUpstream
from sandboxes.driver import Driver
from sandboxes.gvisor.driver import Gvisor
from sandboxes.host.process import ChildProcess, ProcessSpec
from tests.fakes import ANA, FakeDecider, FakeExchange, FakeIdentifier, FakeRecorder, FakeRelay, FakeStore, permit_for
from tests.sandboxes.code_world import skip_without_bubblewrap
from tests.sandboxes.host_driver import HostDriver
from tests.sandboxes.test_sandboxing import configured


@dataclass
class World:
    """The server in a pipeline."""

    sandboxing: Sandboxing
    decider: FakeDecider = field(default_factory=FakeDecider)
    trail: FakeRecorder = field(default_factory=FakeRecorder)
    upstream: CodeUpstream | None = None

    def __post_init__(self) -> None:
        numbers = count(1)
        self.pipeline = Pipeline(
            identifier=FakeIdentifier({}),
            authz=self.decider,
            upstream_for=lambda call: self.running,
            trail=self.trail,
            clock_ns=lambda: 42,
            new_id=lambda: f"n{next(numbers)}",
        )

    @property
    def running(self) -> CodeUpstream:
        assert self.upstream is not None
        return self.upstream

    async def run(self, source: str, **more: object) -> Mapping[str, object]:
        arguments = freeze({"code": source, "language": "python", **more})
        params = FrozenDict({"name": "run_code", "arguments": arguments})
        resource = Resource("tool", "code/run_code", "code", "run_code", catalog=FrozenDict({"risk": "high"}))
        call = Call("c1", "mcp.tools.call", "tools/call", resource, params)
        with anyio.fail_after(30):
            result = await self.pipeline.handle(call, ANA, FakeExchange())
        answer = codec.loads(result.payload)
        assert isinstance(answer, dict)
        structured = answer["structuredContent"]
        assert isinstance(structured, dict)
        return structured


@asynccontextmanager
async def a_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Driver, text: str = "", **described: str
) -> AsyncIterator[World]:
    settings = configured(tmp_path, f'[upstreams.code]\ntype = "sandbox"\n{text}', **described)
    monkeypatch.setattr(app, "drivers_of", lambda _: (driver,))
    paths: list[Pipeline] = []

    async def handle(*given: object, **named: object) -> object:
        return await paths[0].handle(*given, **named)  # type: ignore[arg-type]  # as it was given

    async def offer(listing: Listing) -> None:
        return

    with anyio.fail_after(60):
        async with open_sandboxing(settings, handle, lambda: "e1") as sandboxing:  # type: ignore[arg-type]  # as above
            world = World(sandboxing)
            paths.append(world.pipeline)
            world.upstream = code_upstream("code", settings.upstreams["code"], sandboxing, offer)
            async with anyio.create_task_group() as group:
                group.start_soon(world.upstream.run)
                await world.upstream.settled.wait()
                yield world
                group.cancel_scope.cancel()


@pytest.fixture
async def bubblewrap() -> Bubblewrap:
    await skip_without_bubblewrap()
    return Bubblewrap()


def with_obligations(action: str, *obligations: Obligation) -> FakeDecider:
    decider = FakeDecider()

    def decide(call: Call, identity: Identity) -> Permit:
        return replace(permit_for(call, identity), obligations=obligations if call.action == action else ())

    decider.decide_with = decide
    return decider


async def test_code_runs_in_a_box_with_the_secrets_of_its_environment_and_policy_sees_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bubblewrap: Bubblewrap
) -> None:
    monkeypatch.setenv("REAL", "s3cr3t-value")
    described = '[secrets]\nKEY = "env:REAL"\n[env]\nMODE = "m"\n'
    async with a_world(tmp_path, monkeypatch, bubblewrap, data=described) as world:
        ran = await world.run("import os; print(os.environ['MODE'], len(os.environ['KEY']))", environment="data")
        (living,) = world.sandboxing.boxes.living
        inner = world.decider.asked[1]

    assert ran["stdout"] == "m 12\n"
    assert living.wanted.spec.secrets == {}  # they come at hand-out
    assert living.wanted.purpose.startswith("code: session ")
    assert living.facts.environment == world.sandboxing.environments["data"].digest
    caller = inner.params["caller"]
    assert isinstance(caller, FrozenDict)
    assert (inner.action, caller["id"], caller["call"], caller["catalog"]) == (
        *("sandbox.exec", "code/run_code", "c1", {"risk": "high"}),
    )
    assert [record.call.action for record in world.trail.records] == ["sandbox.exec", "mcp.tools.call"]
    assert all((record.notes or {})["sandbox"] == living.facts.note() for record in world.trail.records)


@pytest.mark.parametrize("action", ["mcp.tools.call", "sandbox.exec"])
async def test_what_either_permit_grants_the_run_may_reach_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bubblewrap: Bubblewrap, action: str
) -> None:
    look = (
        "import socket\ns = socket.create_connection(('127.0.0.1', 3128), 5)\n"
        "s.sendall(b'CONNECT granted.test:443 HTTP/1.1\\r\\n\\r\\n')\nprint(s.recv(64).split()[1])"
    )
    async with a_world(tmp_path, monkeypatch, bubblewrap) as world:
        world.decider.decide_with = with_obligations(action, read_egress({"hosts": ["granted.test"]})).decide_with
        await world.run(look)
        asked = [call.params["granted"] for call in world.decider.asked if call.action == "egress.connect"]
        causes = [call.parent_id for call in world.decider.asked if call.action == "egress.connect"]
        execs = [call.id for call in world.decider.asked if call.action == "sandbox.exec"]
        over = world.sandboxing.flights.of(world.sandboxing.boxes.living[0].facts.id)

    assert (asked, causes, over) == ([True], execs, ())


@pytest.mark.parametrize("action", ["mcp.tools.call", "sandbox.exec"])
async def test_run_that_policy_wants_kept_apart_more_strongly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bubblewrap: Bubblewrap, action: str
) -> None:
    async with a_world(tmp_path, monkeypatch, bubblewrap) as world:
        world.decider.decide_with = with_obligations(action, read_sandbox({"level": "gvisor"})).decide_with
        with pytest.raises(IsolationUnavailable):
            await world.run("print(1)")
        left = world.sandboxing.boxes.living

    assert left == ()


async def test_limits_that_policy_asks_of_a_run_are_those_of_its_box_or_it_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bubblewrap: Bubblewrap
) -> None:
    small = read_sandbox({"limits": {"memory_mb": 64}})
    async with a_world(tmp_path, monkeypatch, bubblewrap, tiny="[limits]\nmemory_mb = 64\n") as world:
        world.decider.decide_with = with_obligations("sandbox.exec", small).decide_with
        with pytest.raises(IsolationUnavailable, match="memory_mb of at most 64"):
            await world.run("print(1)")
        ran = await world.run("print(1)", environment="tiny")

    assert ran["stdout"] == "1\n"


async def test_server_of_one_environment_offers_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bubblewrap: Bubblewrap
) -> None:
    async with a_world(tmp_path, monkeypatch, bubblewrap, 'environment = "data"\n', data="", other="") as world:
        ran = await world.run("print(1)")
        (living,) = world.sandboxing.boxes.living

    assert ran["stdout"] == "1\n"
    assert living.wanted.spec.label == "data"  # which is what is meant by naming none


@pytest.mark.parametrize(
    ("text", "described", "key"),
    [
        ('environment = "gone"\n', {}, "upstreams.code.environment"),
        ("", {"data": '[secrets]\nKEY = "env:NOT_THERE_AT_ALL"\n'}, "env:NOT_THERE_AT_ALL"),
        ("", {"data": 'base = "../root"\n'}, "environment data"),
    ],
)
async def test_environment_that_cannot_be_offered_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, described: dict[str, str], key: str
) -> None:
    (tmp_path / "root" / "usr").mkdir(parents=True)

    settings = configured(tmp_path, f'[upstreams.code]\ntype = "sandbox"\n{text}', **described)
    registry, events = Registry(("code",)), Events()

    async def nothing(*_: object, **__: object) -> Result:
        raise AssertionError

    async with open_sandboxing(settings, nothing, lambda: "n") as sandboxing:
        factory = UpstreamFactory(registry, events, FakeStore(), settings, {}, sandboxing)
        upstream = factory.make("code", settings.upstreams["code"])
        with pytest.raises(ConfigError) as caught:
            await upstream.run()
        factory.crashed("code")
        call = Call("c", "mcp.tools.call", "tools/call", Resource("tool", "code/run_code", "code"))
        with pytest.raises(UpstreamUnavailable):
            await upstream.execute(Authorized(call, ANA, Permit("d", call.digest)), FakeRelay())
        upstream.unwatched("x")

    assert caught.value.faults[0][0] == key
    assert key in str(upstream.report()["reason"])
    assert key in factory.faults["code"]


async def test_python_of_our_own_runs_the_agent_where_the_host_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bubblewrap: Bubblewrap
) -> None:
    monkeypatch.setattr(code, "python_of", lambda base: None)
    async with a_world(tmp_path, monkeypatch, bubblewrap) as world:
        environment = world.running._terms.environments["default"]
        ran = await world.run("print(1)")

    assert environment.interpreter == str(Path(sys.executable)) or environment.interpreter.startswith("/")
    assert ran["exit_status"] == 0


async def test_level_of_the_server_is_the_least_for_all_its_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = HostDriver(level=Level.VM)
    async with a_world(tmp_path, monkeypatch, driver, 'sandbox = "gvisor"\n', a="", b='level = "vm"\n') as world:
        levels = {name: one.level for name, one in world.running._terms.environments.items()}

    assert levels == {"default": Level.GVISOR, "a": Level.GVISOR, "b": Level.VM}


@pytest.mark.slow
async def test_unused_boxes_of_a_warm_environment_are_clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gvisor = Gvisor()
    found = await gvisor.probe()
    if not found.ok or "warm" not in found.features:
        pytest.skip(f"gvisor: apt-get install runsc ({found.reason or 'it freezes nothing here'})")
    text = 'environment = "warm"\n[sandbox]\npool = 1\n'
    monkeypatch.setenv("REAL", "s3cr3t-value")
    described = 'warm = true\n[secrets]\nKEY = "env:REAL"\n'
    async with a_world(tmp_path, monkeypatch, gvisor, text, warm=described) as world:
        with anyio.fail_after(30):
            while not world.running.report()["unused_boxes"]:  # noqa: ASYNC110  # the pool sets no event of ours
                await anyio.sleep(0.02)
        ran = await world.run("import os; print(len(os.environ['KEY']))")
        report = world.running.report()
        frozen = list((tmp_path / ".interlock" / app.FROZEN).iterdir())
        secret = [path for path in frozen[0].rglob("*") if path.is_file() and b"s3cr3t-value" in path.read_bytes()]

    assert (ran["stdout"], report["cold_starts"], len(frozen), secret) == ("12\n", 0, 1, [])


async def test_agent_that_refuses_to_answer_is_not_frozen() -> None:
    script = 'import sys\nfor line in sys.stdin: print(\'{"id":1,"error":"busy"}\', flush=True)'
    process = ProcessSpec((sys.executable, "-I", "-S", "-u", "-c", script), cwd="/")
    async with await ChildProcess.start(process) as program:
        with anyio.fail_after(10), pytest.raises(SandboxFailure, match="not frozen"):
            await code._answering(program)
