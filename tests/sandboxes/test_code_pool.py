"""Boxes that are started ahead: handed out once, unused, with entropy and secrets of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from gateway.boxes import Level, Program
from gateway.errors import SandboxFailure, UpstreamUnavailable
from gateway.ports import Relay
from gateway.types import Authorized, Era, Obligation
from sandboxes.code import pool as pool_module
from sandboxes.code.environment import Environment
from sandboxes.code.pool import BoxSource, agent_is_up
from tests.sandboxes.code_world import PLAIN, HostBoxes, World, a_world, permit_with, until

AHEAD = replace(PLAIN, unused=2)


@pytest.fixture
def boxes(tmp_path: Path) -> HostBoxes:
    return HostBoxes(tmp_path)


async def _unused(world: World, number: int) -> None:
    await until(lambda: world.upstream.report()["unused_boxes"] == number)


async def test_an_unused_box_is_handed_out_at_once_and_replaced(boxes: HostBoxes) -> None:
    async with a_world(boxes, AHEAD) as world:
        await _unused(world, 2)
        started = time.perf_counter()
        written = await world.call("write_file", path="f", content="")
        took_s = time.perf_counter() - started
        await _unused(world, 2)

        assert written.relay.notes["sandbox"] == boxes.started[0].facts.note()
        assert world.upstream.report()["cold_starts"] == 0

    assert len(boxes.started) == 3
    assert took_s < 0.1  # a box from nothing takes longer; the bench says how long this takes


async def test_whoever_takes_a_box_is_served_before_the_next_is_started(
    boxes: HostBoxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(boxes, AHEAD) as world:
        await _unused(world, 2)
        monkeypatch.setattr(pool_module, "REST_S", 3600)
        await world.run("pass")

        assert (len(boxes.asked), world.upstream.report()["unused_boxes"]) == (2, 1)


async def test_no_box_is_handed_out_twice(boxes: HostBoxes) -> None:
    used: list[object] = []

    async with a_world(boxes, AHEAD) as world:
        await _unused(world, 2)
        async with anyio.create_task_group() as group:

            async def use() -> None:
                answer = await world.run("import os; print(os.listdir()); open('used', 'w').close()")
                used.append(answer.relay.notes["sandbox"]["id"])  # type: ignore[index]  # a note
                assert answer.stdout == "[]\n"

            for _ in range(5):
                group.start_soon(use)

    assert len(set(used)) == 5


async def test_a_session_that_ends_gives_nothing_back(boxes: HostBoxes) -> None:
    async with a_world(boxes, AHEAD) as world:
        await _unused(world, 2)
        session = (await world.run("pass")).session
        await world.call("end_session", session=session)
        await _unused(world, 2)
        answer = await world.run("import os; print(os.listdir())")

    assert answer.relay.notes["sandbox"] != boxes.started[0].facts.note()


async def test_secrets_are_not_in_a_box_before_it_is_somebodys(
    boxes: HostBoxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = replace(AHEAD, secrets={"TOKEN": "t0p-secret"})

    async with a_world(boxes, secret) as world:
        await _unused(world, 2)
        environments = _environments_of_agents(boxes)
        answer = await world.run("import os; print(len(os.environ['TOKEN']))")

    assert environments
    assert all(b"t0p-secret" not in environment for environment in environments)
    assert "t0p-secret" not in repr(secret) + repr(secret.box)
    assert answer.stdout == "10\n"


def _environments_of_agents(boxes: HostBoxes) -> list[bytes]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if str(boxes.directory).encode() in (place / "cmdline").read_bytes():
                found.append((place / "environ").read_bytes())
        except OSError:
            continue
    return found


async def test_a_dead_box_is_not_handed_out(boxes: HostBoxes) -> None:
    async with a_world(boxes, AHEAD) as world:
        await _unused(world, 2)
        boxes.started[0].kill()
        await boxes.started[0].wait()
        answer = await world.run("print(1)")

    assert answer.relay.notes["sandbox"] != boxes.started[0].facts.note()
    assert answer.stdout == "1\n"


async def test_a_box_that_fails_at_hand_out_is_passed_over(boxes: HostBoxes) -> None:
    boxes.script = (
        "import sys, json\nfor line in sys.stdin:\n"
        "    print(json.dumps({'id': json.loads(line)['id'], 'ok': {'version': 1, 'python': '3'}}), flush=True)"
    )

    async with a_world(boxes, AHEAD) as world:
        await _unused(world, 2)
        boxes.script = ""
        answer = await world.run("print(1)")

    assert answer.stdout == "1\n"


async def test_a_weaker_unused_box_is_not_handed_out(boxes: HostBoxes) -> None:
    permit = permit_with(Obligation("sandbox", {"level": "vm"}))

    async with a_world(boxes, AHEAD) as world:
        await _unused(world, 2)
        boxes.level = Level.VM
        answer = await world.run("pass", permit=permit)

        assert world.upstream.report()["cold_starts"] == 1

    assert answer.relay.notes["sandbox"]["level"] == "vm"  # type: ignore[index]  # a note
    assert ("default", Level.VM) in [(name, level) for name, level, _ in boxes.asked]


async def test_environments_share_no_unused_box(boxes: HostBoxes) -> None:
    async with a_world(boxes, replace(PLAIN, unused=1), replace(PLAIN, name="other")) as world:
        await _unused(world, 1)
        await world.run("pass", environment="other")

        assert world.upstream.report()["cold_starts"] == 1
        assert world.upstream.report()["unused_boxes"] == 1


async def test_a_pool_that_cannot_be_filled_says_why_and_tries_again(
    boxes: HostBoxes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_RETRY_S", 0.05)
    boxes.fail_with = SandboxFailure("no box today")

    async with a_world(boxes, AHEAD) as world:
        await until(lambda: len(boxes.asked) >= 3)
        reason = world.upstream.report()["reason"]
        boxes.fail_with = None
        await _unused(world, 2)

        assert world.upstream.report()["reason"] == ""

    assert reason == "no box today"
    assert [record.message for record in caplog.records if "no box today" in record.message] == [
        "environment 'default': no box could be started ahead: no box today"
    ]


async def test_boxes_started_ahead_may_be_clones(boxes: HostBoxes) -> None:
    thawed: list[str] = []

    def warm(environment: Environment) -> BoxSource | None:
        async def thaw() -> Program:
            thawed.append(environment.name)
            program = await boxes.start(environment, environment.level, "thawed")
            try:
                assert "python" in await agent_is_up(program)
            except BaseException:
                program.kill()
                raise
            return program

        return thaw if environment.unused else None

    async with a_world(boxes, AHEAD, replace(PLAIN, name="cold"), warm=warm) as world:
        await _unused(world, 2)
        answers = [await world.run("import os; print(os.urandom(4).hex())") for _ in range(2)]

    assert thawed[:2] == ["default", "default"]
    assert answers[0].stdout != answers[1].stdout


async def test_unused_boxes_end_with_the_pool_also_those_that_start(boxes: HostBoxes) -> None:
    async with a_world(boxes, AHEAD) as world:
        await _unused(world, 2)
        boxes.gate = anyio.Event()
        await world.run("pass")
        await until(lambda: len(boxes.asked) >= 3)

    assert all(program.exit_status is not None for program in boxes.started)
    assert len(boxes.started) == 2


async def test_whoever_needs_to_know_is_told_which_calls_a_box_works_for(boxes: HostBoxes) -> None:
    told: list[tuple[str, list[str], str]] = []

    def occupied(box: Program, permitted: Sequence[Authorized], relay: Relay) -> AbstractContextManager[object]:
        told.append((box.facts.id, [authorized.call.method for authorized in permitted], relay.owner))
        return nullcontext()

    async with a_world(boxes, occupied=occupied) as world:
        await world.run("pass", era=Era.LEGACY)

    assert told == [(boxes.started[0].facts.id, ["sandbox/exec", "tools/call"], "ana")]


async def test_a_box_that_dies_while_it_starts_is_no_session(boxes: HostBoxes) -> None:
    boxes.script = "pass"

    async with a_world(boxes) as world:
        with pytest.raises(UpstreamUnavailable, match="a box of environment 'default': ended with exit status 0"):
            await world.run("pass")
