"""What the host sees of boxes: whose they are, what they hold, what they can use up, and that nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import anyio
import pytest

from gateway.boxes import Program
from gateway.errors import SandboxFailure
from sandboxes.bubblewrap import Bubblewrap
from sandboxes.driver import Driver, Place, Probe
from sandboxes.escape.bundle import PLACE, bundle
from sandboxes.escape.check import Target
from sandboxes.gvisor.driver import Gvisor
from sandboxes.host.reaper import below, parents_from_proc
from sandboxes.spec import MIB, BoxSpec, Limits
from tests.sandboxes.drivers import DRIVERS
from tests.sandboxes.host_view import available_bytes, files_of, mounts, processes_of, reaper_of, seen, settings
from tests.sandboxes.places import a_place, output_of
from tests.sandboxes.scene import LIMITS, PYTHON, suite, told
from tests.wire.processes import all_ended, watched

ROOT: Final = Path(__file__).resolve().parents[2]
SHELL: Final = ("/bin/sh", "-c", "echo up; while read line; do echo $line; done")
"""Says `up` and then repeats what it is told."""
STUBBORN: Final = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        while True:
            time.sleep(60)
    os._exit(0)
os.wait()
print("up", flush=True)
while True:
    time.sleep(60)
"""
"""A program that ignores what it is asked, with a grandchild in a session of its own that does too."""
NEIGHBOUR: Final = """
import ctypes, socket, sys
key, name, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ctypes.CDLL(None).shmget(key, 4096, 0o1666)
ctypes.CDLL(None).msgget(key, 0o1666)
ctypes.CDLL(None).semget(key, 1, 0o1666)
hidden = socket.socket(socket.AF_UNIX)
hidden.bind("\\0" + name)
hidden.listen()
tcp = socket.create_server(("127.0.0.1", port))
print("up", flush=True)
while True:
    connection, _ = tcp.accept()
    connection.sendall(name.encode())
"""
BOMB: Final = Limits(
    memory_bytes=192 * MIB, processes=48, file_bytes=8 * MIB, tmp_bytes=16 * MIB, work_bytes=16 * MIB, open_files=256
)
SPARED: Final = 1536 * MIB
"""More than a bomb's box may have, less than a bomb without limits takes."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: boxes have users of their own only then")


QUICK: Final = tuple(name for name, made in DRIVERS.items() if not made.slow)
EVERY: Final = (*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in DRIVERS if name not in QUICK))
every_driver = pytest.mark.parametrize("driver", EVERY, indirect=True)
_probes: Final[dict[str, Probe]] = {}


@pytest.fixture(params=QUICK)
async def driver(request: pytest.FixtureRequest) -> Driver:
    """Those that start in a moment, unless a test is for every one."""
    made = DRIVERS[request.param].make()
    if request.param not in _probes:
        _probes[request.param] = await made.probe()
    probe = _probes[request.param]
    if not probe.ok:
        pytest.skip(f"{request.param} cannot be used here: {probe.reason}; {probe.remedy}")
    return made


@pytest.fixture
async def bubblewrap() -> Driver:
    made = Bubblewrap()
    probe = await made.probe()
    if not probe.ok:
        pytest.skip(f"bubblewrap cannot be used here: {probe.reason}; {probe.remedy}")
    return made


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory for programs. Not below /tmp, which jails cover with a stage of their own."""
    with tempfile.TemporaryDirectory(prefix="interlock-", dir="/var/tmp") as directory:
        yield Path(directory)


@asynccontextmanager
async def a_box(driver: Driver, spec: BoxSpec, directory: Path) -> AsyncIterator[tuple[Program, Place]]:
    """A box whose program has said `up`."""
    async with a_place(directory, limits=spec.limits) as place, await driver.start(spec, place) as program:
        await heard(program, b"up\n")
        yield program, place


async def heard(program: Program, wanted: bytes, within_s: float = 30) -> None:
    said = b""
    with anyio.fail_after(within_s):
        while wanted not in said:
            piece = await program.receive()
            assert piece, program.obituary()
            said += piece


async def answers(program: Program) -> None:
    """Whether a box still repeats what it is told, and soon."""
    word = secrets.token_hex(4).encode() + b"\n"
    await program.send(word, deadline_s=5)
    await heard(program, word, within_s=10)


def shell(label: str = "shell", **more: object) -> BoxSpec:
    return BoxSpec(label, SHELL, **more)  # type: ignore[arg-type]  # each test knows which it sets


@needs_root
@every_driver
async def test_no_process_of_a_box_is_root_or_holds_anything_of_ours(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word, secret = f"canary-{secrets.token_hex(8)}", f"secret-{secrets.token_hex(8)}"
    canary = tmp_path / "canary"
    canary.write_text(word)
    monkeypatch.setenv("GATEWAY_SECRET", word)
    before = settings()

    with inheritable(canary):
        async with a_box(driver, shell(secrets={"TOKEN": secret}), tmp_path / "boxes") as (_, place):
            reaper, processes = seen(reaper_of(place)), [seen(pid) for pid in processes_of(place)]

    assert processes
    for process in processes:
        assert process.uids == process.gids == {place.uid}, process.arguments
        assert not process.capabilities or process.namespaces["user"] != reaper.namespaces["user"]
        assert str(canary) not in process.files
    for process in (reaper, *processes):
        assert word.encode() not in process.environment + process.arguments
        assert secret.encode() not in process.arguments
        assert not {link for link in files_of(os.getpid()) & process.files if link.startswith(("/", "socket:"))} - {
            "/dev/null"
        }
    assert secret.encode() not in reaper.environment
    assert settings() == before
    assert canary.read_text() == word


@needs_root
@every_driver
async def test_the_program_of_a_box_shares_no_namespace_with_us(driver: Driver, tmp_path: Path) -> None:
    async with a_box(driver, shell(), tmp_path / "boxes") as (_, place):
        ours, program = seen(os.getpid()), seen(processes_of(place)[-1])

    shared = {name for name, link in program.namespaces.items() if link == ours.namespaces[name]}
    assert shared == ({"pid"} if driver.name == "gvisor" else set())  # gVisor's own is inside the sentry
    assert program.status["Seccomp"] == "2"
    assert program.status["NoNewPrivs"] == "1"


@needs_root
@pytest.mark.parametrize("end", ["stopped", "killed", "launcher killed", "reaper killed"])
async def test_nothing_is_left_of_a_box_that_is(end: str, driver: Driver, tmp_path: Path) -> None:
    before = mounts()
    spec = BoxSpec("stubborn", (PYTHON, "-ISc", STUBBORN))

    async with a_place(tmp_path / "boxes", limits=spec.limits) as place:
        program = await driver.start(spec, place)
        await heard(program, b"up\n")
        reaper, processes = reaper_of(place), processes_of(place)
        with watched([reaper, *processes]) as ends:
            if end == "launcher killed":
                os.kill(processes[0], signal.SIGKILL)
            if end == "reaper killed":
                os.kill(reaper, signal.SIGKILL)
            if end == "killed":
                program.kill()
            with anyio.fail_after(20):
                await program.stop()
                await all_ended(ends)

        assert mounts() == before
        assert end == "reaper killed" or not existing(str(place.directory), *place.cgroup_directories)


GATEWAY: Final = """
import anyio, json, os, sys
from pathlib import Path
from sandboxes.spec import BoxSpec
from tests.sandboxes.drivers import DRIVERS
from tests.sandboxes.host_view import processes_of, reaper_of
from tests.sandboxes.places import a_place
from tests.sandboxes.test_escape_host import PYTHON, STUBBORN, heard

async def main():
    spec = BoxSpec("stubborn", (PYTHON, "-ISc", STUBBORN))
    async with a_place(Path(sys.argv[2]), limits=spec.limits) as place:
        driver = DRIVERS[sys.argv[1]].make()
        program = await driver.start(spec, place)
        await heard(program, b"up\\n")
        facts = {"pids": [reaper_of(place), *processes_of(place)], "directory": str(place.directory)}
        print(json.dumps({**facts, "cgroups": place.cgroup_directories}), flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@needs_root
@every_driver
async def test_nothing_is_left_when_the_gateway_is_killed(driver: Driver, tmp_path: Path) -> None:
    before = mounts()
    words = [sys.executable, "-c", GATEWAY, driver.name, str(tmp_path / "boxes")]

    async with await anyio.open_process(words, cwd=ROOT, stderr=None) as gateway:
        assert gateway.stdout is not None
        with anyio.fail_after(60):
            facts = json.loads(await gateway.stdout.receive())
        with watched(facts["pids"]) as ends:
            gateway.kill()
            with anyio.fail_after(20):
                await all_ended(ends)

    assert len(facts["pids"]) > 2
    assert not existing(facts["directory"], *facts["cgroups"])
    assert mounts() == before


@needs_root
async def test_two_boxes_do_not_see_each_other(driver: Driver, tmp_path: Path) -> None:
    word, key, port = f"canary-{secrets.token_hex(8)}", secrets.randbelow(1 << 30) + 1, a_free_port()
    neighbour = BoxSpec("neighbour", (PYTHON, "-ISc", NEIGHBOUR, str(key), word, str(port)), env={"WORD": word})
    wanted = (
        "process.host", "process.list", "process.environment", "files.gateway", "ipc.shared-memory", "ipc.queues",
        "network.gateway", "network.abstract", "network.visible", "process.peer",
    )  # fmt: skip

    async with a_box(driver, neighbour, tmp_path / "boxes") as (_, other), a_place(tmp_path / "boxes") as place:
        target = Target(
            own_kernel=DRIVERS[driver.name].own_kernel,
            canary=word,
            gateway_paths=(str(other.directory), str(other.directory / "lock")),
            abstract=word,
            pid=processes_of(other)[-1],
            port=port,
            ipc_key=key,
            mq_name="none",
        )
        _, output, _ = await output_of(driver, suite(*wanted), place, told(target))

    outcomes = {line["id"]: line["outcome"] for line in map(json.loads, output.splitlines())}
    assert outcomes == dict.fromkeys(wanted, "blocked")
    assert place.uid != other.uid


@needs_root
@pytest.mark.parametrize("bomb", ["fork", "memory", "segments", "disk", "inodes"])
async def test_a_bomb_harms_only_its_own_box(bomb: str, driver: Driver, tmp_path: Path) -> None:
    files = {PLACE: bundle("bombs")}
    spec = BoxSpec(bomb, (PYTHON, "-IS", PLACE, bomb, "stay"), files=files, limits=BOMB, egress=False)
    before = available_bytes()

    async with a_box(driver, shell("neighbour"), tmp_path / "boxes") as (neighbour, _):
        async with a_place(tmp_path / "boxes", limits=BOMB) as place:
            program = await driver.start(spec, place)
            got = await until_it_can_get_no_more(program)
            taken = before - available_bytes()
            count = len(processes_of(place)) if place.directory.exists() else 0
            await answers(neighbour)
            await anyio.run_process(["true"])
            with anyio.fail_after(20):
                await program.stop()
            assert not place.directory.exists()
        await answers(neighbour)

    assert got > 0 or bomb == "segments"  # which there are none of where our filter is
    assert taken < SPARED
    assert count <= BOMB.processes + 8


@pytest.mark.parametrize("bomb", ["segments", "disk", "inodes"])
async def test_without_control_groups_memory_outside_of_processes_is_limited_too(
    bomb: str, driver: Driver, tmp_path: Path
) -> None:
    spec = BoxSpec(bomb, (PYTHON, "-IS", PLACE, bomb, "stay"), files={PLACE: bundle("bombs")}, limits=BOMB)
    before = available_bytes()

    async with (
        a_place(tmp_path / "boxes", limits=BOMB, cgroups=False) as place,
        await driver.start(spec, place) as program,
    ):
        await until_it_can_get_no_more(program)
        taken = before - available_bytes()

    assert taken < SPARED


async def until_it_can_get_no_more(program: Program) -> int:
    """How much it says that it got; 1 if it was killed for it, which is as good. It must not have failed to go off.

    A bomb that cannot go off says why. Which process of a box the kernel takes is the kernel's to choose, and the box
    may end by itself for the lack of it, so the status tells no more than that it did not come through.
    """
    said = b""
    with anyio.fail_after(60):
        while not said.endswith(b"\n"):
            piece = await program.receive()
            if not piece:
                assert (await program.wait() != 0, program.stderr) == (True, ""), program.obituary()
                return 1
            said += piece
    return int(said.decode())


@needs_root
async def test_a_hundred_boxes_leave_nothing(bubblewrap: Driver, tmp_path: Path) -> None:
    before, directory = mounts(), tmp_path / "boxes"
    limiter = anyio.CapacityLimiter(10)

    async def once(number: int) -> None:
        async with limiter, a_box(bubblewrap, shell(), directory) as (program, place):
            cgroups.extend(place.cgroup_directories)
            if number % 2:
                program.kill()

    cgroups: list[str] = []
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(once, number)

    assert list(directory.iterdir()) == []
    assert not existing(*cgroups)
    assert not [pid for pid in below(os.getpid(), parents_from_proc()) if b"bwrap" in _arguments(pid)]
    assert mounts() == before


@pytest.mark.parametrize("name", ["bwrap", "runsc"])
async def test_a_driver_whose_program_goes_away_says_so(name: str, elsewhere: Path, tmp_path: Path) -> None:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not here: apt-get install {'bubblewrap' if name == 'bwrap' else 'runsc'}")
    copy = copied(found, elsewhere / name)
    made: Driver = Bubblewrap(str(copy)) if name == "bwrap" else Gvisor(str(copy))

    async with a_box(made, shell(), tmp_path / "boxes") as (program, _):
        os.unlink(copy)
        await answers(program)
        async with a_place(tmp_path / "boxes") as place:
            with pytest.raises(SandboxFailure, match=name):
                await made.start(shell(), place)
    probe = await made.probe()

    assert not probe.ok
    assert name in probe.reason
    assert "apt-get install" in probe.reason + probe.remedy


@needs_root
async def test_a_full_disk_is_told_clearly(driver: Driver, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    spec = shell(files={"/opt/large": bytes(MIB)})

    with a_small_disk(small):
        async with a_place(small, limits=LIMITS) as place:
            with pytest.raises(SandboxFailure, match=r"(?i)no space left"):
                await driver.start(spec, place)


@contextmanager
def a_small_disk(directory: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@contextmanager
def inheritable(path: Path) -> Iterator[None]:
    """A file that is open in us, in the way that children would get it if nobody saw to it."""
    with open(path, "rb") as file:
        os.set_inheritable(file.fileno(), True)
        yield


def existing(*paths: str) -> list[str]:
    return [path for path in paths if os.path.exists(path)]


def copied(program: str, to: Path) -> Path:
    """A copy in a directory that every user may pass through."""
    to.parent.chmod(0o755)
    return Path(shutil.copy(program, to))


def a_free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def _arguments(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
