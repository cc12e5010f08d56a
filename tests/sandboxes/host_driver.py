"""A double of the drivers: its boxes are processes of the host, with a reaper and a place but without any wall."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from gateway.boxes import Level, Program
from gateway.errors import SandboxFailure
from sandboxes.driver import Driver, Feature, Overhead, Place, Probe, WarmDriver, facts_of
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.spec import BoxSpec

WORKING = Probe(True, "1.0", features=frozenset[Feature]({"warm"}))
ECHO = (sys.executable, "-I", "-S", "-u", "-c", "import sys\nfor line in sys.stdin: print(line, end='')")


@dataclass
class HostDriver:
    """`Driver`, and `WarmDriver`, over plain processes. What is frozen is a copy of what the box was to be."""

    name: str = "host"
    level: Level = Level.PROCESS
    answer: Probe = WORKING
    overhead: Overhead = Overhead()  # noqa: RUF009  # frozen
    fingerprint: str = ""
    fail_with: Exception | None = None
    thaw_with: Exception | None = None
    gate: anyio.Event | None = None
    """What a start waits for, if set."""
    starting: anyio.Event = field(default_factory=anyio.Event)
    before: Callable[[Place], object] = lambda place: None
    probes: int = 0
    places: list[Place] = field(default_factory=list)
    specs: list[BoxSpec] = field(default_factory=list)
    frozen: list[BoxSpec] = field(default_factory=list)
    thawed: list[Path] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)

    async def probe(self) -> Probe:
        self.probes += 1
        if self.gate is not None:
            await self.gate.wait()
        return self.answer

    async def start(self, spec: BoxSpec, place: Place) -> Program:
        self.places.append(place)
        self.specs.append(spec)
        self.before(place)
        self.starting.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fail_with is not None:
            raise self.fail_with
        return await self._launch(spec, place)

    async def _launch(self, spec: BoxSpec, place: Place) -> Program:
        process = ProcessSpec(
            spec.command,
            env={**spec.env, **spec.secrets},
            cwd="/",
            label=spec.label,
            leftovers=place.leftovers,
            facts=facts_of(self, self.answer.version, place),
        )
        program = await ChildProcess.start(process)
        self.programs.append(program)
        return program

    async def freeze(self, spec: BoxSpec, place: Place, program: Program, directory: Path) -> None:
        self.frozen.append(spec)
        await program.stop()
        if self.fail_with is not None:
            raise self.fail_with
        (directory / "image").write_text(json.dumps(spec.command), encoding="utf-8")

    async def thaw(self, spec: BoxSpec, place: Place, directory: Path) -> Program:
        self.thawed.append(directory)
        self.places.append(place)
        if self.thaw_with is not None:
            raise self.thaw_with
        try:
            command = json.loads((directory / "image").read_text(encoding="utf-8"))
        except OSError as exc:
            raise SandboxFailure(f"{spec.label!r}: there is no frozen box in {directory}") from exc
        return await self._launch(replace(spec, command=tuple(command)), place)


def lost(directory: Path) -> None:
    """Take what was frozen away."""
    for path in directory.iterdir():
        shutil.rmtree(path)


def an_echo(label: str = "echo", **more: object) -> BoxSpec:
    """A box whose program gives back each line."""
    made = BoxSpec(label, ECHO, egress=False)
    return replace(made, **more)  # type: ignore[arg-type]  # fields by their name


def env_of(text: str) -> Mapping[str, str]:
    """Variables as a program printed them."""
    return {key: value for key, _, value in (line.partition("=") for line in text.splitlines())}


_driver: type[Driver] = HostDriver
_warm: type[WarmDriver] = HostDriver
