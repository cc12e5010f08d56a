"""The boxes of a gateway: which drivers it may use, where they are kept, and what an upstream's command is put into."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from anyio import to_thread

from adapters.upstreams.mcp.stdio import Pipe
from gateway.app.egress import Handle, PolicyGate, Resident
from gateway.boxes import Level, Program, StartProgram
from gateway.config import secrets as references
from gateway.config.secrets import file_of, is_reference, resolve_value
from gateway.config.tree import Settings, Upstream
from gateway.errors import ConfigError, SandboxFailure
from gateway.flights import Flights
from sandboxes.binds import bind_of
from sandboxes.boxes import Boxes, Wanted
from sandboxes.cgroups import Cgroups
from sandboxes.closure import Closure, closure_of
from sandboxes.covers import admitted
from sandboxes.driver import Driver
from sandboxes.egress.proxy import EgressProxy
from sandboxes.environments import Described, chosen, load
from sandboxes.guarded import Guarded, guarded
from sandboxes.host.process import ChildProcess, ProcessSpec
from sandboxes.ledger import Ledger
from sandboxes.packages import PackageCache, equipped
from sandboxes.probing import Probes
from sandboxes.spec import Bind
from sandboxes.warm import Prepare, State, Warmth

log = logging.getLogger("interlock.sandboxes")

KERNEL: Final = "INTERLOCK_KERNEL_DIR"
"""Variable with the directory of an unpacked kernel package, where none is installed for QEMU's guests."""
PROBES: Final = "probes.json"
PACKAGES: Final = "packages"
IMAGES: Final = "images"
FROZEN: Final = "frozen"
VIEWS: Final = "views"
NO_ENVIRONMENTS: Final[Mapping[str, Described]] = {}


@dataclass(slots=True)
class Sandboxing:
    """Everything about boxes that the rest of a gateway needs."""

    settings: Settings
    boxes: Boxes
    flights: Flights
    environments: Mapping[str, Described]
    packages: PackageCache
    guard: Guarded
    warmth: Warmth

    def follow(self, changed: Settings) -> None:
        """Guard what the configuration points at from now on; what else it says of boxes is for the next start."""
        sections = {"state": self.settings.state, "sandbox": self.settings.sandbox}
        self.guard = guard_of(changed.model_copy(update=sections), self.environments)

    def pipe_to(self, name: str, upstream: Upstream) -> Pipe:
        """How the processes of an upstream are started. Raises `ConfigError` for what cannot be put into a box."""
        level = Level(upstream.sandbox or self.settings.sandbox.level)
        if level is Level.NONE:
            log.warning('upstream %r runs on the host, outside of any sandbox (sandbox = "none")', name)
            return Pipe(name, _on_the_host(name, upstream), upstream.max_result_bytes)
        described = chosen(self.environments, upstream.environment, f"upstreams.{name}.environment")
        wanted = self._wanted(name, upstream, described, level)

        async def start() -> Program:
            return await self.boxes.start(await self.with_packages(wanted, described))

        async def clone(kind: str, prepare: Prepare) -> tuple[Program, State | None]:
            return await self.warmth.clone(await self.with_packages(wanted, described), kind, prepare)

        return Pipe(name, start, upstream.max_result_bytes, clone if described.warm else None)

    def _wanted(self, name: str, upstream: Upstream, described: Described, level: Level) -> Wanted:
        surroundings = described.spec
        closure, binds = shown_to(name, upstream, described, self.guard)
        for note in closure.notes:
            log.warning("upstream %r: %s", name, note)
        cwd = str(upstream.cwd)
        resolved = {key: resolve_value(value) for key, value in upstream.env.items() if is_reference(value)}
        plain = {key: value for key, value in upstream.env.items() if key not in resolved}
        secret = {key: value for key, value in self.secrets_of(described).items() if key not in plain} | resolved
        env = {**closure.env, **surroundings.env, **plain}
        spec = replace(
            surroundings,
            label=name,
            command=closure.command,
            env={key: value for key, value in env.items() if key not in secret},
            secrets=secret,
            binds=binds,
            cwd=cwd if any(Path(cwd).is_relative_to(bind.place) for bind in binds) else surroundings.cwd,
        )
        strongest = max(level, described.level, key=lambda each: each.rank)
        ceiling = None if described.built_in else described.egress
        return Wanted(spec, strongest, f"upstream {name}", described.digest, ceiling)

    def secrets_of(self, described: Described) -> Mapping[str, str]:
        """The secrets of an environment, resolved. Raises `ConfigError`."""
        return {key: resolve_value(value) for key, value in described.secrets.items()}

    async def with_packages(self, wanted: Wanted, described: Described) -> Wanted:
        """The same with the packages of its environment, which are installed at first use."""
        if not described.packages:
            return wanted
        spec = await equipped(wanted.spec, described.packages, self.packages, log.info)
        return replace(wanted, spec=spec)


def shown_to(name: str, upstream: Upstream, described: Described, guard: Guarded) -> tuple[Closure, tuple[Bind, ...]]:
    """How a command is run in its box, and what the box sees for that. Raises `ConfigError`.

    What is configured, and what the command needs where that does not show it anyway. They are looked at together,
    since a writable one may be round another.
    """
    closure = closure_of(upstream.command, os.environ, upstream.cwd, f"upstreams.{name}.command")
    configured = [*_bound(name, upstream), *described.spec.binds]
    places = {bind.place for bind in configured}
    needed = [bind for bind in closure.binds if bind.place not in places]
    return closure, admitted([*configured, *needed], guard, f"upstreams.{name}.binds")


def _bound(name: str, upstream: Upstream) -> Iterator[Bind]:
    for number, text in enumerate(upstream.binds):
        try:
            yield bind_of(text, Path())
        except ValueError as exc:
            raise ConfigError([(f"upstreams.{name}.binds[{number}]", str(exc))]) from exc


def faults_of(settings: Settings) -> list[tuple[str, str]]:
    """Everything that is wrong with environments, commands and binds, by the key it is at. Nothing is started."""
    try:
        guard = guard_of(settings)
        environments = load(environments_in(settings), references, guard)
        guard = guard_of(settings, environments)
        check_binds(environments, guard)
    except ConfigError as error:
        return list(error.faults)
    except SandboxFailure as exc:
        return [("state.dir", str(exc))]
    faults: list[tuple[str, str]] = []
    for name, upstream in settings.upstreams.items():
        try:
            _check_upstream(name, upstream, environments, guard)
        except ConfigError as error:
            faults.extend(error.faults)
    return faults


def _check_upstream(name: str, upstream: Upstream, environments: Mapping[str, Described], guard: Guarded) -> None:
    if not upstream.in_a_box:
        return
    described = chosen(environments, upstream.environment, f"upstreams.{name}.environment")
    if upstream.command:
        shown_to(name, upstream, described, guard)


def check_binds(environments: Mapping[str, Described], guard: Guarded) -> None:
    """Look at what environments show once more, now that it is known what all of them do. Raises `ConfigError`."""
    for described in environments.values():
        admitted(described.spec.binds, guard, f"{described.name}.toml: binds")


def _on_the_host(name: str, upstream: Upstream) -> StartProgram:
    process = ProcessSpec(
        command=upstream.command,
        env={key: resolve_value(value) for key, value in upstream.env.items()},
        cwd=str(upstream.cwd),
        label=name,
    )
    return lambda: ChildProcess.start(process)


def drivers_of(settings: Settings) -> tuple[Driver, ...]:
    """The drivers that configuration allows, each imported only then."""
    return tuple(_DRIVERS[name](settings) for name in settings.sandbox.drivers)


def _bubblewrap(settings: Settings) -> Driver:
    from sandboxes.bubblewrap import Bubblewrap

    return Bubblewrap(cgroups=Cgroups.found(), shared=settings.state.dir / VIEWS)


def _gvisor(_: Settings) -> Driver:
    from sandboxes.gvisor import Gvisor

    return Gvisor()


def _qemu(settings: Settings, accelerator: Literal["kvm", "tcg"] = "kvm") -> Driver:
    from sandboxes.qemu.driver import Qemu

    kernel = os.environ.get(KERNEL)
    return Qemu(accelerator, settings.state.dir / IMAGES, Path(kernel) if kernel else None)


def _microsandbox(_: Settings) -> Driver:
    from sandboxes.microsandbox import Microsandbox

    return Microsandbox()


_DRIVERS: Final[Mapping[str, Callable[[Settings], Driver]]] = {
    "bubblewrap": _bubblewrap,
    "gvisor": _gvisor,
    "qemu": _qemu,
    "qemu-tcg": lambda settings: _qemu(settings, "tcg"),
    "microsandbox": _microsandbox,
}


async def isolation_fault(settings: Settings) -> str:
    """Why no box of the configured level can be had here; empty when one can."""
    boxes = Boxes(drivers_of(settings), Ledger.of(settings.state.dir), Probes(settings.state.dir / PROBES))
    try:
        await boxes.choose(Level(settings.sandbox.level))
    except SandboxFailure as exc:
        return str(exc)
    return ""


def guard_of(settings: Settings, environments: Mapping[str, Described] = NO_ENVIRONMENTS) -> Guarded:
    """What no box may see: the state, the configuration and every secret that it points at."""
    state = settings.state.dir.absolute()
    private = dict.fromkeys((state, Ledger.of(state).root), "the gateway's own state")
    private |= dict.fromkeys(_databases(settings.state.url), "the gateway's own state")
    if settings.source is not None:
        private[settings.source.path.absolute()] = "the gateway's configuration"
    texts = [*_texts(settings.model_dump()), *(text for one in environments.values() for text in one.secrets.values())]
    files = [path for text in texts if (path := file_of(text)) is not None]
    private |= dict.fromkeys(files, "a secret of the gateway's configuration")
    steering = {settings.policy.path.absolute(): "the policies", environments_in(settings): "the environments"}
    return guarded(private, {**steering, **_run_on_the_host(settings)}, written=_written(settings, environments))


def _databases(url: str) -> Iterator[Path]:
    """The file of a database, and what SQLite keeps beside it."""
    parts = urlsplit(url)
    if parts.scheme.startswith("sqlite") and len(parts.path) > 1:
        path = Path(parts.path[1:]).absolute()
        yield from (path, *(path.with_name(path.name + ending) for ending in ("-wal", "-shm", "-journal")))


def _run_on_the_host(settings: Settings) -> Mapping[Path, str]:
    """Programs outside of any box, and the files that they are given: a box that writes one would be outside too."""
    found: dict[Path, str] = {}
    for name, upstream in settings.upstreams.items():
        if upstream.command and upstream.sandbox == Level.NONE.value:
            program = shutil.which(upstream.command[0]) or upstream.command[0]
            files = [path for word in (program, *upstream.command[1:]) if (path := upstream.cwd / word).is_file()]
            found |= dict.fromkeys(files, f"what upstream {name!r} runs on the host")
    return found


def _written(settings: Settings, environments: Mapping[str, Described]) -> Mapping[Path, str]:
    boxes: list[tuple[str, Iterable[Bind]]] = [
        (f"upstream {name!r}", _bound(name, upstream)) for name, upstream in settings.upstreams.items()
    ]
    boxes += [(f"environment {name!r}", described.spec.binds) for name, described in environments.items()]
    return {bind.source: f"a box of {whose}" for whose, binds in boxes for bind in binds if bind.writable}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)


def environments_in(settings: Settings) -> Path:
    """The directory of environments."""
    return settings.environments.absolute()


@asynccontextmanager
async def open_sandboxing(settings: Settings, handle: Handle, new_id: Callable[[], str]) -> AsyncIterator[Sandboxing]:
    """Clear up after the last run, and let boxes be started in the block."""
    guard, flights = guard_of(settings), Flights()
    environments = load(environments_in(settings), references, guard)
    guard = guard_of(settings, environments)
    check_binds(environments, guard)
    ledger, cgroups = Ledger.of(settings.state.dir), Cgroups.found()
    swept = await to_thread.run_sync(ledger.sweep, cgroups)
    if swept:
        log.warning("cleared away %d boxes that an earlier run left behind", len(swept))

    def resident(box_id: str) -> Resident:
        living = boxes.get(box_id)
        if living is None:
            raise SandboxFailure("this box is not one that runs")
        wanted = living.wanted
        return Resident(living.facts, wanted.owner or wanted.spec.label, wanted.ceiling)

    gate = PolicyGate(flights, handle, resident, new_id)
    probes = Probes(settings.state.dir / PROBES)
    boxes = Boxes(drivers_of(settings), ledger, probes, EgressProxy(gate), cgroups)
    packages = PackageCache(settings.state.dir / PACKAGES, os.environ)
    try:
        async with boxes.running():
            warmth = Warmth(boxes, settings.state.dir / FROZEN)
            await warmth.forget()
            yield Sandboxing(settings, boxes, flights, environments, packages, guard, warmth)
    finally:
        ledger.close()
