"""What is to run in a box, and what it may see and use up. Frozen, so that its digest can key pools and snapshots."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway import codec

MIB: Final = 1024 * 1024
WORK: Final = "/workspace"
"""The workspace: a size-limited tmpfs, `noexec,nosuid,nodev`, the home and the first directory of the program."""
PROXY_PORT: Final = 3128
"""Where the box's relay to its egress socket listens, on the box's own loopback."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host that the box sees at `target`, read-only unless it is `writable`.

    A writable one is never executable. Whoever makes a bind has checked that it covers no secret (`closure.py`).
    """

    source: Path
    target: str = ""
    writable: bool = False

    @property
    def place(self) -> str:
        """Where it is in the box: at its own path unless said otherwise."""
        return self.target or str(self.source)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a box may use up; a fork, memory or disk bomb harms only its own box. Sizes are bytes."""

    memory_bytes: int = 512 * MIB
    cpus: float = 1.0
    processes: int = 128
    """Threads count."""
    file_bytes: int = 64 * MIB
    """Largest single file."""
    tmp_bytes: int = 64 * MIB
    work_bytes: int = 128 * MIB
    open_files: int = 1024


@dataclass(frozen=True, slots=True)
class BoxSpec:
    """One kind of box: the command and its surroundings.

    `secrets` are variables like `env`, but given at hand-out only: they are in no digest, no snapshot and no argument
    of any process. A command that is not an absolute path is looked up on the PATH *in the box*.
    """

    label: str
    """What messages call it: the upstream or environment it is for."""
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    binds: tuple[Bind, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Absolute path in the box to content, read-only."""
    base: Path | None = None
    """A root file system to use, read-only; `None` is the host's /usr and what of /etc programs cannot do without."""
    cwd: str = WORK
    limits: Limits = Limits()  # frozen
    egress: bool = True
    """Whether it gets a relay to an egress socket. Without one it has no way out at all; with one, policy decides."""

    @property
    def digest(self) -> str:
        """`sha256:` over everything but label and secrets. Binds count by path: their content may change."""
        content = {
            "command": self.command,
            "env": self.env,
            "binds": [(str(bind.source), bind.place, bind.writable) for bind in self.binds],
            "files": {path: hashlib.sha256(data).hexdigest() for path, data in self.files.items()},
            "base": str(self.base or ""),
            "cwd": self.cwd,
            "limits": [getattr(self.limits, name) for name in Limits.__slots__],
            "egress": self.egress,
        }
        return "sha256:" + hashlib.sha256(codec.canonical(content)).hexdigest()
