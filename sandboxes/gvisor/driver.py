"""The driver `gvisor`: programs behind a kernel in user space, which can be frozen once they are initialised.

The jail gives up the gateway's rights first, so no part of gVisor ever runs as the host's root. Clones of a frozen box
share what the program itself remembers, such as the state of a pseudo-random generator of its own (Python's `random`),
and the layout of its memory; what they ask the kernel for (`os.urandom`, `getrandom`) is always new.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from gateway.boxes import Level, Program
from gateway.errors import SandboxFailure
from sandboxes.driver import Place, Probe, WarmDriver, facts_of
from sandboxes.gvisor import frozen, runsc
from sandboxes.gvisor.bundle import Bundle
from sandboxes.gvisor.launch import checkpoint, launch
from sandboxes.gvisor.probe import INSTALL, probed
from sandboxes.gvisor.room import OVERHEAD
from sandboxes.host.plan import Mount
from sandboxes.placing import checked
from sandboxes.spec import BoxSpec


class Gvisor:
    """Starts boxes with the `runsc` on the PATH, in /usr/sbin, or the one that is named.

    The seconds are how long it may take to build a box, to write one down, and to probe.
    """

    name: Final = "gvisor"
    level: Final = Level.GVISOR
    overhead: Final = OVERHEAD
    fingerprint: Final = ""

    def __init__(
        self, program: str | None = None, *, start_s: float = 30.0, freeze_s: float = 60.0, probe_s: float = 20.0
    ) -> None:
        self._configured = program
        self._start_s = start_s
        self._freeze_s = freeze_s
        self._probe_s = probe_s
        self._version = ""

    async def probe(self) -> Probe:
        """Find the program, ask its version, and start a box that looks round. Never raises."""
        found = await probed(self.start, runsc.find(self._configured), self._probe_s)
        self._version = found.version
        return found

    async def start(self, spec: BoxSpec, place: Place) -> Program:
        """Start the program in a box; returns when the sandbox stands. What is wrong with the program shows later."""
        return await self._launch(spec, place, runsc.RUN)

    async def freeze(self, spec: BoxSpec, place: Place, program: Program, directory: Path) -> None:
        """Write the box as it is now into `directory`; the box itself ends.

        Raises `SandboxFailure`, also when a connection through its egress socket is open: gVisor cannot keep those.
        """
        part = directory / f"{runsc.IMAGE}.{place.id}"
        try:
            try:
                await self._checkpoint(spec, place, part)
            finally:
                with anyio.CancelScope(shield=True):
                    await program.stop()
            frozen.take_over(part)  # only now is nobody left who could change it
            part.rename(directory / runsc.IMAGE)
        except OSError as exc:
            raise SandboxFailure(f"{spec.label!r} cannot be frozen: {exc}") from exc
        finally:
            shutil.rmtree(part, ignore_errors=True)

    async def thaw(self, spec: BoxSpec, place: Place, directory: Path) -> Program:
        """Start a clone. Its relay still listens, and leads to the clone's own egress socket.

        Raises `SandboxFailure`. An image that cannot be read shows later, as the end of the program.
        """
        _refuse_secrets(spec)
        image = Mount(runsc.IMAGE, "bind", str(directory / runsc.IMAGE), read_only=True)
        if not (directory / runsc.IMAGE).is_dir():
            raise SandboxFailure(f"{spec.label!r}: there is no frozen box in {directory}")
        return await self._launch(spec, place, runsc.RESTORE, (image,))

    async def _launch(self, spec: BoxSpec, place: Place, command: Sequence[str], more: Sequence[Mount] = ()) -> Program:
        program = self._program()
        if not self._version:
            self._version = await self._asked(program)
        bundle = Bundle(checked(spec), place.egress if spec.egress else None)
        mounts = (*bundle.mounts(place.directory, program), *more)
        facts = facts_of(self, self._version, place)
        return await launch(bundle, place, command, mounts, facts, deadline_s=self._start_s)

    async def _checkpoint(self, spec: BoxSpec, place: Place, image: Path) -> None:
        _refuse_secrets(spec)
        program = self._program()
        frozen.prepare(image, place.uid)
        mounts = (
            Mount(runsc.STATE, "bind", str(place.directory / runsc.STATE)),
            Mount(runsc.RUNSC, "bind", str(program), read_only=True),
            Mount(runsc.IMAGE, "bind", str(image)),
        )
        await checkpoint(spec, place, mounts, deadline_s=self._freeze_s)

    async def _asked(self, program: Path) -> str:
        """Its version, which stands in the record of each call, whether there was a probe or not."""
        try:
            return await to_thread.run_sync(runsc.version, program)
        except (OSError, subprocess.SubprocessError) as exc:
            raise SandboxFailure(f"{program} does not tell its version: {exc}") from exc

    def _program(self) -> Path:
        program = runsc.find(self._configured)
        if program is None:
            raise SandboxFailure(f"{self._configured or 'runsc'} is not there (any more): {INSTALL}")
        return program


def _refuse_secrets(spec: BoxSpec) -> None:
    """A program that has its secrets must not go to disk, and a running one cannot be given any."""
    if spec.secrets:
        raise SandboxFailure(f"{spec.label!r} has secrets, so it cannot start from a frozen box; start it cold")


_: type[WarmDriver] = Gvisor
