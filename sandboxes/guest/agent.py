"""Carries out in the box what the gateway asks of it: run code, move files. One JSON object a line, both ways.

Started as the box's program; its standard input and output are the protocol, so code that it runs gets pipes of its
own. It has no more rights than that code, which may attack it: the gateway believes nothing of what it says.

Python 3.9+, standard library alone: it is run by whatever Python the box has.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import random
import selectors
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandboxes.guest.agent_files import Refused, Workspace, changes, shown
    from sandboxes.guest.agent_runs import (
        Run,
        coded,
        command_for,
        descendants,
        exit_status,
        kill,
        kill_all,
        processes,
        program,
        reap,
        scratch_directory,
    )
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # an isolated interpreter does not look there
    from agent_files import Refused, Workspace, changes, shown
    from agent_runs import (
        Run,
        coded,
        command_for,
        descendants,
        exit_status,
        kill,
        kill_all,
        processes,
        program,
        reap,
        scratch_directory,
    )

VERSION = 1
MAX_LINE = 12 * 1024 * 1024
MAX_SEEN = 5_000
"""Files of the workspace that are looked at to find out what a run changed."""
DRAIN_S = 1.0
CHUNK = 65_536
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_RNDRESEEDCRNG = 0x5207

Request = dict[str, Any]


class Agent:
    """Serves requests until its input ends."""

    def __init__(self, source: int, sink: int, workspace: Workspace, scratch: str) -> None:
        self._source = source
        self._sink = sink
        self._workspace = workspace
        self._scratch = scratch
        self._selector = selectors.DefaultSelector()
        self._buffer = bytearray()
        self._env = dict(os.environ)
        self._run: Run | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._spared: frozenset[tuple[int, bytes]] = frozenset()
        self._operations: dict[str, Callable[[Request], dict[str, Any]]] = {
            "ping": self._ping,
            "seed": self._seed,
            "env": self._set_env,
            "put": self._put,
            "get": self._get,
            "list": self._list,
        }

    def serve(self) -> None:
        self._libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # code of the same user cannot trace it or open its descriptors
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what detaches itself stays below it
        every = processes()
        self._spared = frozenset((pid, every[pid][1]) for pid in descendants(os.getpid(), frozenset()) if pid in every)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._selector.register(wake_read, selectors.EVENT_READ, "wake")
        self._selector.register(self._source, selectors.EVENT_READ, "requests")
        try:
            while self._turn(wake_read):
                pass
        finally:
            kill_all(os.getpid(), self._spared)

    def _turn(self, wake: int) -> bool:
        timeout = None if self._run is None else max(0.0, self._run.deadline - time.monotonic())
        for key, _ in self._selector.select(timeout):
            if key.data == "requests":
                if not self._read_requests():
                    return False
            elif key.data == "wake":
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, CHUNK)
            elif self._run is not None:
                self._move(self._run, key.data)
        self._look_after_run()
        return True

    def _read_requests(self) -> bool:
        data = os.read(self._source, CHUNK)
        if not data:
            return False
        self._buffer += data
        if b"\n" not in data:
            return len(self._buffer) <= MAX_LINE
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            self._answer(line)
        return True

    def _answer(self, line: bytes | bytearray) -> None:
        try:
            request = json.loads(line)
            number = request["id"]
        except (ValueError, KeyError, TypeError):
            return  # the gateway sends none such; nobody could tell what an answer would be to
        try:
            reply = self._carry_out(request)
        except Refused as exc:
            self._say({"id": number, "error": exc.code, "message": str(exc)})
        except OSError as exc:
            self._say({"id": number, "error": errno.errorcode.get(exc.errno or 0, "EIO"), "message": str(exc.strerror)})
        except (KeyError, TypeError, ValueError) as exc:
            self._say({"id": number, "error": "invalid", "message": f"bad request: {type(exc).__name__}"})
        else:
            if reply is not None:
                self._say({"id": number, "ok": reply})

    def _carry_out(self, request: Request) -> dict[str, Any] | None:
        name = request["op"]
        if name == "exec":
            self._start(request)
            return None  # it is answered when it is over
        if name == "cancel":
            return self._cancel(request)
        if name not in self._operations:
            raise Refused("invalid", "unknown operation")
        return self._operations[name](request)

    def _say(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode("ascii") + b"\n"
        while data:
            data = data[os.write(self._sink, data) :]

    def _ping(self, request: Request) -> dict[str, Any]:
        return {"version": VERSION, "python": sys.version.split()[0]}

    def _seed(self, request: Request) -> dict[str, Any]:
        """Make random numbers differ from those of every other box that was started from the same snapshot."""
        data = base64.b64decode(request["data"])
        self._set_env({"set": request.get("set", {})})  # whoever hands a box out gives both at once
        done = {"urandom": False, "reseeded": False}
        with contextlib.suppress(OSError):
            fd = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, data)
                done["urandom"] = True
                fcntl.ioctl(fd, _RNDRESEEDCRNG)
                done["reseeded"] = True
            finally:
                os.close(fd)
        random.seed(data + os.urandom(32) + struct.pack("d", time.time()))
        return done

    def _set_env(self, request: Request) -> dict[str, Any]:
        for name, value in request["set"].items():
            if not isinstance(value, str) or not name or "=" in name or "\0" in name + value:
                raise Refused("invalid", "a variable is not text")
        self._env.update(request["set"])
        return {}

    def _put(self, request: Request) -> dict[str, Any]:
        data = base64.b64decode(request["data"])
        fd = self._workspace.file(request["path"], os.O_WRONLY | os.O_CREAT, make=True)
        with os.fdopen(fd, "wb") as file:
            if request.get("append"):
                file.seek(0, os.SEEK_END)
            else:
                file.truncate(0)
            file.write(data)
            file.flush()
            return {"size": os.fstat(fd).st_size}

    def _get(self, request: Request) -> dict[str, Any]:
        offset, limit = int(request["offset"]), int(request["limit"])
        fd = self._workspace.file(request["path"], os.O_RDONLY)
        with os.fdopen(fd, "rb") as file:
            file.seek(max(0, offset))
            data = file.read(max(0, limit))
            return {"data": coded(data), "size": os.fstat(fd).st_size}

    def _list(self, request: Request) -> dict[str, Any]:
        parts = self._workspace.parts(request["path"])
        entries, complete = self._workspace.walk(parts, int(request["limit"]))
        found = [{"path": shown(path), "type": kind, "size": size} for path, kind, size, _ in entries]
        return {"entries": sorted(found, key=lambda item: item["path"]), "complete": complete}

    # Runs

    def _start(self, request: Request) -> None:
        if self._run is not None:
            raise Refused("busy", "something runs already")
        before, _ = self._workspace.walk((), MAX_SEEN)
        place = scratch_directory(self._scratch)
        try:
            self._run = self._started(request, Run(request, before, place))
        except BaseException:
            shutil.rmtree(place or "", ignore_errors=True)
            raise

    def _started(self, request: Request, run: Run) -> Run:
        env = dict(self._env)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [self._workspace.root, env.get("PYTHONPATH")]))
        path = env.get("PATH", os.defpath)
        stdin = base64.b64decode(request.get("stdin", ""))
        if "argv" in request:
            name, *words = [str(word) for word in request["argv"]]
            argv = [program(name, path), *words]
        else:
            argv, taken = command_for(request["language"], request["code"], path, run.place)
            stdin = stdin if taken is None else taken
        run.begin(argv, stdin, self._workspace.root, env)
        for name, stream in run.streams.items():
            os.set_blocking(stream.fileno(), False)
            event = selectors.EVENT_WRITE if name == "stdin" else selectors.EVENT_READ
            self._selector.register(stream, event, name)
        return run

    def _cancel(self, request: Request) -> dict[str, Any]:
        if self._run is not None and self._run.number == request["target"]:
            self._run.cancelled = True
            self._run.deadline = 0.0
        return {}

    def _move(self, run: Run, name: str) -> bool:
        """Pass on what one pipe of the run takes or gives; `False` when there is no more."""
        stream = run.streams[name]
        fd = stream.fileno()
        try:
            if name == "stdin":
                run.pending = run.pending[os.write(fd, run.pending[:CHUNK]) :] if run.pending else run.pending
                more = bool(run.pending)
            else:
                data = os.read(fd, CHUNK)
                run.outputs[name].add(data)
                more = bool(data)
        except BlockingIOError:
            return False
        except OSError:
            more = False
        if not more:
            self._close(stream)
        return more

    def _close(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(stream)
        with contextlib.suppress(OSError):
            stream.close()

    def _look_after_run(self) -> None:
        run = self._run
        if run is None:
            return
        status = reap(run.process.pid)
        over = time.monotonic() >= run.deadline
        if status is None and not over:
            return
        run.timed_out = over and status is None and not run.cancelled
        self._finish(run, status)

    def _finish(self, run: Run, status: int | None) -> None:
        if status is None:
            kill([run.process.pid], signal.SIGKILL)
            _, status = os.waitpid(run.process.pid, 0)
        run.process.returncode = status  # it was waited for here; nobody else need try
        survivors = kill_all(os.getpid(), self._spared)
        took = time.monotonic() - run.started
        self._drain(run)
        shutil.rmtree(run.place or "", ignore_errors=True)
        after, complete = self._workspace.walk((), MAX_SEEN)
        files, more = changes(run.before, after)
        self._run = None
        self._say({"id": run.number, "ok": {
            "status": exit_status(status),
            "timed_out": run.timed_out,
            "cancelled": run.cancelled,
            "took_s": round(took, 3),
            "stdout": run.outputs["stdout"].report(),
            "stderr": run.outputs["stderr"].report(),
            "files": files,
            "more_files": more,
            "all_seen": complete,
            "survivors": survivors,
        }})  # fmt: skip

    def _drain(self, run: Run) -> None:
        """Take what is left in the pipes: nobody writes to them any more, unless somebody survived."""
        deadline = time.monotonic() + DRAIN_S
        for name, stream in run.streams.items():
            while name != "stdin" and not stream.closed and time.monotonic() < deadline and self._move(run, name):
                pass
            self._close(stream)


def main() -> None:
    """`agent.py [DIRECTORY [SCRATCH]]`: the workspace is /workspace, and known by that name wherever it is."""
    places = [word for word in sys.argv[1:] if not word.startswith("-")]
    root = places[0] if places else "/workspace"
    scratch = places[1] if len(places) > 1 else "/tmp"  # noqa: S108  # the box's own
    source, sink = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (0, 1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    Agent(source, sink, Workspace(root, "/workspace"), scratch).serve()


if __name__ == "__main__":
    main()
