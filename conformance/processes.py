"""Programs under test, started on a free port and ended with their whole tree."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

START_S: Final = 30.0
STOP_S: Final = 5.0
POLL_S: Final = 0.05


class NotStarted(Exception):
    """A program under test ended or stayed silent instead of listening. Holds the end of what it printed."""


def end_when_told() -> None:
    """Let a `SIGTERM` unwind this process, so that what it started ends with it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def free_port() -> int:
    """A port of the loopback that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str], *, port: int, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` until the block ends; enter it once the program listens on `port`. Raises `NotStarted`."""
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  # the command is ours
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
        try:
            _await_listener(process, port, log)
            yield process
        finally:
            _end(process)


def _await_listener(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotStarted(f"{process.args!r} ended with status {process.returncode}:\n{tail(log)}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(POLL_S)
    raise NotStarted(f"{process.args!r} does not listen on port {port} after {START_S:.0f} s:\n{tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait(STOP_S)


def tail(log: Path, lines: int = 20) -> str:
    """The last lines that a program printed."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
