"""What boxes cost: each driver's starts, clones, lines and memory, beside the plain process of the same rounds.

Medians of all rounds, with the tenth and the ninetieth percentile; nothing is left out but one warm-up of each kind.
The drivers are made as the gateway makes them, and a driver that does not work here is named with its reason.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, TypeAlias, get_args

from gateway.app.boxes import drivers_of
from gateway.config import Settings
from gateway.config.fields import DriverName
from gateway.errors import InterlockError
from sandboxes.cgroups import Cgroups
from sandboxes.driver import Driver
from tests.bench.box_clones import line_clone_rows, mcp_clone_rows
from tests.bench.box_lines import line_rows
from tests.bench.box_sessions import hand_out_rows, memory_rows
from tests.bench.box_starts import start_rows
from tests.bench.figures import Row, Unmeasured, table
from tests.bench.rooms import Room

NAMES: Final[tuple[str, ...]] = tuple(reversed(get_args(DriverName)))

Step: TypeAlias = tuple[str, Callable[[], Awaitable[list[Row]]]]


@dataclass(frozen=True, slots=True)
class Effort:
    """How often each thing is done with one driver; 0 leaves it out."""

    starts: int
    clones: int
    lines: int
    hand_outs: int
    boxes: int
    mcp: bool = True
    """Whether a real MCP server is frozen too, which takes an emulated machine half a minute."""


QUICK_BOXES: Final = Effort(starts=30, clones=0, lines=500, hand_outs=30, boxes=50)
SENTRIES: Final = Effort(starts=10, clones=10, lines=500, hand_outs=10, boxes=10)
MACHINES: Final = Effort(starts=3, clones=5, lines=200, hand_outs=0, boxes=2)
FULL: Final[Mapping[str, Effort]] = {"bubblewrap": QUICK_BOXES, "gvisor": SENTRIES}
"""What is not in it is a virtual machine."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured, and how busy that was."""

    cores: int
    kernel: str
    python: str
    root: bool
    cgroups: tuple[str, ...]
    load_before: tuple[float, ...]
    load_after: tuple[float, ...]


@dataclass(slots=True)
class Report:
    """All that was found out."""

    machine: Machine
    drivers: dict[str, str] = field(default_factory=dict)
    """Name to version, or to why it does not work."""
    rows: list[Row] = field(default_factory=list)
    faults: list[Unmeasured] = field(default_factory=list)

    def as_json(self) -> str:
        """For programs."""
        found = {
            "machine": asdict(self.machine),
            "drivers": self.drivers,
            "rows": [row.as_json() for row in self.rows],
            "unmeasured": [asdict(fault) for fault in self.faults],
        }
        return json.dumps(found, indent=2)

    def as_text(self) -> str:
        """For people."""
        return "\n".join([*_facts(self), "", table(self.rows, self.faults)])


def _facts(report: Report) -> Iterator[str]:
    machine = report.machine
    load = " -> ".join(" ".join(f"{value:.2f}" for value in each) for each in (machine.load_before, machine.load_after))
    limited = ", ".join(machine.cgroups) or "nothing (no control groups to be had)"
    user = "root" if machine.root else "not root"
    yield f"{machine.cores} cores, Linux {machine.kernel}, Python {machine.python}, {user}"
    yield f"load average before -> after: {load}; control groups limit {limited}"
    yield from (f"{name}: {said}" for name, said in report.drivers.items())


async def measure(place: Path, names: Sequence[str] = (), efforts: Mapping[str, Effort] = FULL) -> Report:
    """Measure these drivers, or all there are. What fails stands in the report."""
    before, cgroups = os.getloadavg(), Cgroups.found()
    report = Report(_machine(cgroups, before))
    for driver in _drivers(place, names or NAMES):
        room = await _entered(driver, place / driver.name, cgroups, report)
        if room is not None:
            await _measured(room, efforts.get(driver.name, MACHINES), report)
    report.machine = _machine(cgroups, before)
    return report


def _machine(cgroups: Cgroups, before: tuple[float, ...]) -> Machine:
    return Machine(
        cores=os.cpu_count() or 1,
        kernel=platform.release(),
        python=platform.python_version(),
        root=os.geteuid() == 0,
        cgroups=tuple(sorted(cgroups.limits)),
        load_before=before,
        load_after=os.getloadavg(),
    )


def _drivers(place: Path, names: Sequence[str]) -> tuple[Driver, ...]:
    """As the gateway makes them, with a state directory of our own."""
    settings = Settings.model_validate({"state": {"dir": place / "state"}, "sandbox": {"drivers": tuple(names)}})
    return drivers_of(settings)


async def _entered(driver: Driver, place: Path, cgroups: Cgroups, report: Report) -> Room | None:
    probe = await driver.probe()
    if not probe.ok:
        report.drivers[driver.name] = " ".join(f"does not work here: {probe.reason}; {probe.remedy}".split())
        return None
    report.drivers[driver.name] = f"{probe.version} ({', '.join(sorted(probe.features)) or 'no features'})"
    return Room(driver, probe, place, cgroups)


async def _measured(room: Room, effort: Effort, report: Report) -> None:
    for what, step in _steps(room, effort):
        try:
            report.rows += await step()
        except* (InterlockError, OSError) as faults:  # TimeoutError is one, and task groups raise groups
            report.faults.append(Unmeasured(room.name, what, _reason(faults)))


def _reason(fault: BaseException) -> str:
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return f"{type(fault).__name__}: {fault}"


def _steps(room: Room, effort: Effort) -> Iterator[Step]:
    warm = "warm" in room.probe.features
    if effort.starts:
        yield "starts", lambda: start_rows(room, effort.starts)
    if effort.clones and warm:
        yield "clones of a server of lines", lambda: line_clone_rows(room, effort.clones)
    if effort.clones and warm and effort.mcp:
        yield "clones of an MCP server", lambda: mcp_clone_rows(room, effort.clones)
    if effort.hand_outs:
        yield "hand-out", lambda: hand_out_rows(room, effort.hand_outs)
    if effort.lines:
        yield "lines", lambda: line_rows(room, effort.lines)
    if effort.boxes:
        yield "memory", lambda: memory_rows(room, effort.boxes)
