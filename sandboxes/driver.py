"""What a sandbox driver is: a way to start a program behind walls of a certain level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from gateway.boxes import BoxFacts, Level, Program
from sandboxes.host.plan import Leftovers
from sandboxes.spec import BoxSpec

Feature: TypeAlias = Literal["warm", "writable-binds", "landlock", "seccomp", "cgroup"]


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a driver works on this machine, found out by using it, and if not why and what to do.

    The `reason` of one that works is what its boxes have to do without.
    """

    ok: bool
    version: str = ""
    reason: str = ""
    remedy: str = ""
    features: frozenset[Feature] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """What one box is given by the gateway before it starts; nothing of it is ever given to another box.

    `directory` is the gateway's own (mode 0700): drivers keep there what they need, and the reaper removes it when
    nobody of the box is left. `uid` is the box's host user, `None` where the gateway has no right to choose one.
    """

    id: str
    directory: Path
    uid: int | None
    cgroup_procs: tuple[str, ...] = ()
    cgroup_directories: tuple[str, ...] = ()
    egress: Path | None = None
    """The unix socket of the box's egress proxy, listening already."""
    environment: str = ""
    """Digest of the environment, for the record."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """What the box may use up, by the names that obligations use, for the record."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """For `interlock sandbox list`: which upstream or session it is for."""

    @property
    def leftovers(self) -> Leftovers:
        """What is cleared away when the box is over."""
        return Leftovers(str(self.directory / "lock"), self.cgroup_directories, str(self.directory))


@dataclass(frozen=True, slots=True)
class Overhead:
    """What the walls themselves use up of a box's control groups, on top of what the program may have."""

    memory_bytes: int = 0
    processes: int = 0


class Driver(Protocol):
    """Starts boxes. Stateless but for what `probe` found out."""

    @property
    def name(self) -> str: ...

    @property
    def level(self) -> Level: ...

    @property
    def overhead(self) -> Overhead: ...

    @property
    def fingerprint(self) -> str:
        """Changes when what the probe depends on does (programs and their age); empty when the probe is quick."""

    async def probe(self) -> Probe:
        """Use it for real, once, within a deadline. Never raises."""

    async def start(self, spec: BoxSpec, place: Place) -> Program:
        """Start the program in a box. Its streams are the program's; its end is the end of everything in the box.

        Raises `SandboxFailure` when the box cannot be built and `UpstreamUnavailable` when the program cannot run.
        """


class WarmDriver(Driver, Protocol):
    """A driver that can freeze a box and start clones of it."""

    async def freeze(self, spec: BoxSpec, place: Place, program: Program, directory: Path) -> None:
        """Write the box as it is now into `directory`; the box itself ends. Raises `SandboxFailure`."""

    async def thaw(self, spec: BoxSpec, place: Place, directory: Path) -> Program:
        """Start a clone, which goes on where the frozen box was. Its entropy is its own: reseeded before it runs on.

        Raises `SandboxFailure`.
        """


def facts_of(driver: Driver, version: str, place: Place) -> BoxFacts:
    """What stands in the record of each call."""
    return BoxFacts(place.id, driver.name, version, driver.level, place.environment, place.limits)
