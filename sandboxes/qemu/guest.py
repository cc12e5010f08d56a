"""The first and only root process of a guest: builds the room, runs the program in it, carries its streams.

Runs from the initial memory file system with the standard library alone. It trusts the host's end of the wire, and
treats the program as everybody else does.
"""

from __future__ import annotations

import base64
import errno
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from typing import Any, Final

from sandboxes.qemu import guest_room, guest_system
from sandboxes.qemu.switchboard import Switchboard

STDIN, STDOUT, STDERR, FIRST_LINE = 0, 1, 2, 16
"""Numbers of streams; connections to the egress proxy count up from the last."""
_MOST_LINES: Final = 128
_MOST_BYTES: Final = 1 << 30
"""A message to us holds the files of the box."""
_WIRE: Final = "/dev/vport0p1"
_WIRE_S: Final = 20.0
_FREEZE_S: Final = 5.0
_DOORS: Final = (
    ("user/max_user_namespaces", "0"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/kexec_load_disabled", "1"),
    ("kernel/kptr_restrict", "2"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/yama/ptrace_scope", "1"),
    ("vm/unprivileged_userfaultfd", "0"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_hardlinks", "1"),
    ("net/ipv4/ping_group_range", "1 0"),
    ("kernel/core_pattern", "core"),
    ("dev/tty/legacy_tiocsti", "0"),
)


def main() -> None:
    """Never returns: the machine ends with the program."""
    try:
        _begin()
        Agent(Switchboard(_wire(), most_bytes=_MOST_BYTES)).serve()
    except BaseException:  # noqa: BLE001  # the console is all that is left to say it on
        traceback.print_exc()
    finally:
        guest_system.power_off()


def _begin() -> None:
    guest_system.mount("proc", "/proc", "proc", guest_system.SCRATCH)
    guest_system.mount("sysfs", "/sys", "sysfs", guest_system.SCRATCH)
    guest_system.mount("dev", "/dev", "devtmpfs", guest_system.NOSUID)
    guest_system.mount("cgroup", "/cgroup", "cgroup2", guest_system.SCRATCH)
    guest_system.load_modules("/modules")
    guest_system.harden(_DOORS)
    guest_system.raise_loopback()


def _wire() -> int:
    """The port to the host, once the host is there."""
    until = time.monotonic() + _WIRE_S
    while not os.path.exists(_WIRE):
        if time.monotonic() > until:
            raise OSError(errno.ENODEV, "no wire to the host")
        time.sleep(0.005)
    fd = os.open(_WIRE, os.O_RDWR | os.O_CLOEXEC)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while any(events & select.POLLHUP for _, events in poll.poll(1000)):
        if time.monotonic() > until:
            raise OSError(errno.ENODEV, "the host does not listen")
        time.sleep(0.005)
    return fd


class Agent:
    """One program and its streams."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board
        self._pid = 0
        self._status: int | None = None
        self._next_line = FIRST_LINE
        self._listeners: list[socket.socket] = []
        board.on_message = self._heard
        board.on_turn = self._look

    def serve(self) -> None:
        """Until the program is gone and all that it said is told, or the host is."""
        self._board.run()

    def _heard(self, message: dict[str, Any]) -> None:
        match message["do"]:
            case "start":
                self._fresh(message)
                self._start(message)
            case "signal":
                self._signal(int(message["number"]))
            case "freeze":
                self._freeze()
            case "thaw":
                self._thaw(message)

    def _fresh(self, message: dict[str, Any]) -> None:
        guest_system.reseed(base64.b64decode(message["entropy"]))
        guest_system.set_clock(message["time"])

    def _start(self, box: dict[str, Any]) -> None:
        try:
            guest_room.build(box)
            if box["egress"]:
                self._listen(box["uid"])
        except (OSError, KeyError, ValueError) as exc:
            self._board.tell({"news": "broken", "why": str(exc)})
            self._board.done = True
            return
        failure = self._launch(box)
        if failure:
            self._board.tell({"news": "failed", "why": failure})
            self._board.done = True
        else:
            self._board.tell({"news": "ready"})

    def _launch(self, box: dict[str, Any]) -> str:
        """Fork the program. Returns why it cannot run, or nothing."""
        (in_read, in_write), (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe(), os.pipe()
        told, tell = os.pipe()
        woken, wake = os.pipe()
        for fd in (woken, wake):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._pid = os.fork()
        if self._pid == 0:
            _become_program(box, (in_read, out_write, err_write), tell)
        for fd in (in_read, out_write, err_write, tell):
            os.close(fd)
        failure = os.read(told, 500).decode("utf-8", "replace")
        os.close(told)
        self._board.watch(woken, lambda: _drain(woken))
        self._board.connect(STDIN, sink=in_write)
        self._board.connect(STDOUT, source=out_read)
        self._board.connect(STDERR, source=err_read)
        return failure

    def _look(self) -> None:
        """Collect who has died; when it is the program, end everybody, and with the last word said, the machine."""
        while self._pid and not self._board.paused:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self._pid:
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code
                _kill_everybody()
        streams = self._board.streams
        if self._status is not None and not self._board.done and STDOUT not in streams and STDERR not in streams:
            self._board.tell({"news": "exit", "status": self._status})
            self._board.done = True
            for number in list(streams):
                self._board.drop(number)

    def _signal(self, number: int) -> None:
        if self._pid and self._status is None:
            try:
                os.killpg(self._pid, number)
            except ProcessLookupError:
                return

    def _listen(self, uid: int) -> None:
        """The proxy's addresses in the box, each connection one stream."""
        line = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        line.bind(("127.0.0.1", 3128))
        line.listen(64)
        line.setblocking(False)
        self._listeners.append(line)
        self._board.watch(line.fileno(), lambda: self._accept(line))

    def _accept(self, listener: socket.socket) -> None:
        try:
            line, _ = listener.accept()
        except OSError:
            return
        if len(self._board.streams) >= _MOST_LINES:
            line.close()
            return
        number, self._next_line = self._next_line, self._next_line + 1
        self._board.announce(number)
        self._board.connect_socket(number, line)

    def _freeze(self) -> None:
        """Stop the program where it is, and ourselves too: until `thaw` only the wire is heard."""
        if any(number >= FIRST_LINE for number in self._board.streams):
            self._board.tell({"news": "refused", "why": "a connection through its egress socket is open"})
            return
        guest_system.write(guest_room.CGROUP + "/cgroup.freeze", "1")
        _until_frozen()
        os.sync()
        self._board.paused = True
        self._board.tell({"news": "frozen"})

    def _thaw(self, message: dict[str, Any]) -> None:
        self._fresh(message)
        self._board.forget_under_way()
        self._board.paused = False
        guest_system.write(guest_room.CGROUP + "/cgroup.freeze", "0")
        self._board.tell({"news": "ready"})


def _until_frozen() -> None:
    until = time.monotonic() + _FREEZE_S
    while time.monotonic() < until:
        with open(guest_room.CGROUP + "/cgroup.events", encoding="utf-8") as file:
            if "frozen 1" in file.read():
                return
        time.sleep(0.005)
    raise OSError(errno.ETIMEDOUT, "the program cannot be frozen")


def _kill_everybody() -> None:
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return


def _become_program(box: dict[str, Any], streams: tuple[int, int, int], tell: int) -> None:
    """In the forked child: behind all walls, then the program."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        guest_system.write(guest_room.CGROUP + "/cgroup.procs", "0")
        for place, fd in enumerate(streams):
            os.dup2(fd, place, inheritable=True)
        guest_system.own_namespaces(guest_room.ROOT)
        socket.sethostname(box["hostname"])
        for name, value in box["rlimits"].items():
            resource.setrlimit(getattr(resource, "RLIMIT_" + name.upper()), (value, value))
        os.umask(0o022)
        guest_system.become(box["uid"], base64.b64decode(box["seccomp"]))
        os.chdir(box["cwd"])
        _look_for(box["program"], box["env"].get("PATH", os.defpath))
        os.execvpe(box["command"][0], box["command"], box["env"])  # noqa: S606  # what the box is for
    except OSError as exc:
        os.write(tell, (exc.strerror or str(exc)).lower().encode()[:400] or b"?")
    except BaseException as exc:  # noqa: BLE001  # a fork must not go on as the agent
        os.write(tell, type(exc).__name__.encode())
    finally:
        os._exit(127)


def _look_for(program: str, path: str) -> None:
    """Fail here if it cannot be run, and not in what stands before it in the command."""
    places = [program] if "/" in program else [os.path.join(place, program) for place in path.split(":")]
    if not any(os.access(place, os.X_OK) and not os.path.isdir(place) for place in places):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        return


if __name__ == "__main__":
    sys.exit("run by the kernel of a guest")
