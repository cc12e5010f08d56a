"""Who has which session, for how long, and what is said when there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.boxes import Level, caller_of
from gateway.errors import (
    InvalidCall,
    IsolationUnavailable,
    PolicyDenied,
    QuotaExceeded,
    SandboxFailure,
    UnknownResource,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.types import Era, Obligation
from sandboxes.code.client import AgentClient
from sandboxes.code.environment import Environment
from sandboxes.code.sessions import SessionLimits, Sessions
from tests.fakes import ANA, FakeRelay
from tests.sandboxes.code_world import PLAIN, HostBoxes, a_world, permit_with, until


@pytest.fixture
def boxes(tmp_path: Path) -> HostBoxes:
    return HostBoxes(tmp_path)


async def test_each_run_of_a_modern_client_that_names_no_session_gets_a_new_one(boxes: HostBoxes) -> None:
    async with a_world(boxes) as world:
        first, second = await world.run("pass"), await world.run("pass")

    assert first.session != second.session
    assert f"a new session; pass its id on to go on in it: {first.session}" in first.texts[0]


async def test_a_client_that_keeps_an_mcp_session_has_one_of_its_own_for_each_environment(boxes: HostBoxes) -> None:
    async with a_world(boxes, PLAIN, replace(PLAIN, name="other")) as world:
        first = await world.run("open('f', 'w').close()", era=Era.LEGACY)
        again = await world.call("list_files", era=Era.LEGACY)
        other = await world.call("write_file", path="g", content="", era=Era.LEGACY, environment="other")
        strange = await world.run("import os; print(os.listdir())", era=Era.LEGACY, owner="bo")

    assert (first.session == again.session, first.session == other.session) == (True, False)
    assert again.structured["entries"] == [{"path": "f", "type": "file", "size": 0}]
    assert strange.stdout == "[]\n"


async def test_calls_that_come_at_once_share_the_one_session_of_their_client(boxes: HostBoxes) -> None:
    found: list[str] = []

    async def use() -> None:
        found.append((await world.run("pass", era=Era.LEGACY)).session)

    async with a_world(boxes) as world, anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(use)

    assert len(set(found)) == 1
    assert len(boxes.started) == 1


@pytest.mark.parametrize("tool", ["read_file", "list_files", "end_session"])
async def test_without_a_session_there_is_nothing_to_read_or_end(boxes: HostBoxes, tool: str) -> None:
    arguments: dict[str, Any] = {"path": "f"} if tool == "read_file" else {}

    async with a_world(boxes) as world:
        with pytest.raises(UnknownResource, match="there is no session yet"):
            await world.call(tool, **arguments)

    assert boxes.started == []


@pytest.mark.parametrize("tool", ["run_code", "read_file", "write_file", "list_files", "end_session"])
async def test_the_session_of_another_owner_looks_like_one_that_never_was(boxes: HostBoxes, tool: str) -> None:
    every: dict[str, dict[str, Any]] = {
        "run_code": {"code": "pass", "language": "python"},
        "read_file": {"path": "f"},
        "write_file": {"path": "f", "content": ""},
    }
    arguments = every.get(tool, {})
    told: list[str] = []

    async with a_world(boxes) as world:
        session = (await world.run("pass")).session
        for owner, name in (("bo", session), ("ana", "x" * len(session))):
            with pytest.raises(UnknownResource) as caught:
                await world.call(tool, owner=owner, session=name, **arguments)
            told.append(str(caught.value).replace(name, "ID"))

    assert told[0] == told[1]
    assert len(boxes.started) == 1


async def test_policy_is_asked_about_the_environment_with_what_is_to_be_done(boxes: HostBoxes) -> None:
    async with a_world(boxes, PLAIN, replace(PLAIN, name="data", digest="sha256:d")) as world:
        first = await world.run("pass", environment="data")
        await world.run("1", session=first.session, timeout_s=2)

    action, resource, params = first.relay.acted[0]
    assert (action, resource.type, resource.id, resource.upstream) == ("sandbox.exec", "sandbox", "data", "sandbox")
    assert resource.catalog == {"level": "process", "digest": "sha256:d"}
    asked = {"operation": "run_code", "code": "pass", "language": "python", "session": ""}
    assert params == {"name": "data", "arguments": asked, "caller": caller_of(world.calls[0])}
    assert world.calls[3].arguments == asked | {"code": "1", "session": first.session, "timeout_s": 2}


async def test_a_refusal_by_policy_goes_through_unchanged_and_starts_nothing(boxes: HostBoxes) -> None:
    refusal = PolicyDenied("no code today", decision_id="d7")
    relay = FakeRelay("ana", answers={"sandbox.exec": refusal})

    async with a_world(boxes) as world:
        with pytest.raises(PolicyDenied) as caught:
            await world.run("pass", relay=relay)

    assert caught.value is refusal
    assert boxes.started == []


async def test_an_environment_that_is_for_others_looks_like_one_that_is_not_there(boxes: HostBoxes) -> None:
    secret = replace(PLAIN, name="secret", visible_to=frozenset({"admin"}))
    told: list[str] = []

    async with a_world(boxes, PLAIN, secret) as world:
        for name in ("secret", "absent"):
            with pytest.raises(UnknownResource, match="there are: default") as caught:
                await world.run("pass", environment=name)
            told.append(str(caught.value).replace(name, "NAME"))
        admin = await world.run("print(1)", environment="secret", identity=replace(ANA, roles=("admin",)))
        with pytest.raises(UnknownResource, match="there are: default"):
            await world.run("print(1)", session=admin.session)

    assert told[0] == told[1]
    assert admin.stdout == "1\n"


async def test_a_session_stays_in_its_environment(boxes: HostBoxes) -> None:
    async with a_world(boxes, PLAIN, replace(PLAIN, name="other")) as world:
        session = (await world.run("pass")).session
        with pytest.raises(InvalidCall, match="leave environment out"):
            await world.run("pass", session=session, environment="other")
        same = await world.run("pass", session=session, environment="default")

    assert same.session == session


async def test_beyond_an_owners_number_of_sessions_none_is_started_and_none_taken_away(boxes: HostBoxes) -> None:
    async with a_world(boxes, limits=SessionLimits(sessions=3, per_owner=2)) as world:
        kept = [await world.run("open('f', 'w').close()") for _ in range(2)]
        with pytest.raises(QuotaExceeded, match="you have 2 sandbox sessions") as own:
            await world.run("pass")
        await world.run("pass", owner="bo")
        with pytest.raises(QuotaExceeded, match="all sandbox sessions are taken"):
            await world.run("pass", owner="cy")
        left = [await world.call("list_files", session=answer.session) for answer in kept]
        await world.call("end_session", session=kept[0].session)
        await world.run("pass")

    assert own.value.retry_after_s == 60
    assert [len(answer.structured["entries"]) for answer in left] == [1, 1]


async def test_an_ended_session_is_gone_with_its_box(boxes: HostBoxes) -> None:
    async with a_world(boxes) as world:
        session = (await world.run("pass")).session
        ended = await world.call("end_session", session=session)
        with pytest.raises(UnknownResource):
            await world.run("pass", session=session)

        assert boxes.started[0].exit_status is not None
        assert world.upstream.report()["sessions"] == 0

    assert ended.structured == {"session": session, "new_session": False, "ended": True}
    assert ended.relay.notes["sandbox"] == boxes.started[0].facts.note()


async def test_ending_a_session_ends_what_runs_in_it(boxes: HostBoxes) -> None:
    told: list[str] = []

    async with a_world(boxes) as world:
        session = (await world.run("pass")).session

        async def stay() -> None:
            with pytest.raises(UpstreamUnavailable) as caught:
                await world.run("open('up', 'w').close()\nwhile True: pass", session=session)
            told.append(str(caught.value))

        async with anyio.create_task_group() as group:
            group.start_soon(stay)
            await until(lambda: list(boxes.directory.rglob("up")))
            await world.call("end_session", session=session)

    assert told == [f"session {session!r} was ended; its files are lost; leave session out to start another"]


async def test_a_session_that_is_ended_while_its_box_starts_leaves_no_box(boxes: HostBoxes) -> None:
    boxes.gate = anyio.Event()

    async with a_world(boxes) as world:

        async def begin() -> None:
            with pytest.raises(UpstreamUnavailable, match="was ended"):
                await world.run("pass", era=Era.LEGACY)

        async with anyio.create_task_group() as group:
            group.start_soon(begin)
            await until(lambda: boxes.asked)
            ended = await world.call("end_session", era=Era.LEGACY)
            boxes.gate.set()

        assert ended.structured["ended"] is True
        await boxes.started[0].wait()


async def test_an_unused_session_ends_and_the_next_call_gets_a_new_one(boxes: HostBoxes) -> None:
    async with a_world(boxes, replace(PLAIN, idle_s=0.2)) as world:
        first = await world.run("open('f', 'w').close()", era=Era.LEGACY)
        await boxes.started[0].wait()
        second = await world.run("import os; print(os.listdir())", era=Era.LEGACY)
        with pytest.raises(UnknownResource, match="unused"):
            await world.run("pass", session=first.session, era=Era.LEGACY)

    assert (second.stdout, second.structured["new_session"]) == ("[]\n", True)


async def test_a_session_in_use_is_not_unused(boxes: HostBoxes) -> None:
    async with a_world(boxes, replace(PLAIN, idle_s=0.2)) as world:
        answer = await world.run("import time; time.sleep(0.5); print('done')")

    assert answer.stdout == "done\n"


async def test_at_its_greatest_age_a_session_ends_even_in_use(boxes: HostBoxes) -> None:
    async with a_world(boxes, limits=SessionLimits(max_age_s=0.6)) as world:
        with pytest.raises(UpstreamUnavailable, match="reached its greatest age; its files are lost"):
            await world.run("while True: pass")


async def test_a_box_that_dies_ends_its_session_and_says_that_the_files_are_lost(boxes: HostBoxes) -> None:
    async with a_world(boxes) as world:
        session = (await world.run("pass")).session
        with pytest.raises(UpstreamUnavailable) as caught:
            await world.run("import os, signal; os.kill(os.getppid(), signal.SIGKILL)", session=session)
        with pytest.raises(UnknownResource):
            await world.run("pass", session=session)

    assert "exit status 137 (killed; most often it used up its memory); its files are lost" in str(caught.value)


@pytest.mark.parametrize("era", list(Era))
async def test_a_box_that_died_unused_is_told_of_once(boxes: HostBoxes, era: Era) -> None:
    async with a_world(boxes) as world:
        session = (await world.run("pass", era=era)).session
        named = {"session": session} if era is Era.MODERN else {}
        boxes.started[0].kill()
        await boxes.started[0].wait()
        with pytest.raises(UpstreamUnavailable, match="the box ended by itself; its files are lost"):
            await world.run("pass", era=era, **named)
        fresh = await world.run("print(1)", era=era)

    assert fresh.structured["new_session"] is True


async def test_a_session_is_over_at_its_time_however_late_somebody_looks() -> None:
    clock = [100.0]
    sessions = Sessions(_no_box, SessionLimits(), new_id=lambda: "id", now=lambda: clock[0])
    session = sessions.begin("ana", PLAIN, default=True)
    clock[0] += PLAIN.idle_s - 1

    assert sessions.find("ana", "id") is sessions.default("ana", "default") is session
    clock[0] += 1
    assert sessions.default("ana", "default") is None
    again = sessions.begin("ana", PLAIN, default=False)
    clock[0] += PLAIN.idle_s
    with pytest.raises(UnknownResource):
        sessions.find("ana", "id")

    assert again.ended == "was unused for too long or reached its greatest age"
    assert len(sessions) == 0


async def test_after_the_end_no_session_begins() -> None:
    sessions = Sessions(_no_box, SessionLimits(), new_id=lambda: "id")

    with anyio.CancelScope() as scope:
        scope.cancel()
        await sessions.run()

    with pytest.raises(UpstreamUnavailable, match="is going down"):
        sessions.begin("ana", PLAIN, default=False)


async def _no_box(environment: Environment, level: Level, session: str) -> AgentClient:
    raise AssertionError("no box is needed here")


async def test_a_dead_session_takes_no_place(boxes: HostBoxes) -> None:
    async with a_world(boxes, limits=SessionLimits(per_owner=1)) as world:
        await world.run("pass")
        boxes.started[0].kill()
        await boxes.started[0].wait()
        fresh = await world.run("print(1)")

    assert fresh.stdout == "1\n"


async def test_a_box_that_cannot_be_started_leaves_no_session(boxes: HostBoxes) -> None:
    boxes.fail_with = SandboxFailure("no box today")

    async with a_world(boxes, limits=SessionLimits(per_owner=1)) as world:
        for era in Era:
            with pytest.raises(SandboxFailure, match="no box today"):
                await world.run("pass", era=era)
        boxes.fail_with = None
        answer = await world.run("print(1)")

    assert answer.stdout == "1\n"


async def test_a_call_that_is_cancelled_before_it_knows_its_session_leaves_none(boxes: HostBoxes) -> None:
    async with a_world(boxes) as world:
        with anyio.move_on_after(0.5) as scope:
            await world.run("while True: pass")

        assert scope.cancelled_caught
        assert world.upstream.report()["sessions"] == 0
        await boxes.started[0].wait()


async def test_calls_of_one_session_wait_for_each_other_and_no_longer_than_they_may(boxes: HostBoxes) -> None:
    async with a_world(boxes, limits=SessionLimits(wait_s=0.3)) as world:
        session = (await world.run("pass")).session

        async def long() -> None:
            await world.run("import time; open('up', 'w').close(); time.sleep(0.9)", session=session)

        async with anyio.create_task_group() as group:
            group.start_soon(long)
            await until(lambda: list(boxes.directory.rglob("up")))
            with pytest.raises(UpstreamTimeout, match=r"was busy with another call for 0\.3 s"):
                await world.run("pass", session=session)
        after = await world.run("print(1)", session=session)

    assert after.stdout == "1\n"


async def test_twenty_sessions_at_once_are_kept_apart(boxes: HostBoxes) -> None:
    seen: list[tuple[int, str]] = []

    async def use(number: int) -> None:
        owner = f"owner-{number % 5}"
        first = await world.run(f"echo {number} > mine", "shell", owner=owner)
        second = await world.run("cat mine; ls", "shell", owner=owner, session=first.session)
        seen.append((number, second.stdout))

    async with a_world(boxes) as world, anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(use, number)

    assert sorted(seen) == [(number, f"{number}\nmine\n") for number in range(20)]


@pytest.mark.parametrize("method", ["tools/call", "sandbox/exec"])
async def test_an_obligation_of_either_permit_raises_the_level_of_the_box(boxes: HostBoxes, method: str) -> None:
    boxes.level = Level.GVISOR
    permit = permit_with(Obligation("sandbox", {"level": "gvisor"}), Obligation("label", {}), method=method)

    async with a_world(boxes) as world:
        await world.run("pass", permit=permit)

    assert [level for _, level, _ in boxes.asked] == [Level.GVISOR]


async def test_a_session_is_not_used_for_a_call_that_needs_a_stronger_box(boxes: HostBoxes) -> None:
    permit = permit_with(Obligation("sandbox", {"level": "vm"}))

    async with a_world(boxes) as world:
        session = (await world.run("open('f', 'w').close()")).session
        with pytest.raises(IsolationUnavailable, match="runs at isolation level 'process', but policy asks for 'vm'"):
            await world.run("pass", session=session, permit=permit)
        left = await world.call("list_files", session=session)

    assert len(left.structured["entries"]) == 1


async def test_a_level_that_does_not_exist_is_given_to_nobody(boxes: HostBoxes) -> None:
    permit = permit_with(Obligation("sandbox", {"level": "moon"}))

    async with a_world(boxes) as world:
        with pytest.raises(SandboxFailure, match="does not exist"):
            await world.run("pass", permit=permit)

    assert boxes.started == []


async def test_when_the_upstream_ends_no_box_is_left(boxes: HostBoxes) -> None:
    async with a_world(boxes, replace(PLAIN, unused=1)) as world:
        await world.run("pass")
        upstream = world.upstream

    assert all(program.exit_status is not None for program in boxes.started)
    assert upstream.report()["state"] == "down"
    with pytest.raises(UpstreamUnavailable, match="is not running"):
        await world.run("pass")
