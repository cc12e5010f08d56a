"""A real OPA server for tests, where an `opa` program is to be found."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOW_TO = "opa is not installed: put it on the PATH, or `go install github.com/open-policy-agent/opa@v1.20.2`"


def opa_program() -> str:
    """The path of the program; empty when there is none."""
    found = shutil.which("opa")
    own = Path.home() / "go" / "bin" / "opa"
    return found or (str(own) if own.is_file() else "")


@contextmanager
def running_opa(*options: str) -> Iterator[str]:
    """The address of a server that answers. Ends it afterwards."""
    with mortal_opa(*options) as (url, _):
        yield url


@contextmanager
def mortal_opa(*options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """As above, with the process, for who wants to kill it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [opa_program(), "run", "--server", "--addr", f"127.0.0.1:{port}", "--log-level", "error", *options]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_until_well(process, port)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()


def _wait_until_well(process: subprocess.Popen[bytes], port: int, deadline_s: float = 20.0) -> None:
    until = time.monotonic() + deadline_s
    while not _is_well(port):
        if time.monotonic() > until:
            raise TimeoutError("opa did not start in time")
        try:
            raise RuntimeError(f"opa ended with {process.wait(timeout=0.05)}")
        except subprocess.TimeoutExpired:
            continue


def _is_well(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
