"""The driver `microsandbox`: programs in a microVM (libkrun) of their own, on Linux hosts with a KVM that works.

`microsandbox_plan.py` says what a box consists of; `microsandbox_run.py` runs as its host user, makes the machine and
is the program to us. Only what needs no machine is tested everywhere. The rest needs a host on which KVM boots guests:
there the suites that run every driver (escape, real servers) run this one too, and elsewhere they say why they do not.
"""

from __future__ import annotations

import subprocess
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from gateway.boxes import Level, Program
from gateway.errors import InterlockError, SandboxFailure, UpstreamTimeout, UpstreamUnavailable
from sandboxes import inside, kvm, walls
from sandboxes.driver import Driver, Overhead, Place, Probe, facts_of
from sandboxes.host.plan import Jail
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.microsandbox_plan import COMMAND, ENV, write_machine
from sandboxes.placing import checked
from sandboxes.spec import MIB, BoxSpec

INSTALL: Final = "pip install 'interlock-gateway[microsandbox]' (Linux with KVM)"
_PACKAGE: Final = "microsandbox"
_DOCTOR_S: Final = 5.0


class Microsandbox:
    """Starts machines. `boot_s` is how long a probe may take to boot one."""

    name: Final = "microsandbox"
    level: Final = Level.VM
    overhead: Final = Overhead(256 * MIB, 64)

    def __init__(self, *, boot_s: float = 20.0) -> None:
        self._boot_s = boot_s

    @property
    def fingerprint(self) -> str:
        """The package and the age of its runtime: booting a guest to find out takes long."""
        runtime = _runtime()
        return "" if runtime is None else f"{_version()}:{runtime.stat().st_mtime_ns}"

    async def probe(self) -> Probe:
        """Ask the package's own doctor, then boot a guest. Never raises."""
        runtime = _runtime()
        if runtime is None:
            return Probe(False, "", "the package microsandbox is not installed", INSTALL)
        refusal = await to_thread.run_sync(_doctor, runtime)
        if refusal is not None:
            return refusal
        if not kvm.is_open():
            return Probe(False, _version(), f"users of boxes may not open {kvm.KVM}", kvm.OPEN_UP)
        reason = await self._booted()
        return Probe(not reason, _version(), reason, "use a host on which KVM boots guests" if reason else "")

    async def start(self, spec: BoxSpec, place: Place) -> Program:
        """Start the program in a machine of its own. What is wrong with either shows as its end."""
        runtime = _runtime()
        if runtime is None:
            raise SandboxFailure(f"the package microsandbox is not there (any more): {INSTALL}")
        try:
            mounts = write_machine(checked(spec), place, runtime.parents[3])
        except OSError as exc:
            raise SandboxFailure(f"the box for {spec.label!r} cannot be written: {exc}") from exc
        process = ProcessSpec(
            COMMAND,
            env=ENV,
            label=spec.label,
            jail=Jail(place.uid, mounts, {"core": 0}, place.cgroup_procs, groups=kvm.groups()),
            leftovers=place.leftovers,
            facts=facts_of(self, _version(), place),
            secrets=tuple(spec.secrets.values()),
        )
        try:
            return await ChildProcess.start(process)
        except (UpstreamUnavailable, UpstreamTimeout) as exc:  # of our relay, not of the program
            raise SandboxFailure(f"no machine can be made for {spec.label!r}: {exc}") from exc

    async def _booted(self) -> str:
        """Boot a guest. Returns why that failed, or nothing."""
        spec = BoxSpec("microsandbox's probe", ("/bin/sh", "-c", "id -u; ls /sys/class/net"), egress=False)
        try:
            with walls.trial_place(self.name) as place, anyio.fail_after(self._boot_s):
                return await _answered(await self.start(spec, place))
        except TimeoutError:
            return f"no guest booted within {self._boot_s:g} s"
        except (OSError, InterlockError) as exc:
            return str(exc)


async def _answered(program: Program) -> str:
    async with program:
        told = (await walls.said_by(program, 4096)).split()
        return "" if told == [str(inside.UID), "lo"] else f"a guest fails: {program.obituary()}"


def _runtime() -> Path | None:
    """The program that makes machines, found without loading the package (42 MB of it)."""
    found = find_spec(_PACKAGE)
    for location in found.submodule_search_locations or () if found else ():
        program = Path(location) / "_bundled" / "bin" / "msb"
        if program.is_file():
            return program
    return None


def _version() -> str:
    return metadata.version(_PACKAGE)


def _doctor(runtime: Path) -> Probe | None:
    """What the package says of this host, if it is not content: a tenth of a second instead of many."""
    with tempfile.TemporaryDirectory(prefix="interlock-probe-") as home:
        try:
            said = subprocess.run(  # noqa: S603  # the package's own program
                (str(runtime), "doctor"),
                env={"PATH": "/usr/bin:/bin", "MSB_HOME": home},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_DOCTOR_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as exc:
            return Probe(False, _version(), f"{runtime} doctor does not answer: {exc}", INSTALL)
    return (
        None if said.returncode == 0 else refusal_in(_version(), (said.stderr + said.stdout).decode(errors="replace"))
    )


def refusal_in(version: str, text: str) -> Probe:
    """The doctor's error as the reason, its advice as the remedy."""
    lines = [line.strip() for line in text.splitlines()]
    errors = [line.removeprefix("error:").strip() for line in lines if line.startswith("error:")]
    advice = [line.removeprefix("→").strip() for line in lines if line.startswith("→")]
    reason = (errors or ["its doctor finds that machines cannot run here"])[0]
    return Probe(False, version, reason[:300], "; ".join(advice)[:600] or INSTALL)


_: type[Driver] = Microsandbox
