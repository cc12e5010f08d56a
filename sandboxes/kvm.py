"""Whether users of boxes can open /dev/kvm, and by which group: as users of their own they are in none otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

KVM: Final = Path("/dev/kvm")
OPEN_UP: Final = "let a group open /dev/kvm (a udev rule with GROUP=kvm, MODE=0660; Debian's and Ubuntu's own)"


def groups(device: Path = KVM) -> tuple[int, ...]:
    """The supplementary groups that a box's user needs for the device: one at most, and never root's."""
    try:
        status = os.stat(device)
    except OSError:
        return ()
    by_group = status.st_mode & 0o066 == 0o060 and status.st_gid != 0
    return (status.st_gid,) if by_group and os.geteuid() == 0 else ()


def is_open(device: Path = KVM) -> bool:
    """Whether a box's user can open it for reading and writing."""
    if os.geteuid() != 0:
        return os.access(device, os.R_OK | os.W_OK)
    try:
        return bool(groups(device)) or os.stat(device).st_mode & 0o006 == 0o006
    except OSError:
        return False
