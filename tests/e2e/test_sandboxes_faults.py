"""Whatever dies, is full or is gone: nothing of a box stays behind, nothing runs outside of one, and others go on."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import httpx2
import pytest
from anyio import to_thread

from gateway.audit.verify import verify_log
from gateway.boxes import Level
from sandboxes.cgroups import Cgroups
from sandboxes.host.reaper import below, parents_from_proc
from sandboxes.ledger import Ledger, Phase
from tests.e2e.boxes import BOTH, boxed, boxes, prepared, relatives, works
from tests.e2e.caller import Caller, Told
from tests.e2e.eventually import eventually
from tests.e2e.place import ALLOW_ALL, Place, as_process, interlock, new_key
from tests.sandboxes.host_view import mounts
from tests.wire.processes import all_ended, watched

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to see into boxes and to mount a small disk")
PRINT: Mapping[str, object] = {"code": "print(1)", "language": "python"}
WAIT: Mapping[str, object] = {"started": "/shared/started", "until": "/shared/until"}


@pytest.fixture(params=BOTH)
async def driver(request: pytest.FixtureRequest) -> str:
    return await works(request.param)


@pytest.fixture
async def bubblewrap() -> str:
    return await works("bubblewrap")


def control_groups(place: Place) -> set[Path]:
    """The groups of the boxes that a gateway has now, wherever it put them."""
    return {path for box in boxes(place) for path in Path("/sys/fs/cgroup").rglob(f"interlock-{box.id}")}


def left_of(groups: set[Path]) -> set[Path]:
    """Those that are still there."""
    return {group for group in groups if group.exists()}


def left_in(directory: Path) -> list[Path]:
    """What is in a directory, if there is one."""
    return list(directory.glob("*"))


async def in_flight(caller: Caller, told: list[Told], tool: str, arguments: Mapping[str, object]) -> None:
    """A call whose gateway may go away meanwhile."""
    with suppress(httpx2.HTTPError):
        told.append(await caller.call(tool, arguments))


@needs_root
async def test_killed_gateway_leaves_nothing_of_its_boxes(driver: str, tmp_path: Path) -> None:
    shared, mark, before = tmp_path / "shared", f"mark-{secrets.token_hex(8)}", mounts()
    shared.mkdir()
    one = boxed(binds=[f"{shared}:/shared:rw"], env={"E2E_MARK": mark})
    place = prepared(tmp_path, {"one": one, "code": {"type": "sandbox"}}, ALLOW_ALL, driver)
    key = await new_key(place, "ana")
    told: list[Told] = []

    async def under_way() -> bool:
        return (shared / "started").exists() and len(boxes(place)) == 2

    with as_process(place) as gateway:
        async with place.caller(key) as ana, anyio.create_task_group() as group:
            settled = await ana.call("one__settle")
            await ana.call("code__run_code", PRINT)
            group.start_soon(
                in_flight, ana, told, "one__wait", {"started": "/shared/started", "until": "/shared/until"}
            )
            await eventually(under_way)
            groups, pids = control_groups(place), below(gateway.pid, parents_from_proc())
            with watched(pids) as ends:
                os.kill(gateway.pid, signal.SIGKILL)
                with anyio.fail_after(20):
                    await all_ended(ends)

    assert settled.text == "settled"
    assert told == []
    assert len(pids) >= 6  # two reapers, and what they look after
    assert relatives(mark) == []
    assert groups
    assert not left_of(groups)
    assert mounts() == before
    assert boxes(place) == ()
    assert Ledger.of(place.state).sweep(Cgroups.found()) == ()  # as the next start does, which this test leaves out
    assert left_in(Ledger.of(place.state).root) == []


def signal_all(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it ended with another one
            os.kill(pid, number)


@needs_root
async def test_start_clears_away_what_a_fallen_machine_left_behind_and_says_so(bubblewrap: str, tmp_path: Path) -> None:
    place = prepared(tmp_path, {"one": boxed(), "code": {"type": "sandbox"}}, ALLOW_ALL, bubblewrap)
    key = await new_key(place, "ana")

    with as_process(place) as gateway:
        async with place.caller(key) as ana:
            await ana.call("code__run_code", PRINT)
        groups, pids = control_groups(place), below(gateway.pid, parents_from_proc())
        with watched(pids) as ends:
            for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped before, so that nobody clears up after others
                signal_all([gateway.pid, *pids], number)
            with anyio.fail_after(20):
                await all_ended(ends)
    left = boxes(place)
    listed = interlock(place, "sandbox", "list")
    with as_process(place):
        async with place.caller(key) as ana:
            again = await ana.call("one__where")
        log = place.log.read_text()
        now = boxes(place)

    assert [box.phase for box in left] == [Phase.DEAD, Phase.DEAD]
    assert listed.stdout.count("left behind") == 2
    assert "cleared away 2 boxes that an earlier run left behind" in log
    assert not again.failed
    assert [box.purpose for box in now] == ["upstream one"]
    assert not {box.id for box in now} & {box.id for box in left}
    assert not left_of(groups)


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory with a short name, for programs and sockets. Not below /tmp, which is something else in boxes."""
    with tempfile.TemporaryDirectory(prefix="il-", dir="/var/tmp") as directory:
        yield Path(directory)


def remove(program: Path) -> None:
    program.unlink()


async def test_driver_that_is_removed_stops_new_boxes_and_no_running_one(
    bubblewrap: str, tmp_path: Path, elsewhere: Path
) -> None:
    bwrap = Path(shutil.copy(str(shutil.which("bwrap")), elsewhere / "bwrap"))
    place = prepared(tmp_path, {"one": boxed(), "code": {"type": "sandbox"}}, ALLOW_ALL, bubblewrap)
    key = await new_key(place, "ana")

    with as_process(place, env={"PATH": str(elsewhere)}):
        async with place.caller(key) as ana:
            before = await ana.call("one__where")
            remove(bwrap)
            running = await ana.call("one__where")
            new = await ana.call("code__run_code", PRINT)
            (box,) = boxes(place)
            await Ledger.of(place.state).kill(box.id)

            async def down() -> list[Told]:
                told = await ana.call("one__where")
                return [told] if "bwrap" in told.text else []

            (after,) = await eventually(down)
            there = boxes(place)

    assert not before.failed
    assert not running.failed
    for refused in (new, after):
        assert refused.failed
        assert "bwrap" in refused.text
        assert "apt-get install bubblewrap" in refused.text
    assert there == ()


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """Nothing else is on it."""
    directory.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], check=False)
    if done.returncode:
        pytest.skip("a small disk cannot be mounted here: run this where mount(8) is allowed")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def filled(directory: Path) -> Path:
    """Take up what room there is left, to the last byte."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for piece in (1 << 16, 1 << 12, 1 << 9, 1):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError:
                continue
    return ballast


@needs_root
@pytest.mark.slow
async def test_full_disk_for_boxes_stops_new_ones_and_says_why(
    bubblewrap: str, tmp_path: Path, elsewhere: Path
) -> None:
    place = prepared(
        tmp_path,
        {"one": boxed(), "code": {"type": "sandbox"}},
        ALLOW_ALL,
        bubblewrap,
        state={"dir": str(tmp_path / ("long" * 20))},
    )
    key = await new_key(place, "ana")

    with small_disk(elsewhere / "small", "256k") as small, as_process(place, env={"TMPDIR": str(small)}):
        async with place.caller(key) as ana:
            ballast = filled(small)
            running, new = await ana.call("one__where"), await ana.call("code__run_code", PRINT)
            ballast.unlink()
            again = await ana.call("code__run_code", PRINT)
            there = Ledger.of(tmp_path / ("long" * 20), small).entries()

    assert not running.failed
    assert new.failed
    assert "no space left on device" in new.text.lower()
    assert not again.failed, again.text
    assert sorted(box.phase for box in there) == [Phase.RUNNING, Phase.RUNNING]


@needs_root
@pytest.mark.slow
async def test_full_disk_for_the_state_stops_calls_clearly_until_there_is_room_again(
    bubblewrap: str, tmp_path: Path, elsewhere: Path
) -> None:
    with small_disk(elsewhere / "s", "8m") as state:
        place = prepared(
            tmp_path, {"one": boxed(), "code": {"type": "sandbox"}}, ALLOW_ALL, bubblewrap, state={"dir": str(state)}
        )
        key = await new_key(place, "ana")

        with as_process(place) as gateway:
            async with place.caller(key) as ana:
                before = await ana.call("one__where")
                ballast = filled(state)

                async def refused() -> list[Told]:
                    told = await ana.call("code__run_code", PRINT)
                    return [told] if told.failed else []

                (new,) = await eventually(refused)
                ballast.unlink()

                async def works_again() -> bool:
                    ran = await ana.call("code__run_code", PRINT)
                    return not ran.failed and not (await ana.call("one__where")).failed

                await eventually(works_again, within_s=30)
            gateway.send_signal(signal.SIGTERM)
            await to_thread.run_sync(lambda: gateway.wait(30))
        report, left = verify_log(state / "audit"), Ledger.of(state).entries()

    assert not before.failed
    assert "audit" in new.text or "no space left" in new.text.lower()
    assert report.findings == []
    assert left == ()


async def test_killed_box_fails_its_call_clearly_and_its_upstream_starts_again(bubblewrap: str, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    place = prepared(tmp_path, {"one": boxed(binds=[f"{shared}:/shared:rw"])}, ALLOW_ALL, bubblewrap)
    key = await new_key(place, "ana")
    told: list[Told] = []

    async def started() -> bool:
        return (shared / "started").exists()

    with as_process(place):
        async with place.caller(key) as ana:
            async with anyio.create_task_group() as group:
                group.start_soon(in_flight, ana, told, "one__wait", WAIT)
                await eventually(started)
                listed = await to_thread.run_sync(lambda: interlock(place, "sandbox", "list", "--json"))
                (box,) = json.loads(listed.stdout)["boxes"]
                killed = await to_thread.run_sync(lambda: interlock(place, "sandbox", "kill", box["id"]))

            async def back() -> bool:
                return not (await ana.call("one__where")).failed

            await eventually(back)
            (new,) = boxes(place)

    assert (box["phase"], box["driver"], box["level"]) == ("running", bubblewrap, Level.PROCESS)
    assert box["purpose"] == "upstream one"
    assert killed.stdout == f"ended {box['id']}\n"
    assert told[0].failed
    assert "upstream_unavailable: upstream 'one' exited with status 137" in told[0].text
    assert new.id != box["id"]


@needs_root
@pytest.mark.parametrize("bomb", ["crowd", pytest.param("fill", marks=pytest.mark.slow)])
async def test_bomb_harms_only_its_own_box(bubblewrap: str, bomb: str, tmp_path: Path) -> None:
    upstreams = {"bad": boxed(), "good": boxed(), "code": {"type": "sandbox"}}
    place = prepared(tmp_path, upstreams, ALLOW_ALL, bubblewrap)
    key = await new_key(place, "ana")
    told: list[Told] = []

    with as_process(place) as gateway:
        async with place.caller(key) as ana:
            async with anyio.create_task_group() as group:
                group.start_soon(in_flight, ana, told, f"bad__{bomb}", {"directory": "/workspace"})
                meanwhile = [await ana.call("good__where")]
                while not told:
                    meanwhile.append(await ana.call("good__where"))
            after = [await ana.call("good__where") for _ in range(20)]
            code = await ana.call("code__run_code", PRINT)
            crowd = below(gateway.pid, parents_from_proc())
        with watched(crowd) as ends:
            gateway.send_signal(signal.SIGTERM)
            with anyio.fail_after(20):
                await all_ended(ends)

    assert told[0].text.endswith(("Resource temporarily unavailable", "No space left on device"))
    assert not any(one.failed for one in (*meanwhile, *after, code))
    assert len(crowd) < 256
    assert boxes(place) == ()
