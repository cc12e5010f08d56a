"""What is known of the drivers on this machine: each is used once for real, and a slow success is kept until reboot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

import anyio

from sandboxes.driver import Driver, Feature, Probe

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class Probes:
    """The probes of drivers, each made once. `kept` is the file for those that are slow; `None` keeps none.

    That a driver works is kept for this boot and for its `fingerprint` (its programs and their age). That it does not
    is found out again at each start: the machine may have been busy, or somebody has followed the remedy. A driver
    without a fingerprint is quick, and is probed at each start.
    """

    kept: Path | None = None
    _answers: dict[str, Probe] = field(default_factory=dict)
    _locks: dict[str, anyio.Lock] = field(default_factory=dict)

    async def of(self, driver: Driver) -> Probe:
        """Whether a driver works, waiting for it to be found out."""
        known = self._answers.get(driver.name)
        if known is not None:
            return known
        async with self._locks.setdefault(driver.name, anyio.Lock()):
            found = self._answers.get(driver.name) or self._remembered(driver) or await self._made(driver)
            self._answers[driver.name] = found
        return found

    async def _made(self, driver: Driver) -> Probe:
        probe = await driver.probe()
        if probe.ok and driver.fingerprint and self.kept is not None:
            self._keep(self.kept, driver, probe)
        return probe

    def _remembered(self, driver: Driver) -> Probe | None:
        if not driver.fingerprint or self.kept is None:
            return None
        answer = _read(self.kept).get(driver.name)
        if not isinstance(answer, dict) or answer.get("of") != _of(driver):
            return None
        return _probe_in(answer)

    def _keep(self, kept: Path, driver: Driver, probe: Probe) -> None:
        """Best effort: what cannot be kept is found out again."""
        answers = dict(_read(kept))
        answers[driver.name] = {
            "of": _of(driver),
            "version": probe.version,
            "reason": probe.reason,
            "remedy": probe.remedy,
            "features": sorted(probe.features),
        }
        try:
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            kept.write_text(json.dumps(answers), encoding="utf-8")
        except OSError:
            return


def _of(driver: Driver) -> list[str]:
    return [_BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else "", driver.fingerprint]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        answers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return answers if isinstance(answers, dict) else {}


def _probe_in(answer: Mapping[str, Any]) -> Probe | None:
    """A kept answer, or `None` for one that we did not write: then it is found out anew."""
    texts = [answer.get(name) for name in ("version", "reason", "remedy")]
    features = answer.get("features")
    if not all(isinstance(text, str) for text in texts) or not isinstance(features, list):
        return None
    known = [name for name in features if name in get_args(Feature)]
    version, reason, remedy = map(str, texts)
    return Probe(True, version, reason, remedy, frozenset(known))
