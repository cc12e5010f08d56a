"""Which sandbox drivers work on this machine, found out by using them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import anyio

from gateway.app.boxes import PROBES, drivers_of
from gateway.boxes import Level
from gateway.cli.findings import Finding, good, optional, wrong
from gateway.config import Settings
from sandboxes.driver import Driver, Probe
from sandboxes.probing import Probes

REMEDY = "interlock sandbox doctor"


@dataclass(frozen=True, slots=True)
class Tried:
    """One driver, and what came of using it."""

    name: str
    level: Level
    probe: Probe

    @property
    def words(self) -> str:
        """What it is, on one line."""
        features = f", with {', '.join(sorted(self.probe.features))}" if self.probe.features else ""
        lacking = f"; {self.probe.reason}" if self.probe.reason else ""
        return f"level {self.level}, version {self.probe.version or 'unknown'}{features}{lacking}"


def tried(settings: Settings, progress: Callable[[str], None], *, again: bool = False) -> Iterator[Tried]:
    """Each configured driver, as soon as it was used. `again` does not rely on what was found out before."""
    kept = settings.state.dir / PROBES
    if again:
        kept.unlink(missing_ok=True)
    probes = Probes(kept if settings.state.dir.is_dir() else None)
    for driver in drivers_of(settings):
        if driver.fingerprint:
            progress(f"{driver.name}: starting a machine to see whether one starts; this may take some seconds")
        yield Tried(driver.name, driver.level, anyio.run(_probed, probes, driver))


async def _probed(probes: Probes, driver: Driver) -> Probe:
    return await probes.of(driver)


def strongest(found: list[Tried], needed: Level) -> Tried | None:
    """The driver that boxes of that level would get."""
    enough = [driver for driver in found if driver.probe.ok and driver.level.holds(needed)]
    return max(enough, key=lambda driver: driver.level.rank, default=None)


def isolation(settings: Settings) -> Iterator[Finding]:
    """Each driver, and whether what has to be kept apart can be."""
    found: list[Tried] = []
    for driver in tried(settings, lambda _: None):
        found.append(driver)
        subject = f"sandbox driver {driver.name}"
        if driver.probe.ok:
            yield good(subject, driver.words)
        else:
            installed = (
                f"version {driver.probe.version} is installed and does not work: " if driver.probe.version else ""
            )
            yield optional(subject, f"{installed}{driver.probe.reason}", driver.probe.remedy or REMEDY)
    yield _verdict(settings, found)


def _verdict(settings: Settings, found: list[Tried]) -> Finding:
    needed = Level(settings.sandbox.level)
    chosen = strongest(found, needed)
    if chosen is not None:
        return good("sandboxes", f"level {needed} is asked for, and {chosen.name} gives {chosen.level}")
    what = f"no driver works here that gives level {needed}"
    boxed = [name for name, upstream in settings.upstreams.items() if upstream.in_a_box]
    if boxed:
        return wrong("sandboxes", f"{what}, so these cannot run: {', '.join(boxed)}", REMEDY)
    return optional("sandboxes", f"{what}; no upstream needs one yet", REMEDY)
