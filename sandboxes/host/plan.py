"""What the reaper is told: which command, in which surroundings, and what to clear away when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

STAGE: Final = "/tmp"  # noqa: S108  # a directory that every Linux has; in the box's own mount namespace it is covered
"""Where a jail gathers what a box may see: `mounts` are put below it, under names that anybody may pass through."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One thing in the stage: a file or directory of the host (`bind`), or memory (`tmpfs`, with its `options`).

    `name` is a single path element. A bind keeps what its file system allows; `read_only` and `no_exec` narrow that,
    and neither can be lifted from inside. Sources are opened before anything is mounted, so none can hide another.
    """

    name: str
    kind: Literal["bind", "tmpfs"]
    source: str = ""
    options: str = ""
    read_only: bool = False
    no_exec: bool = False
    owned: bool = False
    """The owner of a bind's files is shown as the box's user (`idmap.py`), and nothing in the box can make set-user-id
    files any more (`setid.py`); for what the box may write."""
    direct: bool = False
    """The source was resolved when it was checked, so that a symbolic link on the way is somebody's trap: refused."""

    @property
    def path(self) -> str:
        """Where it is found by the command."""
        return f"{STAGE}/{self.name}"


@dataclass(frozen=True, slots=True)
class Jail:
    """What is done to the forked child, in this order, before it becomes the command.

    Join `cgroups` (each a `cgroup.procs`), open the sources of `mounts` and the `files`, get a mount namespace (with a
    user namespace where we are not root), mount, set `rlimits` (names without `RLIMIT_`), become `uid` in `groups`.
    """

    uid: int | None = None
    """Host user and group to become; `None` keeps the gateway's own, in a user namespace that owns the mounts."""
    mounts: tuple[Mount, ...] = ()
    rlimits: Mapping[str, int] = field(default_factory=dict)
    cgroups: tuple[str, ...] = ()
    home: tuple[str, ...] = ()
    """For each of `cgroups` the reaper's own, where it goes back to: then the gateway puts the reaper into them while
    it comes up, rather than the child joining them, since that takes the kernel ten milliseconds (not in version 1)."""
    files: Mapping[int, str] = field(default_factory=dict)
    """Descriptor number (from 10 on) to the file that is open for reading there when the command starts."""
    groups: tuple[int, ...] = ()
    """Supplementary groups, where there is a `uid`: for a device that the box needs, and none otherwise."""


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What the reaper removes when nobody is left, also when the gateway was killed.

    `lock` is held (flock) by the reaper, and says its pid, for as long as anything of the box is alive.
    """

    lock: str = ""
    cgroups: tuple[str, ...] = ()
    directory: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """One command with its exact environment. `jail` is `None` for a process of the host."""

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    jail: Jail | None = None
    leftovers: Leftovers = Leftovers()

    def as_json(self) -> dict[str, object]:
        """The plan as it goes over the lifeline."""
        return asdict(self)
