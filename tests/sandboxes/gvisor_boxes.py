"""Boxes behind gVisor for the tests: what runs in them, and how they are watched."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from gateway.boxes import Program
from sandboxes.driver import Place
from sandboxes.gvisor import Gvisor
from sandboxes.host.process import ProcessSpec
from sandboxes.spec import BoxSpec
from tests.sandboxes.places import a_place

ROOT = Path(__file__).parents[2]

SERVER = """
import json, os, random, socket, sys
def fetched():
    try:
        with socket.create_connection(("127.0.0.1", 3128), timeout=5) as relay:
            relay.shutdown(socket.SHUT_WR)
            return relay.makefile().read()
    except OSError as exc:
        return repr(exc)
kept, held = None, None
for line in sys.stdin:
    ask = json.loads(line)
    kept = ask["id"] if ask["method"] == "initialize" else kept
    if ask["method"] == "hold":
        held = socket.create_connection(("127.0.0.1", 3128), timeout=5)
        held.sendall(b"x")
        held.recv(1)
    answer = {"id": ask["id"], "initialized": kept, "urandom": os.urandom(8).hex(), "random": random.random()}
    if ask["method"] == "fetch":
        answer["fetched"] = fetched()
    print(json.dumps(answer), flush=True)
"""
"""A server of JSON lines that remembers who initialised it."""

FORKS = """
import os, time
for count in range(1000):
    try:
        if os.fork() == 0:
            time.sleep(60)
    except OSError as exc:
        print(count, exc.errno, flush=True)
        os._exit(0)
"""

BOMB = """
held = []
while True:
    held.append(bytearray(b"x") * (16 << 20))
    print(len(held) * 16, flush=True)
"""


def shell(script: str, **options: object) -> BoxSpec:
    return BoxSpec("a test", ("/bin/sh", "-c", script), **{"egress": False, **options})  # type: ignore[arg-type]  # each test knows what it sets


def python(program: str, *arguments: str, **options: object) -> BoxSpec:
    if not Path("/usr/bin/python3").exists():
        pytest.skip("needs the distribution's Python in the box: apt-get install python3")
    command = ("python3", "-c", program, *arguments)
    return BoxSpec("a test", command, **{"egress": False, **options})  # type: ignore[arg-type]  # each test knows what it sets


async def asked(program: Program, number: int, method: str = "ask") -> dict[str, object]:
    await program.send(json.dumps({"id": number, "method": method}).encode() + b"\n", deadline_s=5)
    answer = b""
    with anyio.fail_after(20):
        while not answer.endswith(b"\n"):
            piece = await program.receive()
            assert piece, program.obituary()
            answer += piece
    found: dict[str, object] = json.loads(answer)
    return found


def processes_of(uid: int) -> list[int]:
    """All processes of a host user."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == uid and " (zombie)" not in (entry / "status").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def is_sentry(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"runsc-sandbox\0")


def host_user(place: Place) -> int:
    if place.uid is None:
        pytest.skip("only a gateway that is root gives each box a host user of its own")
    return place.uid


@asynccontextmanager
async def greeter(path: Path, name: str) -> AsyncIterator[Path]:
    """A unix socket that says its name to whoever connects, and stays until the other side goes."""

    async def greet(stream: SocketStream) -> None:
        async with stream:
            await stream.send(name.encode())
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while await stream.receive():
                    pass

    async with await anyio.create_unix_listener(path, mode=0o666) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, greet)
        yield path
        tasks.cancel_scope.cancel()


GATEWAY = """
import anyio, json, os, sys
from pathlib import Path
from sandboxes.driver import Place
from sandboxes.gvisor import Gvisor
from sandboxes.spec import BoxSpec

def place(name, uid):
    own = Path(sys.argv[1]) / name
    own.mkdir(mode=0o700)
    return Place(name, own, uid)

async def main():
    driver, spec = Gvisor(), BoxSpec("a test", ("/bin/sh", "-c", "echo; while read x; do id -u; done"), egress=False)
    uid = int(sys.argv[2]) if sys.argv[2] else None
    first = place("first", uid)
    program = await driver.start(spec, first)
    await program.receive()
    if sys.argv[3] == "thawed":
        frozen = Path(sys.argv[1]) / "frozen"
        await driver.freeze(spec, first, program, frozen)
        first = place("second", uid)
        program = await driver.thaw(spec, first, frozen)
    await program.send(b"x\\n", deadline_s=5)
    user = (await program.receive()).decode()
    reaper = int((first.directory / "lock").read_text())
    print(json.dumps({"gateway": os.getpid(), "reaper": reaper, "uid": uid, "user": user}), flush=True)
    sys.stdin.read()
    await program.stop()

anyio.run(main)
"""
"""A gateway with one box, for as long as its input is open: directory, user, how the box comes to be."""


def gateway_of(uid: int | None, directory: Path, how: str) -> ProcessSpec:
    command = (sys.executable, "-c", GATEWAY, str(directory), "" if uid is None else str(uid), how)
    return ProcessSpec(command, env={"PYTHONPATH": str(ROOT)})


async def frozen_server(driver: Gvisor, tmp_path: Path, spec: BoxSpec, egress: Path | None = None) -> Path:
    """An initialised server, frozen."""
    place_for_it = tmp_path / "frozen"
    async with a_place(tmp_path, egress) as place:
        program = await driver.start(spec, place)
        assert (await asked(program, 1, "initialize"))["initialized"] == 1
        await driver.freeze(spec, place, program, place_for_it)
        assert program.exit_status is not None
        assert not place.directory.exists()
    return place_for_it


def stand_in(tmp_path: Path, script: str, interpreter: str = "/bin/sh") -> str:
    """A program in runsc's place, for what the real one does only on machines unlike this."""
    path = tmp_path / "runsc"
    path.write_text(f"#!{interpreter}\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def working_gvisor() -> Gvisor:
    """The driver, probed; skips the test where it does not work."""
    made = Gvisor()
    found = await made.probe()
    if not found.ok:
        pytest.skip(f"gvisor: {found.reason}; {found.remedy}")
    return made
