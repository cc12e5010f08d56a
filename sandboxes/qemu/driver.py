"""Boxes that are virtual machines, by the QEMU of this machine: on KVM, or emulated, which is for tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from gateway.boxes import Level, Program
from gateway.errors import InterlockError, SandboxFailure, UpstreamUnavailable
from sandboxes import walls
from sandboxes.driver import Feature, Overhead, Place, Probe, WarmDriver, facts_of
from sandboxes.host.plan import STAGE
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.inside import variables
from sandboxes.kvm import OPEN_UP
from sandboxes.placing import checked
from sandboxes.qemu import frozen, launch
from sandboxes.qemu.contents import Layer, layers_of, message_for
from sandboxes.qemu.images import Images, serial_of
from sandboxes.qemu.initramfs import agent_entries, archive
from sandboxes.qemu.kernel import find_kernel
from sandboxes.qemu.line import Line
from sandboxes.qemu.machine import OVERHEAD_BYTES, Accelerator, Machine, ram_for
from sandboxes.qemu.trees import Trees
from sandboxes.spec import BoxSpec

_BINARY: Final = "qemu-system-x86_64"
_BOOT_S: Final[Mapping[Accelerator, float]] = {"kvm": 15.0, "tcg": 60.0}
_THAW_S: Final = 30.0
_PROBE_S: Final[Mapping[Accelerator, float]] = {"kvm": 8.0, "tcg": 30.0}
_OWN_THREADS: Final = 64
_VERSION: Final = re.compile(r"version (\d+\.\d+(?:\.\d+)?)")
_INSTALL: Final = "install qemu-system-x86, bubblewrap, e2fsprogs and linux-image-cloud-amd64 (Debian: apt-get install)"


@dataclass(frozen=True, slots=True)
class Equipment:
    """What of this host every machine is made with."""

    qemu: Path
    bwrap: Path
    version: str
    kernel: Path
    initrd: Path


class Qemu:
    """Starts machines. `cache` is a directory for disk images; `kernel` is where a kernel package was unpacked."""

    def __init__(
        self, accelerator: Accelerator, cache: Path, kernel: Path | None = None, binary: str = _BINARY
    ) -> None:
        self._accelerator: Accelerator = accelerator
        self._images = Images(cache)
        self._trees = Trees(self._images)
        self._cache = cache
        self._root = kernel or Path("/")
        self._binary = binary
        self._equipment: Equipment | None = None
        self._lines: weakref.WeakKeyDictionary[Program, Line] = weakref.WeakKeyDictionary()
        self._preparing = anyio.Lock()

    @property
    def name(self) -> str:
        """What configuration and records call it."""
        return "qemu" if self._accelerator == "kvm" else "qemu-tcg"

    @property
    def level(self) -> Level:
        """Without KVM it counts for little more than the box around it."""
        return Level.VM if self._accelerator == "kvm" else Level.VM_EMULATED

    @property
    def overhead(self) -> Overhead:
        """The guest's kernel, QEMU and the relay."""
        return Overhead(OVERHEAD_BYTES[self._accelerator], _OWN_THREADS)

    @property
    def fingerprint(self) -> str:
        """QEMU, the kernel and their age."""
        kernel = find_kernel(self._root)
        found = [shutil.which(self._binary), shutil.which("bwrap"), kernel and str(kernel.image)]
        return " ".join(f"{path}@{os.stat(path).st_mtime_ns}" if path else "-" for path in found)

    async def probe(self) -> Probe:
        """Boot a guest once and try from inside what must not work. Takes 8 seconds at most with KVM, 30 without."""
        seconds = _PROBE_S[self._accelerator]
        version = ""
        try:
            equipment, layers = await self._prepared(walls.SPEC)  # images are made once, outside of the time limit
            version = equipment.version
            with anyio.fail_after(seconds), walls.trial_place("qemu", self._cache) as place:
                async with await self._started(walls.SPEC, place, equipment, layers, seconds) as program:
                    said = await walls.said_by(program)
                    return _judged(version, walls.judged(await program.wait(), said, program.stderr))
        except TimeoutError:
            return Probe(False, version, f"no guest was up and down in {seconds:g} s", self._remedy())
        except (InterlockError, OSError) as exc:
            return Probe(False, version, str(exc), self._remedy() if version else _INSTALL)

    def _remedy(self) -> str:
        if self._accelerator == "kvm":
            return f"{OPEN_UP}, on a host whose KVM boots Linux guests"
        return "look at the load and the memory of this machine"

    async def start(self, spec: BoxSpec, place: Place) -> Program:
        """Boot a machine and start the program in it. Raises `SandboxFailure` and `UpstreamUnavailable`."""
        equipment, layers = await self._prepared(checked(spec))
        return await self._started(spec, place, equipment, layers, _BOOT_S[self._accelerator])

    async def _started(
        self, spec: BoxSpec, place: Place, equipment: Equipment, layers: tuple[Layer, ...], boot_s: float
    ) -> Program:
        disks = tuple(layer.image for layer in layers)
        machine = Machine(self._accelerator, ram_for(spec.limits), tuple(map(serial_of, disks)))
        egress = place.egress is not None and spec.egress
        plan = launch.Launch(
            machine=machine,
            qemu=equipment.qemu,
            bwrap=equipment.bwrap,
            kernel=equipment.kernel,
            initrd=equipment.initrd,
            disks=disks,
            message=message_for(spec, layers, egress=egress),
            boot_s=boot_s,
        )
        return await self._launched(plan, spec, place, egress)

    async def _launched(self, plan: launch.Launch, spec: BoxSpec, place: Place, egress: bool) -> Program:
        """Have the reaper start it, and wait until its program runs."""
        facts = facts_of(self, (await self._equipped()).version, place)
        async with Line.awaited(place.directory, place.uid) as line:
            jail = await to_thread.run_sync(launch.laid_out, plan, place)
            env = launch.environment(variables(spec, egress))
            hidden = (*spec.env.values(), *spec.secrets.values())
            child = await ChildProcess.start(
                ProcessSpec(
                    launch.command(),
                    env,
                    label=spec.label,
                    jail=jail,
                    leftovers=place.leftovers,
                    facts=facts,
                    secrets=hidden,
                )
            )
            try:
                await self._up(line, child, spec, plan.boot_s)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await child.stop(stdin_wait_s=0, term_wait_s=0)
                raise
            self._lines[child] = line.kept()
            weakref.finalize(child, line.close)
        return child

    async def _up(self, line: Line, child: ChildProcess, spec: BoxSpec, boot_s: float) -> None:
        news, why = await line.news(boot_s + 5)
        if news == "ready":
            return
        if news == "failed":
            raise UpstreamUnavailable(f"upstream {spec.label!r} cannot be started: {why}: {spec.command[0]!r}")
        if news != "broken":
            with anyio.move_on_after(2):
                await child.wait()
            why = child.obituary()
        raise SandboxFailure(f"{spec.label!r}: no virtual machine for it: {why}")

    async def freeze(self, spec: BoxSpec, place: Place, program: Program, directory: Path) -> None:
        """Write the machine as it is now into `directory`; the box itself ends. Raises `SandboxFailure`."""
        if spec.secrets:
            raise SandboxFailure(f"{spec.label!r}: a box that was given secrets is never written to disk")
        line = self._lines.pop(program, None)
        if line is None:
            raise SandboxFailure(f"{spec.label!r}: not a box of this driver, or frozen already")
        equipment = await self._equipped()
        with line:
            try:
                state = await to_thread.run_sync(frozen.prepare, place.directory, directory, equipment.version)
                with open(state, "xb") as file:  # noqa: ASYNC230  # nothing is read or written here
                    await line.order_freeze(file.fileno())
            except OSError as exc:
                raise SandboxFailure(f"{spec.label!r}: the machine cannot be written: {exc.strerror or exc}") from exc
            finally:
                with anyio.CancelScope(shield=True):
                    await program.stop()

    async def thaw(self, spec: BoxSpec, place: Place, directory: Path) -> Program:
        """Start a clone, which goes on where the frozen machine was, its entropy and clock fresh.

        Raises `SandboxFailure`.
        """
        if spec.secrets:
            raise SandboxFailure(f"{spec.label!r}: a clone cannot be given secrets, for its program runs already")
        equipment = await self._equipped()
        kept = await to_thread.run_sync(frozen.load, directory, equipment.version, self._accelerator)
        plan = launch.Launch(
            machine=kept.machine,
            qemu=equipment.qemu,
            bwrap=equipment.bwrap,
            kernel=kept.kernel,
            initrd=kept.initrd,
            disks=kept.disks,
            message={},
            boot_s=_THAW_S,
            state=kept.state,
        )
        return await self._launched(plan, spec, place, place.egress is not None and spec.egress)

    async def _prepared(self, spec: BoxSpec) -> tuple[Equipment, tuple[Layer, ...]]:
        equipment = await self._equipped()
        async with self._preparing:
            return equipment, await to_thread.run_sync(layers_of, spec, self._images, self._trees)

    async def _equipped(self) -> Equipment:
        async with self._preparing:
            if self._equipment is None or not self._equipment.initrd.exists():
                self._equipment = await to_thread.run_sync(self._equip)
            return self._equipment

    def _equip(self) -> Equipment:
        qemu, bwrap, kernel = shutil.which(self._binary), shutil.which("bwrap"), find_kernel(self._root)
        if qemu is None or bwrap is None:
            raise SandboxFailure(f"there is no {'bwrap' if qemu else self._binary!r} here; {_INSTALL}")
        for program in (qemu, bwrap):
            if os.path.abspath(program).startswith(f"{STAGE}/"):
                raise SandboxFailure(f"{program} is below {STAGE}, which boxes have of their own; install it elsewhere")
        if kernel is None:
            raise SandboxFailure(f"there is no kernel for clouds below {str(self._root)!r}; {_INSTALL}")
        if self._accelerator == "kvm" and not os.path.exists("/dev/kvm"):
            raise SandboxFailure("there is no /dev/kvm here")
        try:
            told = subprocess.run([qemu, "--version"], capture_output=True, timeout=10, check=True)  # noqa: S603  # found on PATH
            found = _VERSION.search(told.stdout.decode("utf-8", "replace"))
            initrd = self._images.keep(archive(agent_entries(kernel.modules)), "cpio")
            image = self._images.keep(kernel.image.read_bytes(), "kernel")
        except (OSError, subprocess.SubprocessError) as exc:
            raise SandboxFailure(f"no guest can be made: {exc}") from exc
        version = f"{found[1] if found else 'unknown'} linux-{kernel.version}"
        return Equipment(Path(qemu), Path(bwrap), version, image, initrd)


def _judged(version: str, found: walls.Findings) -> Probe:
    if found.faults:
        return Probe(False, version, "a guest does not hold: " + "; ".join(found.faults), "do not use it; report this")
    if found.failure:
        return Probe(False, version, f"a guest does not work: {found.failure}", "report this")
    features: set[Feature] = {"warm", "seccomp"}
    return Probe(True, version, features=frozenset(features | {"landlock"} if found.landlock else features))


_: type[WarmDriver] = Qemu
