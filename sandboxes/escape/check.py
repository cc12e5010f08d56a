"""What one attempt to get out is, and how its outcome is judged. Runs inside the box: standard library only."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

Outcome = Literal["blocked", "emulated", "ESCAPED", "unclear"]
Reach = Literal["host", "kernel"]
Result = TypeVar("Result")

_REFUSALS: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EROFS})
"""What a wall answers. Any other error means that a call got past it: `EINVAL` is said by who looks at arguments."""

ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESRCH, errno.ENXIO, errno.ENODEV)
WORK: Final = "/workspace"
TMP: Final = "/tmp"  # noqa: S108  # the box's own
SHM: Final = "/dev/shm"  # noqa: S108  # the box's own


def quietly(do: Callable[[], Result]) -> Result | None:
    """Do something that only prepares a try."""
    try:
        return do()
    except OSError:
        return None


@dataclass(frozen=True)
class Target:
    """What the host has laid out to be found, and what the box was promised. Given on standard input, as JSON."""

    own_kernel: bool = False
    """Whether the box has a kernel of its own (gVisor's sentry, a guest): what only that one grants is `emulated`."""
    canary: str = ""
    """A word that stands in files, in the environment and in the arguments of processes of the host."""
    canary_file: str = ""
    gateway_paths: tuple[str, ...] = ()
    """The gateway's configuration, data and the directories of boxes."""
    sockets: tuple[str, ...] = ()
    """Unix sockets of the host and of other boxes, all listening."""
    abstract: str = ""
    shm_file: str = ""
    pid: int = 0
    """A process of the gateway's user, with the canary in its arguments and environment."""
    port: int = 0
    """Where the host listens on every address, and says the canary."""
    addresses: tuple[str, ...] = ()
    ipc_key: int = 0
    mq_name: str = ""
    disk: tuple[int, int] = (0, 0)
    tmp_bytes: int = 0
    work_bytes: int = 0
    file_bytes: int = 0
    open_files: int = 0
    patience_s: float = 0.3
    """How long a connection is waited for."""

    @staticmethod
    def from_json(text: str) -> Target:
        values: dict[str, Any] = json.loads(text)
        return Target(**values)


@dataclass
class Tries:
    """What one check tried: which tries got past the walls, and how the others were refused."""

    target: Target
    past: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def make(self, what: str, do: Callable[[], Result], *harmless: int) -> Result | None:
        """Do something that must be refused. `harmless` are errors that mean the same here as a refusal."""
        try:
            result = do()
        except OSError as exc:
            name = errno.errorcode.get(exc.errno or 0, str(exc))
            known = exc.errno in _REFUSALS or exc.errno in harmless
            (self.refused if known else self.past).append(f"{what}: {name}")
            return None
        self.past.append(what)
        return result

    def open(self, path: str, flags: int = os.O_RDONLY, *harmless: int) -> None:
        """Open a file that must not be opened. That it is not there is as good as a refusal."""
        what = f"{path} to write" if flags & os.O_ACCMODE else path
        fd = self.make(what, lambda: os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY), *ABSENT, *harmless)
        if fd is not None:
            os.close(fd)

    def entries(self, directory: str) -> list[str]:
        """What is in a directory; none where it cannot be listed."""
        try:
            return sorted(os.listdir(directory))
        except OSError as exc:
            self.refused.append(f"{directory}: {errno.errorcode.get(exc.errno or 0, '?')}")
            return []

    def see(self, what: str, reached: bool) -> None:
        """Note a state of the box that either is a way out or is not."""
        (self.past if reached else self.refused).append(what)

    @property
    def detail(self) -> str:
        return "; ".join(self.past or self.refused)[:400] or "nothing here to try"


@dataclass(frozen=True)
class Check:
    """One way out that is tried.

    `reach` says whose rights a success proves: those of whichever kernel serves the box, or the host's for certain.
    """

    id: str
    title: str
    reach: Reach
    run: Callable[[Tries], None]

    @property
    def how(self) -> str:
        return " ".join((self.run.__doc__ or "").split())

    def outcome(self, tries: Tries) -> Outcome:
        if not tries.past:
            return "blocked"
        return "emulated" if self.reach == "kernel" and tries.target.own_kernel else "ESCAPED"


def collector(checks: list[Check]) -> Callable[..., Callable[[Callable[[Tries], None]], Check]]:
    """A decorator that turns a function into a check of this list."""

    def check(id: str, title: str, reach: Reach = "kernel") -> Callable[[Callable[[Tries], None]], Check]:  # noqa: A002
        def add(run: Callable[[Tries], None]) -> Check:
            made = Check(id, title, reach, run)
            checks.append(made)
            return made

        return add

    return check
