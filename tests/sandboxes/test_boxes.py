"""Boxes are made by the strongest driver that works, each in a place of its own that is given up with it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from gateway.boxes import Level, Program
from gateway.errors import IsolationUnavailable, PolicyDenied, SandboxFailure, UpstreamUnavailable
from sandboxes.boxes import Boxes, Wanted, limits_of, new_uid
from sandboxes.bubblewrap import Bubblewrap
from sandboxes.cgroups import Cgroups, Joined
from sandboxes.driver import Driver, Overhead, Place, Probe
from sandboxes.egress.gate import Carry, Destination
from sandboxes.egress.proxy import EgressProxy
from sandboxes.ledger import Ledger
from sandboxes.probing import Probes
from sandboxes.spec import MIB, Bind, BoxSpec, Limits
from tests.sandboxes.code_world import skip_without_bubblewrap
from tests.sandboxes.host_driver import ECHO, HostDriver, an_echo

BROKEN = Probe(False, reason="no kernel", remedy="install one")


class NoGate:
    """Refuses everything."""

    async def connect(self, box_id: str, destination: Destination, carry: Carry) -> None:
        raise PolicyDenied(f"nothing for {box_id}")


def boxes_at(tmp_path: Path, *drivers: Driver, proxy: EgressProxy | None = None) -> Boxes:
    return Boxes(drivers, Ledger(tmp_path / "boxes"), Probes(), proxy, Cgroups(()), uid_of=lambda: None)


@asynccontextmanager
async def running(boxes: Boxes) -> AsyncIterator[Boxes]:
    with anyio.fail_after(30):
        async with boxes.running():
            yield boxes
    boxes.ledger.close()


async def said(program: Program, line: bytes = b"hello\n") -> bytes:
    await program.send(line, deadline_s=5)
    return await program.receive()


async def gone(boxes: Boxes) -> None:
    """Until no place of any box is left."""
    with anyio.fail_after(10):
        while boxes.ledger.entries() or boxes.living:  # noqa: ASYNC110  # the reaper sets no event of ours
            await anyio.sleep(0.005)


def wanted(level: Level = Level.PROCESS, *, driver: str = "", spec: BoxSpec | None = None) -> Wanted:
    return Wanted(spec or an_echo(), level, "a test", "sha256:e", driver=driver)


# -- Which driver --


def ladder(**answers: Probe) -> Sequence[HostDriver]:
    levels = {"weak": Level.PROCESS, "emulated": Level.VM_EMULATED, "middle": Level.GVISOR, "strong": Level.VM}
    return [HostDriver(name, level, answers.get(name, Probe(True, "1.0"))) for name, level in levels.items()]


@pytest.mark.parametrize("needed", [Level.NONE, Level.PROCESS, Level.GVISOR, Level.VM])
async def test_strongest_driver_is_taken_whatever_is_enough(tmp_path: Path, needed: Level) -> None:
    driver, probe = await boxes_at(tmp_path, *ladder()).choose(needed)

    assert (driver.name, probe.version) == ("strong", "1.0")


async def test_driver_that_fails_its_probe_is_passed_over_while_another_is_enough(tmp_path: Path) -> None:
    driver, _ = await boxes_at(tmp_path, *ladder(strong=BROKEN)).choose(Level.VM_EMULATED)

    assert driver.name == "middle"


async def test_there_is_never_a_step_down(tmp_path: Path) -> None:
    boxes = boxes_at(tmp_path, *ladder(strong=BROKEN))

    with pytest.raises(IsolationUnavailable) as caught:
        await boxes.choose(Level.VM)

    words = str(caught.value)
    assert "isolation of level vm is needed and not available" in words
    assert "strong (vm) does not work here: no kernel" in words
    for name, level in (("middle", "gvisor"), ("emulated", "vm-emulated"), ("weak", "process")):
        assert f"{name} is only of level {level}" in words
    assert "interlock sandbox doctor" in words


async def test_driver_that_is_too_weak_is_not_even_probed(tmp_path: Path) -> None:
    drivers = ladder(strong=BROKEN)

    with pytest.raises(IsolationUnavailable):
        await boxes_at(tmp_path, *drivers).choose(Level.VM)

    assert [driver.probes for driver in drivers] == [0, 0, 0, 1]


async def test_named_driver_is_taken_or_none(tmp_path: Path) -> None:
    boxes = boxes_at(tmp_path, *ladder(middle=BROKEN))

    driver, _ = await boxes.choose(Level.PROCESS, "weak")
    with pytest.raises(IsolationUnavailable, match=r"middle \(gvisor\) does not work here"):
        await boxes.choose(Level.PROCESS, "middle")
    with pytest.raises(IsolationUnavailable, match="weak is only of level process"):
        await boxes.choose(Level.GVISOR, "weak")
    with pytest.raises(IsolationUnavailable, match="no driver of the name 'docker' is configured"):
        await boxes.choose(Level.PROCESS, "docker")

    assert driver.name == "weak"


async def test_without_any_driver_nothing_is_started(tmp_path: Path) -> None:
    async with running(boxes_at(tmp_path)) as boxes:
        with pytest.raises(IsolationUnavailable, match="no sandbox driver is configured"):
            await boxes.start(wanted(Level.NONE))

    assert not (tmp_path / "boxes").exists()


# -- A place of its own --


async def test_box_runs_in_a_place_that_is_given_up_after_its_end(tmp_path: Path) -> None:
    driver = HostDriver()
    async with running(boxes_at(tmp_path, driver)) as boxes:
        program = await boxes.start(wanted())
        heard = await said(program)
        (entry,), (living,) = boxes.ledger.entries(), boxes.living
        known = boxes.get(program.facts.id)
        program.kill()
        await gone(boxes)
        afterwards = boxes.get(program.facts.id)

    (place,) = driver.places
    assert heard == b"hello\n"
    assert (entry.id, entry.driver, entry.version, entry.level) == (place.id, "host", "1.0", "process")
    assert (entry.environment, entry.purpose) == ("sha256:e", "a test")
    assert known is living
    assert (living.program, living.place, living.wanted) == (program, place, wanted())
    assert living.facts.limits == limits_of(Limits()) == place.limits
    assert (place.directory.exists(), place.egress, place.uid, afterwards) == (False, None, None, None)


async def test_two_boxes_share_nothing(tmp_path: Path) -> None:
    driver = HostDriver()
    async with running(boxes_at(tmp_path, driver)) as boxes:
        for _ in range(2):
            await boxes.start(wanted())

    one, two = driver.places
    assert one.id != two.id
    assert one.directory != two.directory


async def test_program_that_ends_by_itself_can_still_be_read(tmp_path: Path) -> None:
    spec = an_echo(command=(*ECHO[:-1], "print('bye')"))
    async with running(boxes_at(tmp_path, HostDriver())) as boxes, await boxes.start(wanted(spec=spec)) as program:
        status = await program.wait()
        await gone(boxes)
        heard = await program.receive()

    assert (status, heard) == (0, b"bye\n")


@pytest.mark.parametrize("fault", [SandboxFailure("no wall"), UpstreamUnavailable("no program"), OSError("a bug")])
async def test_place_of_a_box_that_does_not_start_is_given_up(tmp_path: Path, fault: Exception) -> None:
    driver = HostDriver(fail_with=fault)
    async with running(boxes_at(tmp_path, driver, proxy=EgressProxy(NoGate()))) as boxes:
        with pytest.raises(type(fault), match=str(fault)):
            await boxes.start(wanted(spec=an_echo(egress=True)))
        left = (boxes.ledger.entries(), boxes.living)

    assert left == ((), ())
    assert not driver.places[0].directory.exists()


async def test_place_of_a_box_whose_start_is_cancelled_is_given_up(tmp_path: Path) -> None:
    driver = HostDriver()
    async with running(boxes_at(tmp_path, driver, proxy=EgressProxy(NoGate()))) as boxes:
        await boxes.choose(Level.PROCESS)
        driver.gate = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(boxes.start, wanted(spec=an_echo(egress=True)))
            await driver.starting.wait()
            during = driver.places[0].directory.exists()
            group.cancel_scope.cancel()
        left = (boxes.ledger.entries(), boxes.living)

    assert during
    assert left == ((), ())
    assert not driver.places[0].directory.exists()


async def test_place_that_cannot_be_made_is_a_clear_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    boxes = Boxes([HostDriver()], Ledger(tmp_path / "file" / "boxes"), Probes(), None, Cgroups(()))
    async with running(boxes):
        with pytest.raises(SandboxFailure, match="no place for a box can be made"):
            await boxes.start(wanted())


async def test_walls_have_room_beside_what_the_program_may_use(tmp_path: Path) -> None:
    asked: list[tuple[str, Limits]] = []

    class Groups(Cgroups):
        def make(self, box_id: str, limits: Limits) -> Joined:
            asked.append((box_id, limits))
            return super().make(box_id, limits)

    driver = HostDriver(overhead=Overhead(64 * MIB, 20))
    boxes = Boxes([driver], Ledger(tmp_path / "boxes"), Probes(), None, Groups(()))
    async with running(boxes):
        await boxes.start(wanted())

    plain = Limits()
    assert asked == [
        (
            driver.places[0].id,
            replace(plain, memory_bytes=plain.memory_bytes + 64 * MIB, processes=plain.processes + 20),
        )
    ]


async def test_root_gives_each_box_a_user_that_nobody_has() -> None:
    one, two = new_uid(), new_uid()

    if os.geteuid() != 0:
        assert one is None
    else:
        assert one != two
        assert one is not None
        assert one >= 1_900_000_000


async def test_what_was_made_a_link_since_it_was_looked_at_is_not_shown(tmp_path: Path) -> None:
    shown = tmp_path / "data"
    shown.mkdir()
    driver = HostDriver()
    spec = an_echo(binds=(Bind(shown),))
    async with running(boxes_at(tmp_path, driver)) as boxes:
        await boxes.start(wanted(spec=spec))
        shown.rmdir()
        shown.symlink_to("/etc")
        with pytest.raises(SandboxFailure, match="leads elsewhere"):
            await boxes.start(wanted(spec=spec))

    assert len(driver.places) == 1


# -- The way out --


async def test_box_has_an_egress_socket_for_as_long_as_it_lives(tmp_path: Path) -> None:
    driver = HostDriver()
    async with running(boxes_at(tmp_path, driver, proxy=EgressProxy(NoGate()))) as boxes:
        program = await boxes.start(wanted(spec=an_echo(egress=True)))
        way = driver.places[0].egress
        assert way is not None
        answer = await asked(way)
        program.kill()
        await gone(boxes)

    assert answer.startswith(b"HTTP/1.1 403 ")
    assert f"nothing for {driver.places[0].id}".encode() in answer
    assert not way.exists()


async def asked(way: Path) -> bytes:
    async with await anyio.connect_unix(str(way)) as stream:
        await stream.send(b"CONNECT example.org:443 HTTP/1.1\r\n\r\n")
        return await stream.receive()


async def test_box_without_egress_has_no_socket(tmp_path: Path) -> None:
    driver = HostDriver()
    async with running(boxes_at(tmp_path, driver, proxy=EgressProxy(NoGate()))) as boxes:
        await boxes.start(wanted(spec=an_echo(egress=False)))
    async with running(boxes_at(tmp_path, driver)) as boxes:
        await boxes.start(wanted(spec=an_echo(egress=True)))

    assert [place.egress for place in driver.places] == [None, None]


async def test_socket_that_cannot_be_made_leaves_nothing_of_the_box(tmp_path: Path) -> None:
    class Taken(Ledger):
        def make(self, box_id: str, **more: object) -> Path:
            directory = super().make(box_id, **more)  # type: ignore[arg-type]  # passed on as it is
            (directory / "egress.sock").mkdir()
            return directory

    driver = HostDriver()
    boxes = Boxes([driver], Taken(tmp_path / "boxes"), Probes(), EgressProxy(NoGate()), Cgroups(()))
    async with running(boxes):
        with pytest.raises(SandboxFailure, match="egress socket"):
            await boxes.start(wanted(spec=an_echo(egress=True)))
        left = boxes.ledger.entries()

    assert (left, driver.places) == ((), [])


# -- The end of all of them --


async def test_leaving_ends_every_box_and_waits_for_it(tmp_path: Path) -> None:
    async with running(boxes_at(tmp_path, HostDriver(), proxy=EgressProxy(NoGate()))) as boxes:
        programs = [await boxes.start(wanted(spec=an_echo(egress=True))) for _ in range(3)]

    assert [program.exit_status is not None for program in programs] == [True] * 3
    assert boxes.living == ()
    assert not (tmp_path / "boxes").exists()


async def test_box_whose_end_takes_too_long_is_left_to_its_reaper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandboxes.boxes._END_S", 0)
    async with running(boxes_at(tmp_path, HostDriver())) as boxes:
        program = await boxes.start(wanted())

    with anyio.fail_after(10):
        status = await program.wait()
    assert status in {0, 137}, "its end had begun, or its reaper was first"
    assert boxes.living == ()


async def test_nothing_is_started_before_or_after(tmp_path: Path) -> None:
    boxes = boxes_at(tmp_path, HostDriver())

    with pytest.raises(SandboxFailure, match="going down"):
        await boxes.start(wanted())
    async with running(boxes):
        pass
    with pytest.raises(SandboxFailure, match="going down"):
        await boxes.start(wanted())


@pytest.mark.parametrize("egress", [False, True])
async def test_box_that_comes_up_while_all_are_ended_is_ended_too(tmp_path: Path, egress: bool) -> None:
    driver = HostDriver()
    boxes = boxes_at(tmp_path, driver, proxy=EgressProxy(NoGate()))
    faults: list[BaseException] = []

    async def start() -> None:
        try:
            await boxes.start(wanted(spec=an_echo(egress=egress)))
        except SandboxFailure as exc:
            faults.append(exc)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            async with boxes.running():
                await boxes.choose(Level.PROCESS)
                driver.gate = anyio.Event()
                group.start_soon(start)
                await driver.starting.wait()
            driver.gate.set()
        for program in driver.programs:
            await program.wait()

    assert len(driver.programs) == len(faults) == 1
    assert boxes.living == ()
    assert not driver.places[0].directory.exists()


async def test_gateway_that_leaves_before_the_place_is_made_starts_nothing(tmp_path: Path) -> None:
    driver = HostDriver(gate=anyio.Event())
    boxes = boxes_at(tmp_path, driver, proxy=EgressProxy(NoGate()))
    faults: list[BaseException] = []

    async def start() -> None:
        try:
            await boxes.start(wanted(spec=an_echo(egress=True)))
        except SandboxFailure as exc:
            faults.append(exc)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            async with boxes.running():
                group.start_soon(start)
                await anyio.wait_all_tasks_blocked()
            assert driver.gate is not None
            driver.gate.set()

    assert "going down" in str(faults[0])
    assert driver.places == []
    assert boxes.ledger.entries() == ()


# -- The double does what a driver does --


@pytest.fixture(params=["host", "bubblewrap"])
async def driver(request: pytest.FixtureRequest) -> Driver:
    if request.param == "host":
        return HostDriver()
    await skip_without_bubblewrap()
    return Bubblewrap()


def shell(script: str, **env: str) -> BoxSpec:
    return an_echo(command=("/bin/sh", "-c", script), env=env)


async def test_program_in_a_box_of_any_driver_gets_its_variables_and_is_spoken_to(
    tmp_path: Path, driver: Driver
) -> None:
    spec = shell('echo "$PLAIN $SECRET"; read line; echo "$line"; exit 3', PLAIN="a")
    spec = replace(spec, secrets={"SECRET": "b"})
    async with running(Boxes([driver], Ledger(tmp_path / "boxes"), Probes())) as boxes:
        async with await boxes.start(wanted(spec=spec)) as program:
            first = await program.receive()
            second = await said(program)
            status = await program.wait()
            facts = program.facts
        await gone(boxes)

    assert (first, second, status) == (b"a b\n", b"hello\n", 3)
    assert (facts.driver, facts.level, facts.environment) == (driver.name, driver.level, "sha256:e")
    assert facts.limits == limits_of(Limits())


async def test_killed_box_of_any_driver_ends_with_all_that_runs_in_it(tmp_path: Path, driver: Driver) -> None:
    async with running(Boxes([driver], Ledger(tmp_path / "boxes"), Probes())) as boxes:
        program = await boxes.start(wanted(spec=shell("sleep 100 & sleep 100")))
        program.kill()
        status = await program.wait()
        await gone(boxes)

    assert status == 137


async def test_program_that_is_not_there_is_told_by_any_driver(tmp_path: Path, driver: Driver) -> None:
    missing = an_echo(command=("/usr/bin/not-there-at-all",))
    async with running(Boxes([driver], Ledger(tmp_path / "boxes"), Probes())) as boxes:
        try:
            async with await boxes.start(wanted(spec=missing)) as program:
                status = await program.wait()
        except UpstreamUnavailable:
            status = 127
        await gone(boxes)

    assert status != 0


def a_launch(seen: list[Place]) -> object:
    async def launch(driver: Driver, spec: BoxSpec, place: Place) -> Program:
        seen.append(place)
        return await driver.start(spec, place)

    return launch


async def test_box_may_be_brought_up_in_another_way(tmp_path: Path) -> None:
    seen: list[Place] = []
    async with running(boxes_at(tmp_path, HostDriver())) as boxes:
        program = await boxes.start(wanted(), a_launch(seen))  # type: ignore[arg-type]  # a function of that form
        heard = await said(program)

    assert (len(seen), heard) == (1, b"hello\n")
