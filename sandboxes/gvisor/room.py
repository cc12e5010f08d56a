"""Room for gVisor itself beside what the program in the box may use up.

The sentry keeps the program to its number of processes by itself, but needs host processes and memory of its own for
that: it dies when the host refuses them. How many grows with the limit, so a fixed overhead is not enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sandboxes.cgroups import bounds_memory
from sandboxes.driver import Overhead, Place
from sandboxes.spec import MIB, Limits

OVERHEAD: Final = Overhead(64 * MIB, 64)
_TASKS_EACH: Final = 3
"""Of the host, for each of the box: two and a bit were seen."""
_ADDRESSES_EACH: Final = 16 * MIB
"""What the sentry's memory file grows by for each process, though hardly any of it is ever used."""
_GIB: Final = 1024 * MIB


def make_room(limits: Limits, place: Place) -> None:
    """Raise the limits of the box's own cgroups. Where that cannot be done it has less room, which is safe."""
    for directory in place.cgroup_directories:
        for name, value in _wanted(limits):
            file = Path(directory) / name
            try:
                if file.exists():
                    file.write_text(str(value), encoding="ascii")
            except OSError:
                continue


def rlimits(limits: Limits, place: Place) -> dict[str, int]:
    """Limits of the sentry as a process. All memory of the box is one file of its, which grows by gibibytes.

    Where no cgroup bounds the memory, the largest size of that file does, roughly; a bomb then ends the sentry.
    """
    if bounds_memory(place.cgroup_procs):
        return {"core": 0}
    most = limits.memory_bytes + limits.tmp_bytes * 2 + limits.work_bytes + limits.processes * _ADDRESSES_EACH
    return {"core": 0, "fsize": -(-most // _GIB) * _GIB}


def _wanted(limits: Limits) -> Iterator[tuple[str, int]]:
    """In this order: version 1 refuses less memory with swap than without."""
    memory = limits.memory_bytes + OVERHEAD.memory_bytes
    yield "pids.max", OVERHEAD.processes + _TASKS_EACH * limits.processes
    for name in ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes", "memory.max"):
        yield name, memory
