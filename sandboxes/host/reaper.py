"""Starts one command and sees to it that nothing of it survives: neither its end, nor ours, nor the gateway's.

Run as a program by `process.py` with the standard library alone, and little of that, since every start of a process
waits for it: `signal` (it makes enumerations), `typing`, `dataclasses`, `re` and `json` take longer than all the rest.
It sits between the gateway and the command, whose standard streams it hands on without touching them:

    gateway --lifeline--> reaper --fork--> command --fork--> whatever the command starts
       `----------- stdin, stdout, stderr -----'

On Linux it is a child subreaper (prctl(2)): whoever daemonises below it becomes its child, so "no child left" means
that the whole tree is gone. On macOS, which has no such thing, it follows forks by kqueue and remembers what it saw.

The lifeline is one end of a socket pair. The gateway writes the plan (`plan.Plan` by `marshal`, its length before it in
four bytes), so that neither arguments nor environment of ours show what the command is to know. We write `S` when it
runs, or `E<errno> <why>` when it cannot be started. Then the gateway writes `T` (ask the command's process group to
end) or `K` (kill everything now). When the gateway vanishes, killed with -9 included, the kernel closes its end, and
that means: end everything. SIGUSR1 means `K`, for whoever has no lifeline.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import marshal
import os
import select
import sys
import time

from sandboxes.host.jail import enter, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any
else:
    import _signal as signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 0.5
"""How long the tree gets between SIGTERM and SIGKILL when the command or the gateway is gone."""
_GIVE_UP_S = 10.0
"""When to stop trying to kill what cannot be killed (another user's process, a hung disk)."""
_NOT_INHERITED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1),
    *(signal.SIGPIPE, signal.SIGXFSZ),  # which Python ignores
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 50
"""Directories that are open at the same time; paths would end at 4096 bytes, and recursion at a thousand."""
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

    def start(self, plan: dict[str, Any]) -> bytes:
        """Fork the command into a process group of its own. Returns nothing, or `<errno> <why>` it cannot run."""
        told, tell = os.pipe()  # neither is inherited over exec, so end-of-file means that exec succeeded
        self.child = os.fork()
        if self.child == 0:
            _become(plan, tell)
        os.close(tell)
        failure = os.read(told, 500)
        os.close(told)
        self._follow({self.child})
        return failure

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


def main(lifeline: int) -> int:
    """Run the plan's command to its end, and the tree to its. Returns the exit status (128 + n for signal n)."""
    _let_go_of_files(lifeline)
    plan = _heard_plan(lifeline)
    lock = _hold(plan["leftovers"]["lock"])
    woken, wake = os.pipe()
    for fd in (woken, wake):
        os.set_blocking(fd, False)
    orders: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGUSR1, lambda *_: orders.append(signal.SIGUSR1))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the lifeline decides
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    tree = Tree()
    failure = tree.start(plan)
    _let_go_of_streams()
    _tell(lifeline, b"E" + failure if failure else b"S")
    _leave_groups(plan["jail"])
    _end(tree, woken, _attend(tree, lifeline, woken, orders))
    _clear_away(plan["leftovers"], lock)
    return _exit_status(tree.status)


def _heard_plan(lifeline: int) -> dict[str, Any]:
    """The plan. A gateway that vanished before it was told whole ends us: nothing runs yet."""
    length = int.from_bytes(_exactly(lifeline, 4), "big")
    plan: dict[str, Any] = marshal.loads(_exactly(lifeline, length))  # noqa: S302  # from the gateway, whose we are
    return plan


def _exactly(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = os.read(fd, count - len(data))
        if not piece:
            sys.exit(128 + signal.SIGKILL)
        data += piece
    return data


def _hold(path: str) -> int:
    """Show that the box is alive, for as long as we are: whoever finds the lock free may clear up after us."""
    if not path:
        return -1
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _leave_groups(jail: dict[str, Any] | None) -> None:
    """The box's limits are not for us, who have to clear up after it."""
    if jail is not None:
        _attempt(lambda _: join(jail["home"], os.getpid()), "")


def _clear_away(leftovers: dict[str, Any], lock: int) -> None:
    """Nobody is left: take the cgroups and the directory away. What fails is found by the next start (`sweep`)."""
    for cgroup in leftovers["cgroups"]:
        _attempt(os.rmdir, cgroup)
    if leftovers["directory"]:
        _remove(leftovers["directory"])
    if lock >= 0:
        os.close(lock)


def _remove(directory: str) -> None:
    """A directory with all that is in it. Links are removed, not followed, and no depth is too deep."""
    try:
        top = os.open(directory, _DIRECTORY)
    except OSError:
        return
    try:
        before: list[str] = [""]
        while before and before != (left := _emptied(top, top, 0)):
            before = left
    finally:
        os.close(top)
    _attempt(os.rmdir, directory)


def _emptied(top: int, directory: int, depth: int) -> list[str]:
    """Remove what is in a directory; what lies too deep goes up into the topmost one. Returns what is there then."""
    for name in _names(directory):
        try:
            os.unlink(name, dir_fd=directory)
        except OSError:  # a directory, as a rule
            _attempt(lambda name: _remove_below(top, directory, name, depth), name)
    return _names(directory)


def _remove_below(top: int, directory: int, name: str, depth: int) -> None:
    below = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        if depth >= _DEEPEST:
            os.rename(name, f"deep-{os.fstat(below).st_ino}", src_dir_fd=directory, dst_dir_fd=top)
            return
        _emptied(top, below, depth + 1)
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=directory)


def _names(directory: int) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _attempt(remove: Any, path: str) -> None:
    try:
        remove(path)
    except OSError:
        return


def _attend(tree: Tree, lifeline: int, woken: int, orders: list[int]) -> float:
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
        if orders:
            return 0.0
        if lifeline in ready:
            heard = _hear(lifeline)
            if b"K" in heard:
                return 0.0
            if not heard:
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


def _become(plan: dict[str, Any], tell: int) -> None:
    """In the forked child: turn into the command."""
    try:
        os.setpgid(0, 0)
        for number in _NOT_INHERITED:
            signal.signal(number, signal.SIG_DFL)
        if plan["jail"] is not None:
            enter(plan["jail"])
        if _LINUX:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which would undo it
        if plan["cwd"] is not None:
            _enter_directory(plan["cwd"])
        command: list[str] = plan["command"]
        _run(command, plan["env"])
    except OSError as exc:
        os.write(tell, f"{exc.errno or errno.EIO} {_walls(exc)}".encode()[:400])
    except (ValueError, KeyError, TypeError, AttributeError, ImportError) as exc:  # a plan that is none
        os.write(tell, f"{errno.EIO} {type(exc).__name__}".encode())
    finally:
        os._exit(127)


def _run(command: list[str], env: dict[str, str]) -> None:
    """Become it, looked for as `os.execvpe` does, which imports modules: behind the walls there are none of ours."""
    name, refused = command[0], 0
    for directory in [""] if "/" in name else env.get("PATH", os.defpath).split(":"):
        try:
            os.execve(os.path.join(directory, name), command, env)  # noqa: S606  # comes from the configuration only
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as exc:
            refused = exc.errno or errno.EACCES
    raise OSError(refused or errno.ENOENT, os.strerror(refused or errno.ENOENT))


def _enter_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as exc:
        raise OSError(exc.errno, f"its directory {path!r}: {(exc.strerror or '').lower()}") from exc


def _walls(exc: OSError) -> str:
    """What a jail says of itself; empty for what is the command's own fault."""
    text = exc.strerror or ""
    named = text.lower() != os.strerror(exc.errno or errno.EIO).lower()
    return text if named else ""


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
