"""Runs `runsc` under the reaper, and knows when its sandbox stands."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from gateway.boxes import BoxFacts
from gateway.errors import SandboxFailure, UpstreamTimeout, UpstreamUnavailable
from sandboxes.driver import Place
from sandboxes.gvisor import runsc
from sandboxes.gvisor.bundle import Bundle
from sandboxes.gvisor.room import make_room, rlimits
from sandboxes.host.plan import Jail, Mount
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.spec import BoxSpec

_END_S: Final = 5.0


async def launch(
    bundle: Bundle,
    place: Place,
    command: Sequence[str],
    mounts: Sequence[Mount],
    facts: BoxFacts,
    *,
    deadline_s: float,
) -> ChildProcess:
    """A box of this bundle, which is written while the supervisor comes up. Raises `SandboxFailure`."""
    spec, created = bundle.spec, _Created()

    async def laid_out() -> None:
        await to_thread.run_sync(_laid_out, bundle, place, created)

    try:
        child = await _started(_process(spec, place, command, mounts, facts), laid_out)
        try:
            await _until_created(child, created.fifo, spec.label, deadline_s)
        except BaseException:
            await _ended(child)
            raise
    finally:
        created.close()
    return child


@dataclass(slots=True)
class _Created:
    """The end that we read of the FIFO by which `runsc` says that the sandbox stands."""

    fifo: int = -1

    def open(self, path: Path) -> None:
        """Before `runsc` runs, so that it need not wait for us."""
        self.fifo = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        """Also when it was never opened."""
        if self.fifo >= 0:
            os.close(self.fifo)


def _laid_out(bundle: Bundle, place: Place, created: _Created) -> None:
    try:
        bundle.write(place.directory, place.uid)
        make_room(bundle.spec.limits, place)
        created.open(place.directory / runsc.STATE / runsc.CREATED)
    except OSError as exc:
        raise SandboxFailure(f"the box for {bundle.spec.label!r} cannot be written: {exc}") from exc


async def checkpoint(spec: BoxSpec, place: Place, mounts: Sequence[Mount], *, deadline_s: float) -> None:
    """Have the running box written to the staged image. Raises `SandboxFailure`."""
    process = ProcessSpec(
        runsc.CHECKPOINT, env=runsc.ENV, label=spec.label, jail=Jail(place.uid, tuple(mounts), {"core": 0})
    )
    child = await _started(process)
    try:
        with anyio.fail_after(deadline_s):
            status = await child.wait()
    except TimeoutError as exc:
        raise SandboxFailure(f"{spec.label!r}: writing the frozen box took over {deadline_s:g} s") from exc
    finally:
        await _ended(child)
    if status != 0:
        raise SandboxFailure(f"{spec.label!r} cannot be frozen: {runsc.reason_in(child.stderr)}")


def _process(
    spec: BoxSpec, place: Place, command: Sequence[str], mounts: Sequence[Mount], facts: BoxFacts
) -> ProcessSpec:
    jail = Jail(place.uid, tuple(mounts), rlimits(spec.limits, place), place.cgroup_procs)
    return ProcessSpec(
        tuple(command),
        env=runsc.ENV,
        label=spec.label,
        jail=jail,
        leftovers=place.leftovers,
        facts=facts,
        secrets=tuple(spec.secrets.values()),
    )


async def _started(process: ProcessSpec, meanwhile: Callable[[], Awaitable[None]] | None = None) -> ChildProcess:
    try:
        return await ChildProcess.start(process, meanwhile=meanwhile)
    except (UpstreamUnavailable, UpstreamTimeout) as exc:  # of runsc, not of the program
        raise SandboxFailure(f"gVisor cannot run: {exc}") from exc


async def _ended(child: ChildProcess) -> None:
    child.kill()
    with anyio.CancelScope(shield=True), anyio.move_on_after(_END_S):
        await child.wait()


async def _until_created(child: ChildProcess, created: int, label: str, deadline_s: float) -> None:
    try:
        with anyio.fail_after(deadline_s):
            await _either(child, created)
    except TimeoutError as exc:
        raise SandboxFailure(f"gVisor has built no box for {label!r} in {deadline_s:g} s") from exc
    if not _written(created):
        raise SandboxFailure(f"gVisor cannot build a box for {label!r}: {runsc.reason_in(child.stderr)}")


async def _either(child: ChildProcess, created: int) -> None:
    """Return when the sandbox stands, or all of it is gone."""
    async with anyio.create_task_group() as tasks:

        async def ended() -> None:
            await child.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(ended)
        await anyio.wait_readable(created)
        tasks.cancel_scope.cancel()


def _written(fifo: int) -> bool:
    heard = b""
    with suppress(BlockingIOError):  # whoever has it open writes nothing
        heard = os.read(fifo, 64)
    return bool(heard)
