"""Says when the configuration or a policy file changed, so that somebody can try to reload."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import Final, TypeAlias

from anyio import to_thread
from watchfiles import awatch

from gateway.config.tree import MODELS

DEBOUNCE_MS: Final = 300
CHECK_MS: Final = 5_000
STEP_MS: Final = 250
MAX_FILES: Final = 10_000

Fingerprint: TypeAlias = Mapping[str, tuple[int, int, int]]


def watch(
    path: Path, policies: Callable[[], Path], *, debounce_ms: int = DEBOUNCE_MS, check_ms: int = CHECK_MS
) -> AsyncGenerator[frozenset[Path]]:
    """The files that changed since this was called, each time some did: `path`, the catalogue of models beside it, and
    everything under `policies()`.

    `policies` is asked again after each change, since the change may be to where they are. Changes are gathered for
    `debounce_ms`; what the system's notifications miss (network file systems) is found every `check_ms`.
    """
    return _changes(path, policies, _look(path, policies()), (debounce_ms, check_ms))


async def _changes(
    path: Path, policies: Callable[[], Path], seen: Fingerprint, pace: tuple[int, int]
) -> AsyncGenerator[frozenset[Path]]:
    while True:
        places = await to_thread.run_sync(_directories, path, policies())
        async with aclosing(_stirrings(places, *pace)) as stirrings:
            async for _ in stirrings:
                now = await to_thread.run_sync(_look, path, policies())
                changed = frozenset(Path(name) for name in now.keys() | seen.keys() if now.get(name) != seen.get(name))
                seen = now
                if changed:
                    yield changed
                if await to_thread.run_sync(_directories, path, policies()) != places:
                    break


async def _stirrings(places: tuple[Path, ...], debounce_ms: int, check_ms: int) -> AsyncGenerator[None]:
    """Something may have changed in one of these directories; at once too, for what came before the watch began.

    A wait in the watcher's thread cannot be cancelled, so it is kept to `STEP_MS`: ending takes no longer than that.
    """
    yield
    checked_s = monotonic()
    async for changes in awatch(
        *places,
        recursive=False,
        watch_filter=None,
        debounce=debounce_ms,
        rust_timeout=STEP_MS,
        yield_on_timeout=True,
    ):
        if changes or monotonic() - checked_s >= check_ms / 1000:
            yield
            checked_s = monotonic()


def _look(path: Path, policies: Path) -> Fingerprint:
    found: dict[str, tuple[int, int, int]] = {}
    for file in (path, path.with_name(MODELS), *_files(policies)):
        try:
            status = file.stat()
        except OSError:
            continue  # gone since it was listed: that is a change too
        found[str(file)] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found


def _files(policies: Path) -> list[Path]:
    found = [policies] if policies.is_file() else []
    for parent, folders, names in os.walk(policies):
        folders[:] = _shown(folders)
        found.extend(Path(parent, name) for name in _shown(names))
    return found[:MAX_FILES]


def _directories(path: Path, policies: Path) -> tuple[Path, ...]:
    found = {path.parent}
    if not policies.is_dir():
        found.add(policies.parent)
    for parent, folders, _ in os.walk(policies):
        folders[:] = _shown(folders)
        found.add(Path(parent))
    return tuple(sorted(place for place in found if place.is_dir()))[:MAX_FILES]


def _shown(names: list[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith((".", "__")))
