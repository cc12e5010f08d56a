"""Starts QEMU behind its walls and carries the box's streams to and from the guest. Is the box as others see it.

Runs under the reaper as the box's own host user, with the standard library alone: its standard streams are the
program's, its exit status is the program's. What comes from the guest, and from QEMU, is hostile.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import signal
import socket
import time
from typing import Any, Final

from sandboxes.qemu.frames import BadFrame
from sandboxes.qemu.qmp import Monitor, MonitorFailure
from sandboxes.qemu.switchboard import Switchboard

PLAN_FD: Final = 10
STATE_FD: Final = 11
"""Where the plan, and the frozen machine if there is one, are open for reading (`plan.Jail.files`)."""
WIRE, MONITOR, CONSOLE, STATE = 3, 4, 5, 6
"""Descriptors of QEMU."""
VARIABLE: Final = "INTERLOCK_BOX"
"""Variable that holds the program's environment as JSON: in no file and in no argument."""
NEWS_SOCKET, EGRESS_SOCKET = "run/news.sock", "egress.sock"

_MOST_BYTES: Final = 64 * 1024
"""Largest frame from a guest."""
_MOST_LINES: Final = 128
_FIRST_LINE: Final = 16
_FREEZE_S: Final = 15.0
_SAVE_S: Final = 60.0
_BROKEN: Final = 125
"""Our exit status where the program has none."""


class Trouble(Exception):
    """The machine does not do what it is for."""


def main(stage: str) -> int:
    """Run the machine to its end. Returns the exit status of the program."""
    with open(PLAN_FD, encoding="utf-8") as file:
        plan: dict[str, Any] = json.load(file)
    env: dict[str, str] = json.loads(os.environ.pop(VARIABLE))
    box = Box(stage, plan, env)
    try:
        return box.run()
    except (Trouble, BadFrame, MonitorFailure, OSError) as exc:
        return box.fail(f"the machine failed: {exc}")
    finally:
        box.end()


class Box:
    """One machine."""

    def __init__(self, stage: str, plan: dict[str, Any], env: dict[str, str]) -> None:
        self._stage, self._plan, self._env = stage, plan, env
        self._wire, wire = socket.socketpair()
        self._monitor, monitor = socket.socketpair()
        self._console, console = socket.socketpair()
        self._said = b""
        self._status: int | None = None
        self._ready = False
        self._frozen = False
        self._news = socket.socket(socket.AF_UNIX)
        self._news.connect(os.path.join(stage, NEWS_SOCKET))
        self._pid = _spawned(plan["command"], {WIRE: wire, MONITOR: monitor, CONSOLE: console}, plan["thaw"])
        for line in (wire, monitor, console):
            line.close()
        self._board = Switchboard(self._wire.fileno(), most_bytes=_MOST_BYTES)
        self._board.on_message, self._board.on_open = self._heard, self._opened

    def run(self) -> int:
        """Start or thaw the program and serve it to its end."""
        self._listen()
        if self._plan["thaw"]:
            Monitor(self._monitor, timeout_s=self._plan["boot_s"]).resume(deadline_s=self._plan["boot_s"])
        self._board.tell(self._first_words())
        self._plan, self._env = {"boot_s": self._plan["boot_s"]}, {}
        self._turn_until(lambda: self._ready or self._board.done, self._plan["boot_s"], "no answer from the guest")
        self._board.run()
        if self._status is None:
            raise Trouble("it ended before the program did")
        return self._status

    def fail(self, why: str) -> int:
        """Tell what is wrong to whoever listens."""
        last = self._said[-600:].decode("utf-8", "replace").strip()
        words = f"{why}; its console: {last}" if last else why
        self._publish("broken " + words)
        os.set_blocking(2, True)
        os.write(2, f"interlock: {words}\n".encode())
        return _BROKEN

    def end(self) -> None:
        """Kill the machine: QEMU dies with the wall around it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _listen(self) -> None:
        woken, wake = os.pipe()
        for fd in (woken, wake):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._board.watch(woken, lambda: self._signalled(os.read(woken, 64)))
        self._console.setblocking(False)
        self._board.watch(self._console.fileno(), self._hear_console)
        self._board.watch(self._news.fileno(), self._obey)

    def _first_words(self) -> dict[str, Any]:
        fresh = {"entropy": base64.b64encode(secrets.token_bytes(64)).decode(), "time": time.time()}
        if self._plan["thaw"]:
            return {"do": "thaw", **fresh}
        return {"do": "start", **self._plan["box"], "env": self._env, **fresh}

    def _turn_until(self, happened: Any, seconds: float, why: str) -> None:
        until = time.monotonic() + seconds
        while not happened():
            left = until - time.monotonic()
            if left <= 0:
                raise Trouble(f"{why} within {seconds:g} s")
            if self._board.lost:
                raise Trouble("it ended before it was up")
            self._board.turn(int(left * 1000) + 1)

    def _signalled(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers:
            if not self._ready:
                raise Trouble("told to end before the program ran")
            self._board.tell({"do": "signal", "number": int(signal.SIGTERM)})

    def _hear_console(self) -> None:
        try:
            data = self._console.recv(4096)
        except OSError:
            data = b""
        if not data:
            self._board.unwatch(self._console.fileno())
        self._said = (self._said + data)[-4096:]

    def _heard(self, message: dict[str, Any]) -> None:
        news, why = message.get("news"), str(message.get("why", ""))[:400]
        if news == "ready" and not self._ready:
            self._ready = True
            self._board.connect(0, source=os.dup(0))
            self._board.connect(1, sink=os.dup(1))
            self._board.connect(2, sink=os.dup(2))
            self._let_go()
            self._publish("ready")
        elif news in ("failed", "broken") and not self._ready:
            self._status, self._board.done = (127 if news == "failed" else _BROKEN), True
            self._publish(f"{news} {why}")
        elif news == "refused" and self._ready:
            raise Trouble(why)
        elif news == "frozen":
            self._frozen = True
        elif news == "exit" and self._ready:
            status = message.get("status")
            self._status = status & 0xFF if isinstance(status, int) else _BROKEN
            self._board.done = True

    def _let_go(self) -> None:
        """Only the switchboard holds the program's input and output, so that it alone decides when they end."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)

    def _publish(self, news: str) -> None:
        try:
            self._news.sendall(news.encode("utf-8", "replace")[:2000])
        except OSError:  # nobody listens any more
            return

    def _opened(self, number: int) -> None:
        """The program wants a connection: every one is the egress proxy's."""
        lines = [stream for stream in self._board.streams if stream >= _FIRST_LINE]
        if number < _FIRST_LINE or number in lines:
            raise BadFrame(f"stream {number} cannot be opened")
        line = socket.socket(socket.AF_UNIX)
        line.setblocking(False)
        try:
            if len(lines) >= _MOST_LINES:
                raise BlockingIOError
            line.connect(os.path.join(self._stage, EGRESS_SOCKET))
        except OSError:  # nobody there, or too busy: refused
            line.close()
            self._board.drop(number)
            return
        self._board.connect_socket(number, line)

    def _obey(self) -> None:
        """The gateway wants the machine written into the file that it sends."""
        order, fds, _, _ = socket.recv_fds(self._news, 16, 1)
        self._board.unwatch(self._news.fileno())  # it has nothing else to say
        if not order:
            return
        try:
            self._freeze(fds[0])
            self._publish("frozen")
        except (Trouble, BadFrame, MonitorFailure, OSError, IndexError) as exc:
            self._publish(f"broken {exc}")
        self._status, self._board.lost = 0, True

    def _freeze(self, fd: int) -> None:
        if not self._ready:
            raise Trouble("the program does not run yet")
        if any(number >= _FIRST_LINE for number in self._board.streams):
            raise Trouble("a connection through its egress socket is open")
        for stream in self._board.streams.values():
            stream.close_source()
        self._board.tell({"do": "freeze"})
        self._turn_until(lambda: self._frozen, _FREEZE_S, "the program could not be stopped")
        Monitor(self._monitor, timeout_s=_FREEZE_S).save(fd, deadline_s=_SAVE_S)


def _spawned(command: list[str], lines: dict[int, socket.socket], thaw: bool) -> int:
    """Start QEMU in a session of its own, so that no signal to ours reaches it."""
    given = {number: line.fileno() for number, line in lines.items()} | ({STATE: STATE_FD} if thaw else {})
    high = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for number, fd in given.items()}  # overwritten by none
    null = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD_CLOEXEC, 64)
    wanted = {0: null, 1: high[CONSOLE], 2: high[CONSOLE], **high}
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in wanted.items()]
    if thaw:
        actions.append((os.POSIX_SPAWN_CLOSE, STATE_FD))
    pid = os.posix_spawn(command[0], command, {}, file_actions=actions, setsid=True)
    for fd in (null, *high.values()):
        os.close(fd)
    return pid
