"""Where programs are looked for that upstreams are started with."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def find_own_programs() -> None:
    """Put the programs of this Python first on `PATH`: servers that came with the gateway are found wherever it is."""
    own = str(Path(sys.executable).parent)
    others = [entry for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if entry != own]
    os.environ["PATH"] = os.pathsep.join([own, *others])
