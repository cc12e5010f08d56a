"""Starts boxes: picks the strongest driver that works here, gives each box a place of its own, and lets it go again."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from gateway.boxes import BoxFacts, Level, Program
from gateway.errors import IsolationUnavailable, SandboxFailure
from sandboxes.ceiling import Ceiling
from sandboxes.cgroups import Cgroups
from sandboxes.driver import Driver, Overhead, Place, Probe
from sandboxes.egress.proxy import EgressProxy
from sandboxes.ledger import Ledger
from sandboxes.probing import Probes
from sandboxes.spec import MIB, BoxSpec, Limits

_FIRST_UID: Final = 1_900_000_000
_UIDS: Final = 200_000_000
"""Host users for boxes of a gateway that runs as root: beyond what systemd, containers and people are given."""
SOCKET: Final = "egress.sock"
_END_S: Final = 10.0
"""How long the end of killed boxes is waited for; their reapers go on regardless."""


def new_uid() -> int | None:
    """A host user that nobody has, where we may choose one."""
    return _FIRST_UID + secrets.randbelow(_UIDS) if os.geteuid() == 0 else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a box is to be: `level` is the least that is enough; `purpose` says for whom, to people.

    `ceiling` is how far its connections may go whatever policy says; `None` where nothing but policy bounds them.
    `driver` picks one of the drivers by name. `owner` is the upstream that the box belongs to, for policy; empty: the
    box's label.
    """

    spec: BoxSpec
    level: Level
    purpose: str
    environment: str = ""
    ceiling: Ceiling | None = None
    driver: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Living:
    """A box that runs."""

    program: Program
    facts: BoxFacts
    wanted: Wanted
    place: Place


class Launch(Protocol):
    """How a driver brings a box up: `start`, or `thaw` of a frozen one."""

    async def __call__(self, driver: Driver, spec: BoxSpec, place: Place) -> Program: ...


@dataclass(slots=True)
class Boxes:
    """The boxes of one gateway. `run` must be running for as long as boxes are started.

    `proxy` serves each box's egress socket; without one there is no way out of any box.
    """

    drivers: Sequence[Driver]
    ledger: Ledger
    probes: Probes
    proxy: EgressProxy | None = None
    cgroups: Cgroups = field(default_factory=Cgroups.found)
    uid_of: Callable[[], int | None] = new_uid
    _living: dict[str, Living] = field(default_factory=dict)
    _group: TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Boxes can be started in the block. Leaving it ends those that are left."""
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                yield
            finally:
                self._group = None
                await self._end_all()
                group.cancel_scope.cancel()

    async def _end_all(self) -> None:
        left = [living.program for living in self._living.values()]
        for program in left:
            program.kill()
        with anyio.move_on_after(_END_S, shield=True):
            for program in left:
                await program.wait()

    def get(self, box_id: str) -> Living | None:
        """A box that runs now."""
        return self._living.get(box_id)

    @property
    def living(self) -> tuple[Living, ...]:
        """All boxes that run now."""
        return tuple(self._living.values())

    async def choose(self, needed: Level, named: str = "") -> tuple[Driver, Probe]:
        """The strongest driver that works here and is enough. Raises `IsolationUnavailable`; never steps down."""
        refusals: list[str] = []
        for driver in sorted(self.drivers, key=lambda driver: -driver.level.rank):
            if named not in ("", driver.name):
                continue
            if not driver.level.holds(needed):
                refusals.append(f"{driver.name} is only of level {driver.level}")
                continue
            probe = await self.probes.of(driver)
            if probe.ok:
                return driver, probe
            refusals.append(f"{driver.name} ({driver.level}) does not work here: {probe.reason}")
        nothing = f"no driver of the name {named!r} is configured" if named else "no sandbox driver is configured"
        found = "; ".join(refusals) or nothing
        raise IsolationUnavailable(
            f"isolation of level {needed} is needed and not available: {found}. `interlock sandbox doctor` says more"
        )

    async def start(self, wanted: Wanted, launch: Launch | None = None) -> Program:
        """Start a box. Raises `IsolationUnavailable`, `SandboxFailure` and the `Upstream*` errors."""
        self._needed_group()
        driver, probe = await self.choose(wanted.level, wanted.driver)
        _check_unmoved(wanted.spec)
        stack = AsyncExitStack()
        try:
            place = await self._place(wanted, driver, probe, stack)
            program = await (launch or _started)(driver, wanted.spec, place)
            if self._group is None:  # nobody would see to its end any more
                program.kill()
            group = self._needed_group()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await stack.aclose()
            raise
        self._living[place.id] = Living(program, program.facts, wanted, place)
        group.start_soon(self._see_to_its_end, place.id, program, stack)
        return program

    async def _place(self, wanted: Wanted, driver: Driver, probe: Probe, stack: AsyncExitStack) -> Place:
        box_id, spec = secrets.token_hex(6), wanted.spec
        uid = self.uid_of()
        try:
            directory = self.ledger.make(
                box_id,
                driver=driver.name,
                version=probe.version,
                level=driver.level,
                environment=wanted.environment,
                purpose=wanted.purpose,
            )
        except OSError as exc:
            raise SandboxFailure(f"{spec.label!r}: no place for a box can be made: {exc.strerror}") from exc
        stack.callback(self.ledger.forget, box_id)
        joined = self.cgroups.make(box_id, _with(driver.overhead, spec.limits))
        stack.callback(self.cgroups.sweep, box_id)
        egress = await self._way_out(box_id, directory, uid, spec, stack)
        return Place(
            box_id,
            directory,
            uid,
            joined.procs,
            joined.directories,
            egress,
            wanted.environment,
            limits_of(spec.limits),
        )

    async def _way_out(
        self, box_id: str, directory: Path, uid: int | None, spec: BoxSpec, stack: AsyncExitStack
    ) -> Path | None:
        if not spec.egress or self.proxy is None:
            return None
        path = directory / SOCKET
        await stack.enter_async_context(_kept(self._needed_group(), self.proxy, box_id, path, uid))
        return path

    def _needed_group(self) -> TaskGroup:
        if self._group is None:
            raise SandboxFailure("the gateway is going down: no box is started any more")
        return self._group

    async def _see_to_its_end(self, box_id: str, program: Program, stack: AsyncExitStack) -> None:
        """Its place is given up once nobody of it is left, whoever ended it."""
        try:
            await program.wait()
        finally:
            if program.exit_status is None:  # else what it said last may not have been read yet
                program.kill()
            del self._living[box_id]
            with anyio.CancelScope(shield=True):
                await stack.aclose()


@asynccontextmanager
async def _kept(group: TaskGroup, proxy: EgressProxy, box_id: str, path: Path, uid: int | None) -> AsyncIterator[None]:
    """Serve a box's egress socket in a task of its own, so that whoever starts the box need not be who ends it."""
    scope, over = anyio.CancelScope(), anyio.Event()

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        try:
            with scope:
                async with proxy.serving(box_id, path, uid):
                    task_status.started()
                    await anyio.sleep_forever()
        finally:
            over.set()

    await group.start(serve)
    try:
        yield
    finally:
        scope.cancel()
        await over.wait()


def _check_unmoved(spec: BoxSpec) -> None:
    """What may be shown was looked at long ago. Somebody who writes beside it may have made it a link since."""
    for bind in spec.binds:
        if os.path.realpath(bind.source) != str(bind.source):
            raise SandboxFailure(
                f"{spec.label!r}: {bind.source} leads elsewhere since it was looked at, so it is not shown to any box; "
                "restart the gateway if that is as it should be"
            )


async def _started(driver: Driver, spec: BoxSpec, place: Place) -> Program:
    return await driver.start(spec, place)


def _with(overhead: Overhead, limits: Limits) -> Limits:
    return replace(
        limits,
        memory_bytes=limits.memory_bytes + overhead.memory_bytes,
        processes=limits.processes + overhead.processes,
    )


def limits_of(limits: Limits) -> Mapping[str, float]:
    """Limits by the names that obligations and environments use."""
    return {
        "memory_mb": limits.memory_bytes / MIB,
        "cpus": limits.cpus,
        "processes": limits.processes,
        "file_mb": limits.file_bytes / MIB,
        "tmp_mb": limits.tmp_bytes / MIB,
        "work_mb": limits.work_bytes / MIB,
        "open_files": limits.open_files,
    }
