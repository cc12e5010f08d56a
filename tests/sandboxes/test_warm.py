"""Clones of a box that was prepared once: nobody's before, never with a secret, and cold where that cannot be."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from adapters.upstreams.mcp.link import Request
from adapters.upstreams.mcp.stdio import Manner, Pipe, StdioLink
from gateway import codec
from gateway.boxes import Level, Program
from gateway.errors import (
    IsolationUnavailable,
    SandboxFailure,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.types import Era
from sandboxes.boxes import Boxes, Wanted
from sandboxes.cgroups import Cgroups
from sandboxes.code.client import AgentClient, Snippet
from sandboxes.code.environment import Environment
from sandboxes.driver import Driver, Probe
from sandboxes.gvisor.driver import Gvisor
from sandboxes.ledger import Ledger
from sandboxes.probing import Probes
from sandboxes.spec import BoxSpec
from sandboxes.warm import State, Warmth
from tests.sandboxes.host_driver import HostDriver, an_echo, lost
from tests.sandboxes.test_boxes import gone, said


class Preparing:
    """Prepares a box, and counts."""

    def __init__(self, fault: Exception | None = None, state: State | None = None) -> None:
        self.count = 0
        self.fault = fault
        self.state = {"found": "out"} if state is None else state

    async def __call__(self, program: Program) -> State:
        self.count += 1
        await said(program, b"prepare\n")
        if self.fault is not None:
            raise self.fault
        return self.state


WANTED = Wanted(an_echo(), Level.PROCESS, "upstream files", "sha256:e")


@asynccontextmanager
async def warmth_of(tmp_path: Path, driver: Driver) -> AsyncIterator[Warmth]:
    boxes = Boxes((driver,), Ledger(tmp_path / "boxes"), Probes(), None, Cgroups.found())
    with anyio.fail_after(90):
        async with boxes.running():
            yield Warmth(boxes, tmp_path / "frozen")
        boxes.ledger.close()


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "frozen").iterdir())


async def test_box_is_prepared_once_and_every_user_gets_a_clone_of_its_own(tmp_path: Path) -> None:
    driver, prepare = HostDriver(), Preparing()
    async with warmth_of(tmp_path, driver) as warmth:
        clones = [await warmth.clone(WANTED, "k", prepare) for _ in range(3)]
        heard = [await said(program) for program, _ in clones]
        ids = {program.facts.id for program, _ in clones} | {driver.places[0].id}
        living = {one.program for one in warmth.boxes.living}

    assert heard == [b"hello\n"] * 3
    assert [state for _, state in clones] == [{"found": "out"}] * 3
    assert (prepare.count, len(driver.frozen), len(driver.thawed), len(ids)) == (1, 1, 3, 4)
    assert living >= {program for program, _ in clones}
    assert len(left(tmp_path)) == 1


async def test_first_clones_asked_for_at_once_freeze_one_box(tmp_path: Path) -> None:
    driver, prepare = HostDriver(), Preparing()
    async with warmth_of(tmp_path, driver) as warmth, anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(warmth.clone, WANTED, "k", prepare)

    assert (prepare.count, len(driver.frozen), len(driver.thawed)) == (1, 1, 5)


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        (WANTED, "another"),
        (replace(WANTED, environment="sha256:f"), "k"),
        (replace(WANTED, spec=an_echo(env={"A": "1"})), "k"),
        (replace(WANTED, spec=an_echo(cwd="/tmp")), "k"),
        (replace(WANTED, spec=an_echo(egress=True)), "k"),
    ],
)
async def test_box_of_another_kind_is_frozen_for_itself(tmp_path: Path, other: Wanted, kind: str) -> None:
    driver, prepare = HostDriver(), Preparing()
    async with warmth_of(tmp_path, driver) as warmth:
        await warmth.clone(WANTED, "k", prepare)
        await warmth.clone(other, kind, prepare)

    assert prepare.count == 2
    assert len(left(tmp_path)) == 2


async def test_label_and_purpose_make_no_difference(tmp_path: Path) -> None:
    driver, prepare = HostDriver(), Preparing()
    async with warmth_of(tmp_path, driver) as warmth:
        await warmth.clone(WANTED, "k", prepare)
        await warmth.clone(replace(WANTED, spec=an_echo("b"), purpose="another"), "k", prepare)

    assert prepare.count == 1


async def test_box_with_secrets_is_never_frozen(tmp_path: Path) -> None:
    driver, prepare = HostDriver(), Preparing()
    secret = replace(WANTED, spec=an_echo(secrets={"TOKEN": "s3cret"}))
    async with warmth_of(tmp_path, driver) as warmth:
        program, state = await warmth.clone(secret, "k", prepare)
        heard = await said(program)

    assert (heard, state, prepare.count, driver.frozen, driver.thawed) == (b"hello\n", None, 0, [], [])
    assert not (tmp_path / "frozen").exists()


@pytest.mark.parametrize("features", [frozenset(), frozenset({"seccomp"})])
async def test_driver_that_cannot_freeze_here_starts_cold(tmp_path: Path, features: frozenset[str]) -> None:
    driver = HostDriver(answer=Probe(True, "1.0", features=features))  # type: ignore[arg-type]  # names of features
    async with warmth_of(tmp_path, driver) as warmth:
        program, state = await warmth.clone(WANTED, "k", Preparing())
        heard = await said(program)

    assert (heard, state, driver.frozen) == (b"hello\n", None, [])


async def test_driver_that_only_says_that_it_can_freeze_starts_cold(tmp_path: Path) -> None:
    class Plain(HostDriver):
        freeze = None  # type: ignore[assignment]  # it has none

    driver = Plain()
    async with warmth_of(tmp_path, driver) as warmth:
        _, state = await warmth.clone(WANTED, "k", Preparing())

    assert (state, len(driver.programs)) == (None, 1)


async def test_level_that_cannot_be_had_is_refused_and_not_made_up_for(tmp_path: Path) -> None:
    async with warmth_of(tmp_path, HostDriver()) as warmth:
        with pytest.raises(IsolationUnavailable):
            await warmth.clone(replace(WANTED, level=Level.VM), "k", Preparing())


@pytest.mark.parametrize(
    "fault", [SandboxFailure("thaw: no"), UpstreamUnavailable("thaw: gone"), UpstreamTimeout("thaw: slow")]
)
async def test_clone_that_does_not_start_is_started_cold_from_then_on_and_that_is_said_once(
    tmp_path: Path, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    driver, prepare = HostDriver(thaw_with=fault), Preparing()
    with caplog.at_level(logging.WARNING, "interlock.sandboxes"):
        async with warmth_of(tmp_path, driver) as warmth:
            clones = [await warmth.clone(WANTED, "k", prepare) for _ in range(3)]
            heard = [await said(program) for program, _ in clones]
            places = [place.id for place in driver.places]
            living = len(warmth.boxes.living)

    assert heard == [b"hello\n"] * 3
    assert [state for _, state in clones] == [None] * 3
    assert (len(driver.thawed), len(driver.frozen), living, len(set(places))) == (1, 1, 3, 5)
    assert left(tmp_path) == []
    (record,) = caplog.records
    assert record.getMessage() == f"upstream files: boxes of this kind are started cold from now on: {fault}"


async def test_box_that_cannot_be_frozen_is_tried_once_however_many_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Unfreezable(HostDriver):
        async def freeze(self, *_: object) -> None:
            self.frozen.append(an_echo())
            raise SandboxFailure("an open connection")

    driver, prepare, states = Unfreezable(), Preparing(), list[State | None]()

    async def one(warmth: Warmth) -> None:
        states.append((await warmth.clone(WANTED, "k", prepare))[1])

    with caplog.at_level(logging.WARNING, "interlock.sandboxes"):
        async with warmth_of(tmp_path, driver) as warmth, anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(one, warmth)

    assert states == [None] * 4
    assert (len(driver.frozen), len(driver.programs), prepare.count) == (1, 5, 1)
    assert len(caplog.records) == 1
    assert left(tmp_path) == []


async def test_disk_that_takes_nothing_means_cold_starts(tmp_path: Path) -> None:
    (tmp_path / "frozen").write_text("in the way")
    driver = HostDriver()
    async with warmth_of(tmp_path, driver) as warmth:
        program, state = await warmth.clone(WANTED, "k", Preparing())
        heard = await said(program)

    assert (heard, state, driver.frozen) == (b"hello\n", None, [])


async def test_state_that_is_too_large_to_be_kept_means_cold_starts(tmp_path: Path) -> None:
    driver, prepare = HostDriver(), Preparing(state={"instructions": "x" * (5 << 20)})
    async with warmth_of(tmp_path, driver) as warmth:
        states = [(await warmth.clone(WANTED, "k", prepare))[1] for _ in range(2)]

    assert (states, prepare.count) == ([None, None], 1)


async def test_frozen_box_that_was_taken_away_is_made_again(tmp_path: Path) -> None:
    driver, prepare = HostDriver(), Preparing()
    async with warmth_of(tmp_path, driver) as warmth:
        await warmth.clone(WANTED, "k", prepare)
        lost(tmp_path / "frozen")
        _, state = await warmth.clone(WANTED, "k", prepare)

    assert (state, prepare.count) == ({"found": "out"}, 2)


@pytest.mark.parametrize("garbage", [b"", b"[]", b"\xff", b"[" * 100_000])
async def test_frozen_box_whose_state_is_garbage_is_made_again(tmp_path: Path, garbage: bytes) -> None:
    driver, prepare = HostDriver(), Preparing()
    async with warmth_of(tmp_path, driver) as warmth:
        await warmth.clone(WANTED, "k", prepare)
        (tmp_path / "frozen" / left(tmp_path)[0] / "state.json").write_bytes(garbage)
        _, state = await warmth.clone(WANTED, "k", prepare)

    assert (state, prepare.count) == ({"found": "out"}, 2)


async def test_nothing_frozen_outlives_what_may_have_changed(tmp_path: Path) -> None:
    prepare = Preparing()
    for _ in range(2):
        async with warmth_of(tmp_path, HostDriver()) as warmth:
            await warmth.forget()
            await warmth.clone(WANTED, "k", prepare)

    assert prepare.count == 2


async def test_program_that_cannot_be_prepared_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    driver, prepare = HostDriver(), Preparing(UpstreamUnavailable("no handshake"))
    async with warmth_of(tmp_path, driver) as warmth:
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable, match="no handshake"):
                await warmth.clone(WANTED, "k", prepare)
        await gone(warmth.boxes)

    assert (prepare.count, driver.frozen) == (2, [])
    assert not (tmp_path / "frozen").exists()


async def test_program_that_must_not_be_frozen_yet_is_started_cold(tmp_path: Path) -> None:
    driver, prepare = HostDriver(), Preparing(SandboxFailure("it answers no ping"))
    async with warmth_of(tmp_path, driver) as warmth:
        _, state = await warmth.clone(WANTED, "k", prepare)

    assert (state, driver.frozen) == (None, [])


async def test_box_that_ends_while_it_is_prepared_is_not_frozen(tmp_path: Path) -> None:
    driver = HostDriver()

    async def prepare(program: Program) -> State:
        program.kill()
        await program.wait()
        await anyio.wait_all_tasks_blocked()
        return {}

    async with warmth_of(tmp_path, driver) as warmth:
        _, state = await warmth.clone(WANTED, "k", prepare)

    assert (state, driver.frozen) == (None, [])


async def test_freezing_that_is_cancelled_leaves_no_box_and_no_file(tmp_path: Path) -> None:
    driver, reached = HostDriver(), anyio.Event()

    async def prepare(program: Program) -> State:
        reached.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with warmth_of(tmp_path, driver) as warmth:
        async with anyio.create_task_group() as group:
            group.start_soon(warmth.clone, WANTED, "k", prepare)
            await reached.wait()
            group.cancel_scope.cancel()
        await gone(warmth.boxes)
        _, state = await warmth.clone(WANTED, "k", Preparing())

    assert state == {"found": "out"}


# -- MCP servers over a pipe --

SERVER = """
import json, sys
ready = False
for line in sys.stdin:
    message = json.loads(line)
    method, number = message.get("method"), message.get("id")
    if method == "notifications/initialized":
        ready = True
    if number is None:
        continue
    answer = {"error": {"code": -32601, "message": "Method not found"}}
    if method == "initialize":
        answer = {"result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                             "serverInfo": {"name": "counting", "version": "1"}}}
    elif method == "ping" and PINGS:
        answer = {"result": {}}
    elif method == "ping":
        continue
    elif method == "tools/list" and ready:
        answer = {"result": {"tools": [{"name": str(number), "inputSchema": {"type": "object"}}]}}
    elif method == "tools/list":
        answer = {"error": {"code": -32602, "message": "not initialized"}}
    print(json.dumps({"jsonrpc": "2.0", "id": number, **answer}), flush=True)
"""


def a_server(*, pings: bool = True) -> BoxSpec:
    code = SERVER.replace("PINGS", str(pings))
    return BoxSpec("counting", (sys.executable, "-I", "-S", "-u", "-c", code), egress=False)


def pipe_to(warmth: Warmth, wanted: Wanted) -> Pipe:
    async def start() -> Program:
        return await warmth.boxes.start(wanted)

    async def clone(kind: str, prepare: object) -> tuple[Program, State | None]:
        return await warmth.clone(wanted, kind, prepare)  # type: ignore[arg-type]  # a function of that form

    return Pipe("counting", start, clone=clone)


@asynccontextmanager
async def linked(pipe: Pipe, era: Era | None = Era.LEGACY) -> AsyncIterator[StdioLink]:
    link = StdioLink(pipe, Manner({}, era), news=lambda _method, _params: None)
    async with anyio.create_task_group() as group:
        await group.start(link.run)
        yield link
        link.stop()
        await link.ended.wait()


async def tool_of(link: StdioLink) -> str:
    reply = await link.request(Request("tools/list", {}))
    tools = reply.result.get("tools")
    return json.dumps(tools) if reply.error is None else codec.dumps(dict(reply.error)).decode()


async def test_server_without_a_frozen_copy_is_spoken_to_from_the_start(tmp_path: Path) -> None:
    driver = HostDriver(answer=Probe(True, "1.0"))
    wanted = replace(WANTED, spec=a_server())
    async with warmth_of(tmp_path, driver) as warmth, linked(pipe_to(warmth, wanted)) as link:
        told, tools = link.description.result, await tool_of(link)

    assert told["serverInfo"] == {"name": "counting", "version": "1"}
    assert json.loads(tools)[0]["name"] == "2"


async def test_clone_is_not_asked_again_what_it_said_when_it_was_frozen(tmp_path: Path) -> None:
    driver = HostDriver()  # whose clones begin anew, and so would say it
    async with warmth_of(tmp_path, driver) as warmth:
        async with linked(pipe_to(warmth, replace(WANTED, spec=a_server()))) as link:
            told, answer = link.description.result, await tool_of(link)
        assert link.era is Era.LEGACY

    assert told["serverInfo"] == {"name": "counting", "version": "1"}
    assert "not initialized" in answer


async def test_server_that_answers_no_ping_is_not_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.upstreams.mcp.stdio.PROBE_S", 0.2)
    driver = HostDriver()
    wanted = replace(WANTED, spec=a_server(pings=False))
    async with warmth_of(tmp_path, driver) as warmth, linked(pipe_to(warmth, wanted)) as link:
        tools = await tool_of(link)

    assert driver.frozen == []
    assert json.loads(tools)[0]["name"] == "2"


async def test_server_that_cannot_be_spoken_to_is_told_by_the_link(tmp_path: Path) -> None:
    silent = replace(WANTED, spec=an_echo(command=(sys.executable, "-c", "pass")))
    async with warmth_of(tmp_path, HostDriver()) as warmth:
        link = StdioLink(pipe_to(warmth, silent), Manner({}, Era.LEGACY), news=lambda _method, _params: None)
        async with anyio.create_task_group() as group:
            with pytest.raises(UpstreamUnavailable):
                await group.start(link.run)

    assert link.ended.is_set()


async def test_frozen_copy_that_does_not_say_its_era_is_not_guessed_at(tmp_path: Path) -> None:
    async def clone(kind: str, prepare: object) -> tuple[Program, State | None]:
        return await warmth.clone(WANTED, kind, Preparing(state={"era": "future", "result": 1}))

    async with warmth_of(tmp_path, HostDriver()) as warmth:
        pipe = Pipe("files", lambda: warmth.boxes.start(WANTED), clone=clone)
        link = StdioLink(pipe, Manner({}, None), news=lambda _method, _params: None)
        async with anyio.create_task_group() as group:
            with pytest.raises(UpstreamProtocolError, match="does not say its era"):
                await group.start(link.run)


# -- For real --


@pytest.fixture
async def gvisor() -> Gvisor:
    driver = Gvisor()
    found = await driver.probe()
    if not found.ok:
        pytest.skip(f"gvisor: apt-get install runsc ({found.reason})")
    if "warm" not in found.features:
        pytest.skip("gvisor: freezes nothing here")
    return driver


@pytest.mark.slow
async def test_clones_of_an_mcp_server_in_gvisor_go_on_after_its_handshake(tmp_path: Path, gvisor: Gvisor) -> None:
    server = replace(a_server(), command=("/usr/bin/python3", *a_server().command[1:]))
    wanted = replace(WANTED, spec=server, level=Level.GVISOR)
    tools = []
    async with warmth_of(tmp_path, gvisor) as warmth:
        for _ in range(2):
            async with linked(pipe_to(warmth, wanted)) as link:
                assert link.description.result["serverInfo"] == {"name": "counting", "version": "1"}
                assert link.box is not None
                tools.append((link.box.id, json.loads(await tool_of(link))[0]["name"]))
        frozen = left(tmp_path)

    assert [name for _, name in tools] == ["1000", "1000"]  # initialised, and by numbers that were never used
    assert len({box for box, _ in tools}) == 2
    assert len(frozen) == 1


LOOK = """
import os
print(os.environ["WHO"], os.urandom(8).hex(), os.path.exists("/workspace/f"))
open("/workspace/f", "w").close()
"""


@pytest.mark.slow
async def test_clones_of_the_agent_in_gvisor_are_different_boxes(tmp_path: Path, gvisor: Gvisor) -> None:
    environment = Environment("default", BoxSpec("default", (), egress=False), Level.GVISOR)
    wanted = Wanted(environment.box, Level.GVISOR, "sandbox: unused", "sha256:e")
    seen = []

    async def up(program: Program) -> State:
        await AgentClient(program, "a box").ping()
        return {}

    async with warmth_of(tmp_path, gvisor) as warmth:
        for number in range(2):
            program, state = await warmth.clone(wanted, "agent", up)
            agent = AgentClient(program, "a clone")
            await agent.hand_out({"WHO": f"user {number}"})
            ran = await agent.run(Snippet("python", LOOK, 20))
            seen.append(ran.stdout.head.decode().split())
            assert state == {}
            program.kill()

    assert [words[1] for words in seen] == ["0", "1"]
    assert seen[0][2] != seen[1][2]
    assert [words[3] for words in seen] == ["False", "False"]
