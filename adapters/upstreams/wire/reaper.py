"""Starts one command and sees to it that nothing of it survives: neither its end, nor ours, nor the gateway's.

Run as a program by `process.py` (`python -I -S -E reaper.py FD COMMAND...`), with the standard library alone, so that
it is up in 30 ms. It sits between the gateway and the upstream's process, whose standard streams it hands on without
touching them:

    gateway --lifeline--> reaper --fork--> command --fork--> whatever the command starts
       `----------- stdin, stdout, stderr -----'

On Linux it is a child subreaper (prctl(2)): whoever daemonises below it becomes its child, so "no child left" means
that the whole tree is gone. On macOS, which has no such thing, it follows forks by kqueue and remembers what it saw.

The lifeline is one end of a socket pair. We write `S` when the command runs or `E<errno>` when it cannot be started.
The gateway writes `T` (ask the command's process group to end) or `K` (kill everything now). When the gateway
vanishes, killed with -9 included, the kernel closes its end, and that means: end everything.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 0.5
"""How long the tree gets between SIGTERM and SIGKILL when the command or the gateway is gone."""
_GIVE_UP_S = 10.0
"""When to stop trying to kill what cannot be killed (another user's process, a hung disk)."""
_LINUX = sys.platform == "linux"
_PS = ["ps", "-axo", "pid=,ppid="]


def parents_from_proc() -> dict[int, int]:
    """Parent of each process, from Linux's /proc."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:  # gone meanwhile
            continue
        parents[int(name)] = int(fields[1])
    return parents


def parents_from_ps() -> dict[int, int]:
    """Parent of each process, from `ps` (which is itself left out)."""
    listing, write_end = os.pipe()
    ps = os.posix_spawn("/bin/ps", _PS, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write_end, 1)])
    os.close(write_end)
    with open(listing, encoding="ascii", errors="replace") as lines:
        rows = [line.split() for line in lines]
    os.waitpid(ps, 0)
    return {int(row[0]): int(row[1]) for row in rows if len(row) == 2 and int(row[0]) != ps}


def below(root: int, parents: dict[int, int]) -> set[int]:
    """All descendants of `root`."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = [root]
    while todo:
        fresh = [pid for pid in children.get(todo.pop(), ()) if pid not in found and pid != root]
        found.update(fresh)
        todo.extend(fresh)
    return found


class Tree:
    """The processes below this one."""

    def __init__(self) -> None:
        self.child = 0
        self.status: int | None = None
        self._seen: set[int] = set()
        self._kqueue = None if _LINUX else select.kqueue()  # type: ignore[attr-defined,unused-ignore]  # macOS only

    def start(self, command: list[str]) -> int:
        """Fork the command into a process group of its own. Returns 0, or the errno of why it cannot run."""
        told, tell = os.pipe()  # neither is inherited over exec, so end-of-file means that exec succeeded
        self.child = os.fork()
        if self.child == 0:
            _become(command, tell)
        os.close(tell)
        failure = os.read(told, 16)
        os.close(told)
        self._follow({self.child})
        return int(failure) if failure else 0

    def reap(self) -> bool:
        """Collect who has died. Returns whether anybody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return bool(self._alive_elsewhere())
            if pid == 0:
                return True
            if pid == self.child:
                self.status = status

    def terminate(self) -> None:
        """Ask the command's process group to end."""
        _signal(-self.child, signal.SIGTERM)

    def signal_all(self, number: int) -> None:
        """Signal every process below us, wherever it has gone."""
        for pid in self.everybody():
            _signal(pid, number)

    def everybody(self) -> set[int]:
        """All processes below us that we know of."""
        if _LINUX:
            return below(os.getpid(), parents_from_proc())
        parents = parents_from_ps()
        found = below(os.getpid(), parents) | {pid for pid in self._seen if pid in parents}
        for pid in tuple(found):
            found |= below(pid, parents)
        return found

    def watch(self) -> list[int]:
        """File descriptors whose readiness means `look`."""
        return [] if self._kqueue is None else [self._kqueue.fileno()]

    def look(self) -> None:
        """Somebody below us forked (macOS): remember the new ones before they can slip away."""
        if self._kqueue is not None:
            for event in self._kqueue.control(None, 64, 0):
                if event.fflags & select.KQ_NOTE_EXIT:  # type: ignore[attr-defined,unused-ignore]  # macOS only
                    self._seen.discard(event.ident)  # its number may become somebody else's
            self._follow(self.everybody())

    def _follow(self, pids: set[int]) -> None:
        if self._kqueue is None:
            return
        for pid in pids - self._seen:
            self._seen.add(pid)
            change = select.kevent(  # type: ignore[attr-defined,unused-ignore]  # macOS only
                pid,
                select.KQ_FILTER_PROC,  # type: ignore[attr-defined,unused-ignore]  # macOS only
                select.KQ_EV_ADD | select.KQ_EV_CLEAR,  # type: ignore[attr-defined,unused-ignore]  # macOS only
                select.KQ_NOTE_FORK | select.KQ_NOTE_EXIT,  # type: ignore[attr-defined,unused-ignore]  # macOS only
            )
            try:
                self._kqueue.control([change], 0, 0)
            except OSError:  # gone meanwhile
                self._seen.discard(pid)

    def _alive_elsewhere(self) -> set[int]:
        return set() if _LINUX else self.everybody()


def main(arguments: list[str]) -> int:
    """Run the command to its end, and the tree to its. Returns the command's exit status (128 + n for signal n)."""
    lifeline = int(arguments[0])
    _let_go_of_files(lifeline)
    woken, wake = os.pipe()
    for fd in (woken, wake):
        os.set_blocking(fd, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the lifeline decides
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    tree = Tree()
    failure = tree.start(arguments[1:])
    _let_go_of_streams()
    _tell(lifeline, f"E{failure}".encode() if failure else b"S")
    _end(tree, woken, _attend(tree, lifeline, woken))
    return _exit_status(tree.status)


def _attend(tree: Tree, lifeline: int, woken: int) -> float:
    """Return when the tree is to end: the command did, the gateway says so, or the gateway is gone.

    Returns how many seconds it gets for that.
    """
    poll = select.poll()
    for fd in (lifeline, woken, *tree.watch()):
        poll.register(fd, select.POLLIN)
    while tree.reap() and tree.status is None:
        ready = {fd for fd, _ in poll.poll()}
        tree.look()
        if woken in ready:
            _drain(woken)
        if lifeline in ready:
            orders = _hear(lifeline)
            if b"K" in orders:
                return 0.0
            if not orders:
                return _GRACE_S
            tree.terminate()
    return _GRACE_S


def _end(tree: Tree, woken: int, grace_s: float) -> None:
    """Leave nobody: SIGTERM, a moment, then SIGKILL until no child is left."""
    began = time.monotonic()
    if grace_s and tree.reap():
        tree.signal_all(signal.SIGTERM)
        tree.signal_all(signal.SIGCONT)
    while tree.reap() and time.monotonic() < began + grace_s:
        _pause(woken, 0.02)
    while tree.reap() and time.monotonic() < began + _GIVE_UP_S:
        tree.signal_all(signal.SIGSTOP)  # nobody forks on while we kill
        tree.signal_all(signal.SIGKILL)
        _pause(woken, 0.005)


def _become(command: list[str], tell: int) -> None:
    """In the forked child: turn into the command."""
    try:
        os.setpgid(0, 0)
        if _LINUX:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)  # noqa: S606  # the command comes from the configuration only
    except OSError as exc:
        os.write(tell, str(exc.errno or errno.EIO).encode())
    finally:
        os._exit(127)


def _let_go_of_files(lifeline: int) -> None:
    """Keep three streams and the lifeline, whatever was inherited: uvloop closes nothing when one file is passed on."""
    os.set_inheritable(lifeline, False)
    for name in os.listdir("/dev/fd"):
        if int(name) > 2 and int(name) != lifeline:
            try:
                os.close(int(name))
            except OSError:  # the listing itself
                continue


def _let_go_of_streams() -> None:
    """Only the command's tree may hold the pipes, or the gateway would never see them end."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _tell(lifeline: int, news: bytes) -> None:
    try:
        os.write(lifeline, news)
    except OSError:  # the gateway is gone, which the next read says too
        return


def _hear(lifeline: int) -> bytes:
    try:
        return os.read(lifeline, 64)
    except OSError:
        return b""


def _pause(woken: int, seconds: float) -> None:
    """Wait, but no longer than until a child dies."""
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    if poll.poll(int(seconds * 1000)):
        _drain(woken)


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        return


def _exit_status(status: int | None) -> int:
    if status is None:
        return 128 + signal.SIGKILL
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
