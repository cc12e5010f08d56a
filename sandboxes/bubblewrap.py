"""Boxes of level `process`, by bubblewrap: namespaces, a system call filter and Landlock round an unprivileged user."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from gateway.boxes import Level, Program
from gateway.errors import InterlockError, SandboxFailure
from sandboxes import seccomp
from sandboxes.bubblewrap_box import described, put_down
from sandboxes.cgroups import Cgroups
from sandboxes.driver import Driver, Feature, Overhead, Place, Probe, facts_of
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.spec import BoxSpec

_DEADLINE_S: Final = 5.0
_PROBE_UID: Final = 1_899_999_999
"""Below those that boxes get."""
_INSTALL: Final = "install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap)"
_OPEN_UP: Final = (
    "let this user make user namespaces: sysctl user.max_user_namespaces > 0, kernel.unprivileged_userns_clone = 1 "
    "where there is such a thing, and where AppArmor restricts them (Ubuntu) a profile for bwrap or "
    "kernel.apparmor_restrict_unprivileged_userns = 0"
)
_CAN_FORBID_NAMESPACES: Final = (0, 8)
_ONE_WALL_LESS: Final = "without Landlock, one wall less: it needs Linux 5.13 with Landlock switched on, and Perl"

_CHECKS: Final = r"""
status() { sed -n "s/^$1:[[:space:]]*//p" /proc/self/status; }
check() { [ "$2" = "$3" ] || echo "fault: $1 is '$2'"; }
may() { if eval "$2" 2>/dev/null; then echo "fault: $1"; fi; }
check user "$(id -u)" 1000
check NoNewPrivs "$(status NoNewPrivs)" 1
check CapEff "$(status CapEff)" 0000000000000000
check CapBnd "$(status CapBnd)" 0000000000000000
check Seccomp "$(status Seccomp)" 2
check "the network" "$(sed 1,2d /proc/net/dev | cut -d: -f1 | tr -d ' \n')" lo
may "core_pattern can be written" "( : >> /proc/sys/kernel/core_pattern )"
may "/usr can be written" "( : > /usr/bin/interlock-probe )"
may "/ can be written" "( : > /interlock-probe )"
may "the workspace holds programs" "cp /bin/true /workspace/true && /workspace/true"
may "a namespace can be had" "unshare -U true"
perl -e 'print "landlock\n" if syscall(444, 0, 0, 1) > 0' 2>/dev/null
echo done
"""
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
                with tempfile.TemporaryDirectory(prefix="interlock-probe-", ignore_cleanup_errors=True) as directory:
                    return _judged(self._version, *await self._tried(Path(directory)), cgroups=self._cgroups)
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

    async def _tried(self, directory: Path) -> tuple[int, str, str]:
        own = directory / "box"
        own.mkdir(mode=0o700)
        spec = BoxSpec("probe", ("/bin/sh", "-c", _CHECKS), egress=False)
        joined = self._cgroups.make(f"probe-{os.getpid()}", spec.limits)
        uid = _PROBE_UID if os.geteuid() == 0 else None
        async with await self.start(spec, Place("probe", own, uid, joined.procs, joined.directories)) as program:
            said = b""
            while piece := await program.receive():
                said += piece
            return await program.wait(), said.decode("utf-8", "replace"), program.stderr


def _judged(version: str, status: int, said: str, complaints: str, *, cgroups: Cgroups) -> Probe:
    lines = said.splitlines()
    faults = [line.removeprefix("fault: ") for line in lines if line.startswith("fault: ")]
    if faults:
        return Probe(False, version, "a box does not hold: " + "; ".join(faults), "do not use it; report this")
    if status != 0 or lines[-1:] != ["done"]:
        last = " | ".join(complaints.split("\n")[-3:]).strip(" |")
        return Probe(False, version, f"a box cannot be built: {last or f'status {status}'}", _OPEN_UP)
    features: set[Feature] = {"writable-binds", "seccomp"}
    if "landlock" in lines:
        features.add("landlock")
    if "memory" in cgroups.limits:
        features.add("cgroup")
    return Probe(True, version, "" if "landlock" in features else _ONE_WALL_LESS, features=frozenset(features))


_: type[Driver] = Bubblewrap
