"""Kills what a killed reaper left behind, found by session and by a mark in the environment (Linux)."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

_ROUNDS: Final = 5
"""A process may fork while the list is read; its child is found in the next round."""


def kill_strays(session: int, mark: str) -> int:
    """Kill every process of ours in that session or with `mark` (`NAME=value`) in its environment. Returns how many."""
    killed: set[int] = set()
    if os.path.exists(f"/proc/{session}"):  # its leader is gone, so that is somebody new of the same number
        session = -1
    for _ in range(_ROUNDS):
        found = [pid for pid in _processes() if pid not in killed and _belongs(pid, session, mark.encode())]
        if not found:
            break
        for pid in found:
            killed.add(pid)
            _kill(pid)
    return len(killed)


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:  # no /proc here: the kernel's own means are all there is
        return []


def _belongs(pid: int, session: int, mark: bytes) -> bool:
    if pid == os.getpid():
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(stat[3]) == session or mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, IndexError):  # gone meanwhile, or somebody else's
        return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
