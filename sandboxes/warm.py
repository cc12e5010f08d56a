"""Starts clones of boxes that were prepared once and frozen: before any session used them, and never with a secret."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import anyio
from anyio import to_thread

from gateway import codec
from gateway.boxes import Program
from gateway.errors import SandboxFailure, UpstreamTimeout, UpstreamUnavailable
from sandboxes.boxes import Boxes, Wanted
from sandboxes.driver import Driver, Place, Probe, WarmDriver
from sandboxes.spec import BoxSpec

log = logging.getLogger("interlock.sandboxes")

State: TypeAlias = Mapping[str, object]
"""What preparing a program found out, and each clone's user needs: JSON."""
Prepare: TypeAlias = Callable[[Program], Awaitable[State]]

_STATE: Final = "state.json"
_MOST_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True)
class Warmth:
    """Frozen boxes below one directory of the gateway's own, by what they are and what froze them.

    The directory is for one run of the gateway (`forget`): a program that was replaced on disk, or a library that it
    uses, would live on in a frozen box otherwise.

    A box that cannot be frozen, or a driver that does not freeze, is no failure: then each start is a cold one.
    """

    boxes: Boxes
    directory: Path
    _cold: set[str] = field(default_factory=set)
    _locks: dict[str, anyio.Lock] = field(default_factory=dict)

    async def forget(self) -> None:
        """Remove every frozen box, whoever made it."""
        await to_thread.run_sync(_gone, self.directory)

    async def clone(self, wanted: Wanted, kind: str, prepare: Prepare) -> tuple[Program, State | None]:
        """A program that is prepared already, in a box of its own, and what preparing found out.

        Where nothing can be frozen it is one that has just started, and `None`. `kind` tells apart ways of preparing.
        Raises what starting a box and `prepare` raise.
        """
        driver, probe = await self.boxes.choose(wanted.level, wanted.driver)
        key = _key(wanted, kind, driver, probe)
        able = _able(driver) if not wanted.spec.secrets and "warm" in probe.features else None
        if able is None or key in self._cold:
            return await self.boxes.start(wanted), None
        try:
            state = await self._frozen(able, wanted, key, prepare)
            return await self.boxes.start(wanted, _Thaw(able, self.directory / key)), state
        except _CannotFreeze as exc:
            if key not in self._cold:
                log.warning("%s: boxes of this kind are started cold from now on: %s", wanted.purpose, exc)
            self._cold.add(key)
            await to_thread.run_sync(_gone, self.directory / key)
        return await self.boxes.start(wanted), None

    async def _frozen(self, driver: WarmDriver, wanted: Wanted, key: str, prepare: Prepare) -> State:
        """What stands with the frozen box, which is made now if there is none."""
        async with self._locks.setdefault(key, anyio.Lock()):
            if key in self._cold:
                raise _CannotFreeze("it was tried a moment ago")
            known = await to_thread.run_sync(_read, self.directory / key)
            return known if known is not None else await self._freeze(driver, wanted, key, prepare)

    async def _freeze(self, driver: WarmDriver, wanted: Wanted, key: str, prepare: Prepare) -> State:
        program, fresh = await self.boxes.start(wanted), self.directory / f"{key}.new"
        try:
            state = await prepare(program)
            living = self.boxes.get(program.facts.id)
            if living is None:
                raise _CannotFreeze("the box ended before it could be frozen")
            await to_thread.run_sync(_emptied, fresh)
            await driver.freeze(wanted.spec, living.place, program, fresh)
            await to_thread.run_sync(_kept, fresh, self.directory / key, state)
        except SandboxFailure as exc:
            raise _CannotFreeze(str(exc)) from exc
        except OSError as exc:
            raise _CannotFreeze(f"nothing can be kept in {self.directory}: {exc.strerror}") from exc
        finally:
            program.kill()
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_gone, fresh)
        return state


class _CannotFreeze(Exception):
    """A box of this kind cannot be frozen, or no clone of it started. Starting one cold is the way out."""


@dataclass(frozen=True, slots=True)
class _Thaw:
    driver: WarmDriver
    frozen: Path

    async def __call__(self, driver: Driver, spec: BoxSpec, place: Place) -> Program:
        try:
            return await self.driver.thaw(spec, place, self.frozen)
        except (SandboxFailure, UpstreamUnavailable, UpstreamTimeout) as exc:
            raise _CannotFreeze(str(exc)) from exc


def _able(driver: Driver) -> WarmDriver | None:
    freezes = callable(getattr(driver, "freeze", None)) and callable(getattr(driver, "thaw", None))
    return driver if freezes else None  # type: ignore[return-value]  # it has what the protocol asks for


def _key(wanted: Wanted, kind: str, driver: Driver, probe: Probe) -> str:
    words = [wanted.spec.digest, wanted.environment, kind, driver.name, probe.version, driver.level.value]
    return hashlib.sha256(codec.canonical(words)).hexdigest()[:32]


def _read(directory: Path) -> State | None:
    """What was kept with a frozen box; `None` when there is none, or what is there is not ours."""
    try:
        with (directory / _STATE).open("rb") as file:
            state: Any = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) else None


def _gone(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def _emptied(directory: Path) -> None:
    _gone(directory)
    directory.mkdir(mode=0o700, parents=True)


def _kept(fresh: Path, place: Path, state: State) -> None:
    """All of it or nothing: the name appears when everything is there."""
    text = codec.dumps(dict(state))
    if len(text) > _MOST_BYTES:
        raise SandboxFailure(f"what stands with it is larger than {_MOST_BYTES} bytes")
    (fresh / _STATE).write_bytes(text)
    _gone(place)
    fresh.rename(place)
