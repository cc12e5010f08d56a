"""What a process and its children use: CPU time and memory, from the kernel's own books (Linux)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

TICKS: Final = os.sysconf("SC_CLK_TCK")
PROC: Final = Path("/proc")
MIB: Final = 1024 * 1024


def available() -> bool:
    """Whether this system keeps such books."""
    return (PROC / "self" / "smaps_rollup").exists()


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdecimal() else None
        if fields:
            parents[int(entry.name)] = int(fields[1])
    family = [pid]
    for member in family:
        family.extend(child for child, parent in parents.items() if parent == member)
    return family


def _stat(pid: int) -> list[str] | None:
    """The fields of `/proc/PID/stat` after the name: state, parent, ... None when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def cpu_s(pid: int) -> float:
    """Seconds of CPU that the tree used so far, user and system."""
    used = 0
    for member in tree(pid):
        fields = _stat(member)
        used += int(fields[11]) + int(fields[12]) if fields else 0
    return used / TICKS


def pss_mib(pid: int) -> float:
    """Memory of the tree: its own pages plus its share of the common ones."""
    return sum(_entry(member, "smaps_rollup", "Pss:") for member in tree(pid)) / 1024


def own_pss_mib(pid: int) -> float:
    """The same of the process alone."""
    return _entry(pid, "smaps_rollup", "Pss:") / 1024


def rss_mib(pid: int) -> float:
    """Resident memory of the tree."""
    return sum(_entry(member, "status", "VmRSS:") for member in tree(pid)) / 1024


def peak_mib(pid: int) -> float:
    """The most resident memory since `forget_peak`, summed over the tree."""
    return sum(_entry(member, "status", "VmHWM:") for member in tree(pid)) / 1024


def forget_peak(pid: int) -> None:
    """Let `peak_mib` begin anew (proc(5), `clear_refs`)."""
    for member in tree(pid):
        (PROC / str(member) / "clear_refs").write_text("5")


def _entry(pid: int, file: str, label: str) -> int:
    try:
        lines = (PROC / str(pid) / file).read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(label)), 0)
