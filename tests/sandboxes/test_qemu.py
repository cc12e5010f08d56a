"""The driver `qemu-tcg`: what a machine is from inside and from the host, and what becomes of a frozen one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream

from gateway.boxes import Level, Program
from gateway.errors import SandboxFailure, UpstreamUnavailable
from sandboxes.qemu import relay
from sandboxes.qemu.driver import Qemu
from sandboxes.spec import MIB, Bind, BoxSpec, Limits
from tests.sandboxes.drivers import images
from tests.sandboxes.places import a_place, output_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
KERNEL = Path(os.environ.get("INTERLOCK_KERNEL_DIR", "/"))
SMALL = Limits(memory_bytes=160 * MIB, processes=32, work_bytes=4 * MIB, tmp_bytes=2 * MIB, file_bytes=1 * MIB)

SERVER = """
import contextlib, io, json, os, random, sys, time
kept = 0
for line in sys.stdin:
    ask, said = json.loads(line), io.StringIO()
    kept += 1
    with contextlib.redirect_stdout(said):
        try:
            exec(ask, {"kept": kept})
        except BaseException as exc:
            print(type(exc).__name__, getattr(exc, "errno", ""), end="")
    print(json.dumps(said.getvalue()), flush=True)
"""
"""Runs whatever it is sent, and answers with what that printed."""

FORKS = """
import os, time
for count in range(1000):
    try:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    except OSError as exc:
        print(count, exc.errno, end="")
        break
"""
SCRIPT = """
import os
os.remove('/workspace/0')
open('/workspace/x', 'w').write('#!/bin/sh\\n')
os.chmod('/workspace/x', 0o755)
os.execv('/workspace/x', ['x'])
"""
DRAW = "import os; print(os.urandom(16).hex(), end='')"
CONNECT = """
import socket
with socket.create_connection(("127.0.0.1", 3128), timeout=5) as line:
    line.sendall(b"ping")
    line.shutdown(socket.SHUT_WR)
    print(line.makefile().read(), end="")
"""


@pytest.fixture(scope="module")
def cache() -> Path:
    return images()


@pytest.fixture(scope="module")
async def driver(cache: Path) -> Qemu:
    made = Qemu("tcg", cache, KERNEL)
    found = await made.probe()
    if not found.ok:
        pytest.skip(f"qemu-tcg: {found.reason}; {found.remedy}")
    return made


def server(**options: Any) -> BoxSpec:
    return BoxSpec("a server", ("python3", "-c", SERVER), limits=SMALL, **options)


async def told(program: Program, code: str, seconds: float = 20) -> str:
    """What the code prints in the box."""
    await program.send(json.dumps(code).encode() + b"\n", deadline_s=5)
    answer = b""
    with anyio.fail_after(seconds):
        while not answer.endswith(b"\n"):
            piece = await program.receive()
            assert piece, program.obituary()
            answer += piece
    return str(json.loads(answer))


@pytest.fixture(scope="module")
async def frozen(driver: Qemu, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server, frozen after its first answer, with the way to its egress socket open."""
    base = tmp_path_factory.mktemp("frozen")
    directory = base / "kept"
    async with greeter(base / "e.sock", "nobody") as egress, a_place(base, egress) as place:
        program = await driver.start(server(), place)
        assert await told(program, "print(kept, end='')") == "1"
        await driver.freeze(server(), place, program, directory)
        assert program.exit_status is not None
    return directory


@asynccontextmanager
async def clone(driver: Qemu, frozen: Path, tmp_path: Path, egress: Path | None = None) -> AsyncIterator[Program]:
    async with a_place(tmp_path, egress) as place, await driver.thaw(server(), place, frozen) as program:
        yield program


@asynccontextmanager
async def greeter(path: Path, name: str) -> AsyncIterator[Path]:
    """A unix socket that answers with its name and all that it was told."""

    async def greet(stream: SocketStream) -> None:
        async with stream:
            heard = b""
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    heard += await stream.receive()
            with suppress(anyio.BrokenResourceError):
                await stream.send(name.encode() + b" heard " + heard)

    async with await anyio.create_unix_listener(path, mode=0o666) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, greet)
        yield path
        tasks.cancel_scope.cancel()


def processes_of(uid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if entry.stat().st_uid == uid and " (zombie)" not in (entry / "status").read_text():
                    found.append(int(entry.name))
    return found


async def all_gone(uid: int) -> None:
    with anyio.fail_after(10):
        while processes_of(uid):  # noqa: ASYNC110  # nothing of ours says so
            await anyio.sleep(0.02)


async def test_the_streams_the_status_and_the_variables_of_the_program_are_those_of_the_box(
    driver: Qemu, tmp_path: Path
) -> None:
    script = "cat; echo aside $ONE $TWO >&2; cat /opt/note >&2; pwd >&2; id -u >&2; hostname >&2; exit 7"
    files = {"/opt/note": b"a note\n"}
    spec = BoxSpec("a test", ("sh", "-c", script), env={"ONE": "1"}, secrets={"TWO": "hush-hush"}, files=files)
    data = bytes(range(256)) * 4096

    async with a_place(tmp_path) as place:
        status, output, complaints = await output_of_input(driver, spec, place, data)

    assert output == data
    assert complaints.splitlines() == ["aside 1 ***", "a note", "/workspace", "1000", "box"]
    assert status == 7
    assert (driver.name, driver.level) == ("qemu-tcg", Level.VM_EMULATED)


async def output_of_input(driver: Qemu, spec: BoxSpec, place: Any, data: bytes) -> tuple[int, bytes, str]:
    """Send all of it, close the input, and read to the end."""
    output = bytearray()

    async def read(program: Program) -> None:
        while piece := await program.receive():
            output.extend(piece)
            if len(output) >= len(data):
                stopping.set()

    stopping = anyio.Event()
    with anyio.fail_after(60):
        async with await driver.start(spec, place) as program, anyio.create_task_group() as tasks:
            tasks.start_soon(read, program)
            await program.send(data, deadline_s=20)
            await stopping.wait()
            status = await program.stop()
        return status, bytes(output), program.stderr


async def test_a_program_that_does_not_exist_is_the_callers_fault(driver: Qemu, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        with pytest.raises(UpstreamUnavailable, match="no such file or directory: 'no-such-program'"):
            await driver.start(BoxSpec("a test", ("no-such-program",), egress=False), place)

        assert place.uid is None or not processes_of(place.uid)


async def test_a_bind_is_a_copy_that_cannot_be_written_and_brings_its_libraries(driver: Qemu, tmp_path: Path) -> None:
    bound = tmp_path / "bound"
    bound.mkdir()
    (bound / "word").write_text("here")
    (bound / "link").symlink_to("word")
    binds = (Bind(bound, "/data/deep"), Bind(bound / "word", "/workspace/one"))
    script = (
        "cat link /workspace/one; touch x 2>&1; rm -f /workspace/one 2>&1; ls; ls /etc/ssl/certs | head -n 1 | wc -l"
    )
    spec = BoxSpec("a test", ("sh", "-c", script), binds=binds, cwd="/data/deep", egress=False)

    async with a_place(tmp_path) as place:
        status, output, complaints = await output_of(driver, spec, place)

    lines = output.decode().splitlines()
    assert lines[0].startswith("herehere")
    assert "Read-only file system" in lines[0]
    assert lines[2:] == ["link", "word", "1"], complaints
    assert status == 0


async def test_a_frozen_machine_goes_on_where_it_was(driver: Qemu, frozen: Path, tmp_path: Path) -> None:
    async with clone(driver, frozen, tmp_path) as program:
        assert await told(program, "print(kept, end='')") == "2"
        late = await told(program, "import time; print(time.time(), end='')")
        assert await program.stop() == 0

    assert abs(float(late) - os.stat(tmp_path).st_mtime) < 60


async def test_no_two_clones_have_the_same_random_numbers(driver: Qemu, frozen: Path, tmp_path: Path) -> None:
    drawn = []
    for _ in range(2):
        async with clone(driver, frozen, tmp_path) as program:
            drawn.append(await told(program, DRAW))

    assert len(set(drawn)) == 2


async def test_clones_have_the_same_random_numbers_where_they_are_not_reseeded(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandboxes.qemu.initramfs._ROOT", careless_sources(tmp_path / "careless"))
    driver = Qemu("tcg", cache, KERNEL)
    async with a_place(tmp_path) as place:
        program = await driver.start(server(), place)
        await told(program, DRAW)  # so that the kernel has just looked whether it is time for new entropy
        await driver.freeze(server(), place, program, tmp_path / "frozen")

    drawn = []
    for _ in range(2):
        async with clone(driver, tmp_path / "frozen", tmp_path) as program:
            drawn.append(await told(program, DRAW))

    assert len(set(drawn)) == 1


def careless_sources(root: Path) -> Path:
    """Our sources, but with an agent in the guest that leaves the random numbers as they are."""
    shutil.copytree(ROOT / "sandboxes", root / "sandboxes", ignore=shutil.ignore_patterns("__pycache__"))
    source = root / "sandboxes" / "qemu" / "guest_system.py"
    text = source.read_text()
    assert "fcntl.ioctl(fd, _RNDRESEEDCRNG)" in text
    source.write_text(text.replace("fcntl.ioctl(fd, _RNDRESEEDCRNG)", "pass"))
    return root


async def test_bombs_go_off_in_the_machine_alone(driver: Qemu, frozen: Path, tmp_path: Path) -> None:
    async with clone(driver, frozen, tmp_path) as program:
        forks, error = (await told(program, FORKS)).split()
        disk = await told(program, "[open(f'/workspace/{n}', 'wb').write(bytes(1 << 19)) for n in range(100)]")
        large = await told(program, "import os; print(os.getcwd()); open('/tmp/x', 'wb').write(bytes(3 << 20))")
        scripts = await told(program, SCRIPT)
        await program.send(
            json.dumps("x = []\nwhile True: x.append(bytearray(b'x') * (8 << 20))").encode() + b"\n", deadline_s=5
        )
        with anyio.fail_after(30):
            status = await program.wait()

    assert 5 < int(forks) < SMALL.processes
    assert int(error) == 11
    assert disk.startswith("OSError 28")
    assert "OSError 27" in large
    assert scripts == "PermissionError 13"
    assert status == 137


async def test_the_egress_socket_is_the_only_way_out(driver: Qemu, frozen: Path, tmp_path: Path) -> None:
    async with greeter(tmp_path / "e.sock", "mine") as egress, clone(driver, frozen, tmp_path, egress) as program:
        answers = [await told(program, CONNECT) for _ in range(3)]
        cards = await told(program, "import os; print(*sorted(os.listdir('/proc/self/net')) and open('/proc/net/dev'))")
        beyond = await told(program, "import socket; socket.create_connection(('10.0.2.2', 80), timeout=3)")
    async with clone(driver, frozen, tmp_path) as program:
        nobody = await told(program, CONNECT)

    assert answers == ["mine heard ping"] * 3
    assert [line.split(":")[0].strip() for line in cards.splitlines()[2:] if line.strip()] == ["lo"]
    assert beyond == "OSError 101"
    assert "heard" not in nobody


async def test_a_box_with_an_open_connection_is_not_frozen(driver: Qemu, frozen: Path, tmp_path: Path) -> None:
    hold = "import socket, builtins; builtins.held = socket.create_connection(('127.0.0.1', 3128)); held.sendall(b'x')"
    async with (
        greeter(tmp_path / "e.sock", "mine") as egress,
        a_place(tmp_path, egress) as place,
        await driver.thaw(server(), place, frozen) as program,
    ):
        await told(program, hold)

        with pytest.raises(SandboxFailure, match="egress socket is open"):
            await driver.freeze(server(), place, program, tmp_path / "again")


async def test_nothing_is_left_after_stop_or_kill(driver: Qemu, frozen: Path, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        program = await driver.thaw(server(), place, frozen)
        assert place.uid is None or len(processes_of(place.uid)) >= 3
        await program.stop()

        assert place.uid is None or not processes_of(place.uid)
        assert not place.directory.exists()

    async with a_place(tmp_path) as place:
        async with await driver.thaw(server(), place, frozen) as program:
            program.kill()
            with anyio.fail_after(10):
                await program.wait()

        assert place.uid is None or not processes_of(place.uid)
        assert not place.directory.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="finds the machine by its host user")
async def test_the_end_of_the_machine_is_the_end_of_the_box(driver: Qemu, frozen: Path, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place, await driver.thaw(server(), place, frozen) as program:
        assert place.uid is not None
        os.kill(qemu_of(place.uid), signal.SIGKILL)
        with anyio.fail_after(10):
            assert await program.receive() == b""
            assert await program.wait() == 125
        await all_gone(place.uid)

    assert "the machine failed" in program.stderr


def qemu_of(uid: int) -> int:
    (found,) = [pid for pid in processes_of(uid) if Path(f"/proc/{pid}/comm").read_text().startswith("qemu")]
    return found


def seen_from_outside(pid: int) -> tuple[dict[str, str], list[str], bytes]:
    """Its status, the top of what it sees, its arguments and environment."""
    process = Path(f"/proc/{pid}")
    lines = [line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line]
    words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    return dict(lines), sorted(os.listdir(process / "root")), words


@pytest.mark.skipif(os.geteuid() != 0, reason="only a gateway that is root gives each box a host user of its own")
async def test_qemu_has_no_rights_and_sees_nothing_of_the_host(driver: Qemu, frozen: Path, tmp_path: Path) -> None:
    async with a_place(tmp_path) as place, await driver.thaw(server(), place, frozen):
        assert place.uid is not None
        pid = qemu_of(place.uid)
        status, seen, words = seen_from_outside(pid)
        network, ours = os.readlink(f"/proc/{pid}/ns/net"), os.readlink("/proc/self/ns/net")

    assert {status[name].split()[0] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert seen == ["dev", "lib", "lib64", "usr", "vm"]
    assert network != ours
    assert not [word for word in (b"-nic", b"netdev", relay.VARIABLE.encode()) if word in words]


async def test_a_gateway_that_is_killed_leaves_no_machine(driver: Qemu, frozen: Path, tmp_path: Path) -> None:
    script = f"""
import anyio, sys
from pathlib import Path
from sandboxes.qemu.driver import Qemu
from tests.sandboxes.places import a_place
from tests.sandboxes.test_qemu import KERNEL, server
async def main():
    driver = Qemu("tcg", Path({str(frozen.parent / "cache")!r}), KERNEL)
    async with a_place(Path({str(tmp_path)!r})) as place:
        program = await driver.thaw(server(), place, Path({str(frozen)!r}))
        print(place.uid or 0, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""
    async with await anyio.open_process([sys.executable, "-c", script], cwd=ROOT) as gateway:
        assert gateway.stdout is not None
        with anyio.fail_after(30):
            uid = int(await gateway.stdout.receive())
        assert uid == 0 or processes_of(uid)

        gateway.kill()
        await gateway.wait()

        with anyio.fail_after(10):
            while boxes_in(tmp_path) or (uid and processes_of(uid)):  # noqa: ASYNC110  # nobody of ours is left to say so
                await anyio.sleep(0.02)


def boxes_in(directory: Path) -> list[Path]:
    return list(directory.glob("test-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="is about a gateway that gives up being root")
@pytest.mark.skipif(
    not os.path.exists("/usr/bin/python3"), reason="needs a Python for everybody: apt-get install python3"
)
async def test_a_gateway_without_rights_starts_machines_too(driver: Qemu, cache: Path) -> None:
    script = """
import anyio, os, sys, tempfile
from pathlib import Path
import anyio._backends._asyncio
from sandboxes.qemu.driver import Qemu
from sandboxes.spec import BoxSpec
from tests.sandboxes.places import a_place, output_of
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
sys.executable = "/usr/bin/python3"
async def main():
    with tempfile.TemporaryDirectory() as directory:
        driver = Qemu("tcg", Path(directory, "cache"), Path(sys.argv[1]))
        async with a_place(Path(directory)) as place:
            print(await output_of(driver, BoxSpec("a test", ("sh", "-c", "id -u"), egress=False), place))
anyio.run(main)
"""
    with anyio.fail_after(90):
        done = await anyio.run_process([sys.executable, "-c", script, str(KERNEL)], cwd=ROOT, check=False)

    assert done.stdout.decode() == "(0, b'1000\\n', '')\n", done.stderr.decode()


async def test_kvm_that_boots_nothing_is_found_out_in_time(driver: Qemu, cache: Path) -> None:
    with anyio.fail_after(30):
        probe = await Qemu("kvm", cache, KERNEL).probe()

    assert probe.ok or (probe.reason and "kvm" in probe.reason + probe.remedy)


async def test_what_a_machine_cannot_do_is_refused(driver: Qemu, frozen: Path, tmp_path: Path) -> None:
    writable = BoxSpec("a test", ("true",), binds=(Bind(tmp_path, "/data", writable=True),))
    secret = server(secrets={"TOKEN": "hush"})

    async with a_place(tmp_path) as place:
        with pytest.raises(SandboxFailure, match="no directory for writing"):
            await driver.start(writable, place)
        with pytest.raises(SandboxFailure, match="cannot be given secrets"):
            await driver.thaw(secret, place, frozen)
        with pytest.raises(SandboxFailure, match="no frozen machine"):
            await driver.thaw(server(), place, tmp_path / "nothing")
