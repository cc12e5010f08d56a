"""Boxes of level `process`, by bubblewrap: namespaces, a system call filter and Landlock round an unprivileged user."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from gateway.boxes import Level, Program
from gateway.errors import InterlockError, SandboxFailure
from sandboxes import seccomp, walls
from sandboxes.bubblewrap_box import described, put_down
from sandboxes.cgroups import Cgroups
from sandboxes.driver import Driver, Feature, Overhead, Place, Probe, facts_of
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.spec import BoxSpec

_DEADLINE_S: Final = 5.0
_INSTALL: Final = "install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap)"
_OPEN_UP: Final = (
    "let this user make user namespaces: sysctl user.max_user_namespaces > 0, kernel.unprivileged_userns_clone = 1 "
    "where there is such a thing, and where AppArmor restricts them (Ubuntu) a profile for bwrap or "
    "kernel.apparmor_restrict_unprivileged_userns = 0"
)
_CAN_FORBID_NAMESPACES: Final = (0, 8)
_ONE_WALL_LESS: Final = "without Landlock, one wall less: it needs Linux 5.13 with Landlock switched on, and Perl"
_VERSION: Final = re.compile(r"(\d+)\.(\d+)(\.\d+)*")


class Bubblewrap:
    """Starts boxes with the `bwrap` of this machine. `shared` is a directory for what many boxes have in common."""

    name: Final = "bubblewrap"
    level: Final = Level.PROCESS
    fingerprint: Final = ""
    overhead: Final = Overhead()

    def __init__(
        self,
        command: str = "bwrap",
        cgroups: Cgroups = Cgroups(),  # noqa: B008  # frozen
        machine: str = "",
        shared: Path | None = None,
    ) -> None:
        self._shared = shared
        self._command = command
        self._cgroups = cgroups
        self._machine = machine or platform.machine()
        self._version = ""

    async def probe(self) -> Probe:
        """Build a box and try from inside what must not work. Takes five seconds at most."""
        self._version = ""  # of the program that is there now, if it still is
        try:
            with anyio.fail_after(_DEADLINE_S):
                await self._find_version()
                with walls.trial_place(self.name) as place:
                    return _judged(self._version, await self._tried(place), self._cgroups)
        except TimeoutError:
            return Probe(False, self._version, f"a box was not up and down in {_DEADLINE_S:g} s", "look at the load")
        except (InterlockError, OSError) as exc:
            return Probe(False, self._version, str(exc), _OPEN_UP if self._version else _INSTALL)

    async def start(self, spec: BoxSpec, place: Place) -> Program:
        """Start the program in a box of its own. Raises `SandboxFailure` and `UpstreamUnavailable`."""
        if not self._version:
            await self._find_version()
        program = self._filter()
        box = described(self._path(), self._nested, spec, place)
        return await ChildProcess.start(
            ProcessSpec(
                command=box.command,
                env=box.env,
                label=spec.label,
                jail=box.jail,
                leftovers=place.leftovers,
                facts=facts_of(self, self._version, place),
                secrets=tuple(spec.secrets.values()),
            ),
            meanwhile=lambda: to_thread.run_sync(put_down, spec, place.directory, program, self._shared),
        )

    def _filter(self) -> bytes:
        program = seccomp.program(self._machine)
        if program is None:
            raise SandboxFailure(f"no system call filter is known for {self._machine!r}; use another driver")
        return program

    @property
    def _nested(self) -> bool:
        found = _VERSION.fullmatch(self._version)
        return found is not None and (int(found[1]), int(found[2])) >= _CAN_FORBID_NAMESPACES

    def _path(self) -> str:
        path = shutil.which(self._command)
        if path is None:
            raise SandboxFailure(f"there is no {self._command!r} here; {_INSTALL}")
        return os.path.abspath(path)

    async def _find_version(self) -> None:
        told = await anyio.run_process([self._path(), "--version"], stderr=subprocess.STDOUT, check=False)
        found = _VERSION.search(told.stdout.decode("utf-8", "replace"))
        if told.returncode != 0 or found is None:
            raise SandboxFailure(f"{self._command!r} does not tell its version; {_INSTALL}")
        self._version = found[0]

    async def _tried(self, place: Place) -> walls.Findings:
        joined = self._cgroups.make(f"probe-{os.getpid()}", walls.SPEC.limits)
        place = replace(place, cgroup_procs=joined.procs, cgroup_directories=joined.directories)
        async with await self.start(walls.SPEC, place) as program:
            said = await walls.said_by(program)
            return walls.judged(await program.wait(), said, program.stderr)


def _judged(version: str, found: walls.Findings, cgroups: Cgroups) -> Probe:
    if found.faults:
        return Probe(False, version, "a box does not hold: " + "; ".join(found.faults), "do not use it; report this")
    if found.failure:
        return Probe(False, version, f"a box cannot be built: {found.failure}", _OPEN_UP)
    features: set[Feature] = {"writable-binds", "seccomp"}
    if found.landlock:
        features.add("landlock")
    if "memory" in cgroups.limits:
        features.add("cgroup")
    return Probe(True, version, "" if "landlock" in features else _ONE_WALL_LESS, features=frozenset(features))


_: type[Driver] = Bubblewrap
