"""A host with things to be found: what the escape suite looks for, laid out for real and taken away afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from sandboxes.escape.bundle import PLACE, bundle
from sandboxes.escape.check import Target
from sandboxes.escape.syscalls import call
from sandboxes.spec import MIB, BoxSpec, Limits

PYTHON: Final = "/usr/bin/python3"
"""In the box: the base is the host's /usr."""
LIMITS: Final = Limits(file_bytes=2 * MIB, tmp_bytes=6 * MIB, work_bytes=8 * MIB, open_files=128)
_SLEEPER: Final = "import sys; sys.stdin.read()"
_IPC_RMID: Final = 0


@dataclass(frozen=True)
class Scene:
    """What is to be found, all of it open to everybody on the host, and an egress socket for one box."""

    target: Target
    egress: Path


@contextmanager
def a_scene() -> Iterator[Scene]:
    """Lay everything out, and take it away again."""
    word = f"canary-{secrets.token_hex(8)}"
    target = Target(
        canary=word,
        tmp_bytes=LIMITS.tmp_bytes,
        work_bytes=LIMITS.work_bytes,
        file_bytes=LIMITS.file_bytes,
        open_files=LIMITS.open_files,
        disk=_disk(),
    )
    with ExitStack() as stack:
        directory = stack.enter_context(_directory())
        target = stack.enter_context(_files(target, directory))
        target = stack.enter_context(_sockets(target, directory))
        target = stack.enter_context(_queues(target))
        target = replace(target, pid=stack.enter_context(_process(word)))
        yield Scene(target, directory / "egress.sock")


def suite(*ids: str, env: Mapping[str, str] | None = None) -> BoxSpec:
    """A box that makes the checks."""
    command = (PYTHON, "-I", "-S", PLACE, *ids)
    return BoxSpec("escape suite", command, env=env or {}, files={PLACE: bundle()}, limits=LIMITS)


def told(target: Target) -> bytes:
    """The target as the suite reads it."""
    return json.dumps(asdict(target)).encode() + b"\n"


def _disk() -> tuple[int, int]:
    """The numbers of the disk that the root is on, or of what stands for it."""
    device = os.stat("/").st_dev
    return os.major(device), os.minor(device)


@contextmanager
def _directory() -> Iterator[Path]:
    """Where everybody may look. Not in /tmp: boxes have one of their own, so nothing would be proved by it."""
    path = Path(tempfile.mkdtemp(prefix="interlock-scene-", dir="/var/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def _files(target: Target, directory: Path) -> Iterator[Target]:
    shared = Path("/dev/shm") / f"interlock-{target.canary}"
    paths = [directory / name for name in ("interlock.toml", "data", "boxes")]
    for path in (directory / "canary", shared, *paths):
        path.write_text(target.canary)
        path.chmod(0o644)
    try:
        yield replace(
            target,
            canary_file=str(directory / "canary"),
            shm_file=str(shared),
            gateway_paths=(str(directory), *(str(path) for path in paths)),
        )
    finally:
        shared.unlink()


@contextmanager
def _sockets(target: Target, directory: Path) -> Iterator[Target]:
    name = f"interlock-{target.canary}"
    path = str(directory / "other-egress.sock")
    tcp = socket.create_server(("0.0.0.0", 0))
    with tcp, _listening(f"\0{name}"), _listening(path), _listening(str(directory / "egress.sock")):
        thread = threading.Thread(target=_greet, args=(tcp, target.canary.encode()))
        thread.start()
        port = int(tcp.getsockname()[1])
        try:
            yield replace(target, port=port, abstract=name, sockets=(path,), addresses=_addresses())
        finally:
            tcp.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def _listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    if not path.startswith("\0"):
        os.chmod(path, 0o777)
    return listener


def _greet(listener: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):  # shut down
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(word)


def _addresses() -> tuple[str, ...]:
    """The host's own, found without sending anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        try:
            plain.connect(("192.0.2.1", 9))
        except OSError:
            return ()
        return (str(plain.getsockname()[0]),)


@contextmanager
def _queues(target: Target) -> Iterator[Target]:
    key = secrets.randbelow(1 << 30) + 1
    name = f"interlock-{target.canary}"
    memory = call("shmget", key, 4096, 0o1000 | 0o666)
    messages = call("msgget", key, 0o1000 | 0o666)
    semaphores = call("semget", key, 1, 0o1000 | 0o666)
    library = ctypes.CDLL(None, use_errno=True)
    os.close(library.mq_open(f"/{name}".encode(), os.O_CREAT | os.O_RDONLY, 0o644, None))
    try:
        yield replace(target, ipc_key=key, mq_name=name)
    finally:
        library.shmctl(memory, _IPC_RMID, None)
        library.msgctl(messages, _IPC_RMID, None)
        library.semctl(semaphores, 0, _IPC_RMID)
        library.mq_unlink(f"/{name}".encode())


@contextmanager
def _process(word: str) -> Iterator[int]:
    """Somebody of the gateway's user with the word in its arguments and its environment."""
    command = [sys.executable, "-I", "-S", "-c", _SLEEPER, word]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={"GATEWAY_SECRET": word}) as sleeper:
        yield sleeper.pid
