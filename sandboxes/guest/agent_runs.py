"""One run of code, for the agent (`agent.py`): started, listened to, and ended with everything that it started."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandboxes.guest.agent_files import Entry, Refused
else:
    from agent_files import Entry, Refused

SETTLE_S = 3.0
"""How long it may take to kill everything that a run started."""
_MODULE = re.compile(r"^\s*(?:import\s*[\w{*'\"]|export\s|await\s)", re.MULTILINE)


def processes() -> dict[int, tuple[int, bytes]]:
    """pid -> (parent, start time) of everything that is seen."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields and fields[0] not in (b"Z", b"X"):
            found[int(name)] = (int(fields[1]), fields[19])
    return found


def descendants(root: int, spared: frozenset[tuple[int, bytes]]) -> list[int]:
    """The pids below `root`, without the `spared` (pid, start time) and what is below those."""
    every = processes()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in every.items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    pending = [root]
    while pending:
        for pid in children.get(pending.pop(), ()):
            if (pid, every[pid][1]) not in spared:
                found.append(pid)
                pending.append(pid)
    return found


def kill(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def kill_all(root: int, spared: frozenset[tuple[int, bytes]]) -> int:
    """Kill everything below `root`; how many are left. Stopped first: what does not run cannot fork out of the way."""
    deadline = time.monotonic() + SETTLE_S
    left = descendants(root, spared)
    while left and time.monotonic() < deadline:
        seen: set[int] = set()
        while not seen.issuperset(left) and time.monotonic() < deadline:
            seen.update(left)
            kill(left, signal.SIGSTOP)
            left = descendants(root, spared)
        kill(seen | set(left), signal.SIGKILL)
        reap()
        left = descendants(root, spared)
        if left:
            time.sleep(0.002)
    return len(left)


def reap(wanted: int = 0) -> int | None:
    """Collect whoever has ended; the wait status of `wanted` if it is among them."""
    status = None
    while True:
        try:
            pid, found = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == wanted:
            status = found


def exit_status(status: int) -> int:
    """128 + n when signal n ended it."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


class Output:
    """The beginning and the end of what was written; the middle is counted and let go."""

    def __init__(self, limit: int) -> None:
        self._head_limit = limit - limit // 2
        self._tail_limit = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_limit - len(self._head)
        self._head += data[:room] if room > 0 else b""
        self._tail += data[max(room, 0) :]
        if len(self._tail) > 2 * self._tail_limit:
            self._trim()

    def _trim(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._tail_limit)]

    def report(self) -> dict[str, Any]:
        self._trim()
        kept = len(self._head) + len(self._tail)
        return {"head": coded(self._head), "tail": coded(self._tail), "cut": self.total - kept}


def coded(data: bytes | bytearray) -> str:
    return base64.b64encode(bytes(data)).decode("ascii")


class Run:
    """One run of code, from its start to the end of everything that it started."""

    def __init__(self, request: Mapping[str, Any], before: list[Entry], place: str | None) -> None:
        self.number = request["id"]
        self.before = before
        self.place = place
        self.wall_s = float(request["wall_s"])
        limit = int(request["limit"])
        self.outputs = {"stdout": Output(limit), "stderr": Output(limit)}
        self.timed_out = False
        self.cancelled = False

    def begin(self, argv: Sequence[str], stdin: bytes, cwd: str, env: Mapping[str, str]) -> None:
        """Start it. From here on its time runs."""
        pipe = subprocess.PIPE
        self.pending = memoryview(stdin)
        self.process = subprocess.Popen(  # noqa: S603  # running what it is told is its purpose
            argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd, env=env, start_new_session=True
        )
        self.started = time.monotonic()
        self.deadline = self.started + self.wall_s
        with contextlib.suppress(OSError), open(f"/proc/{self.process.pid}/oom_score_adj", "w") as file:
            file.write("1000")  # where memory runs out, it is the code that goes, and the session stays

    @property
    def streams(self) -> dict[str, IO[bytes]]:
        """Its pipes by name."""
        process = self.process
        return {"stdin": process.stdin, "stdout": process.stdout, "stderr": process.stderr}  # type: ignore[dict-item]  # pipes


def scratch_directory(scratch: str) -> str | None:
    """A directory for the code of one run; `None` when the disk is full, which must not end the cleaning up."""
    try:
        return tempfile.mkdtemp(prefix="run-", dir=scratch)
    except OSError:
        return None


def command_for(language: str, code: str, path: str, place: str | None) -> tuple[list[str], bytes | None]:
    """(argv, standard input or None) for a piece of code. Writes it to a file of its own where it can."""
    if language == "javascript":
        kind = "module" if _MODULE.search(code) else "commonjs"
        return [program("node", path), f"--input-type={kind}", "-"], code.encode("utf-8", "replace")
    if language == "python":
        argv, name = [shutil.which("python3", path=path) or sys.executable, "-B"], "main.py"
    elif language == "shell":
        argv, name = [shutil.which("bash", path=path) or program("sh", path)], "main.sh"
    else:
        raise Refused("invalid", "language must be python, javascript or shell")
    file = os.path.join(place or "", name)
    try:
        if place is None:
            return [*argv, "-c", code], None
        with open(file, "wb") as out:
            out.write(code.encode("utf-8", "replace"))
    except OSError:
        return [*argv, "-c", code], None
    return [*argv, file], None


def program(name: str, path: str) -> str:
    found = shutil.which(name, path=path)
    if found is None:
        raise Refused("missing_interpreter", name)
    return found
