"""The Python environment of clients whose libraries do not fit beside ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.gateway import ROOT

INSTALL_S = 600


def peers_python() -> str:
    """Its interpreter; `scripts/env peers` makes it where it is not there. Skips the test where that fails."""
    own = Path(os.environ.get("INTERLOCK_VENV", sys.prefix))
    env = {**os.environ, "INTERLOCK_VENV": str(own)}
    made = subprocess.run(
        ["scripts/env", "peers"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=INSTALL_S, check=False
    )
    if made.returncode:
        pytest.skip(f"scripts/env peers cannot make the environment of requirements/peers.lock: {made.stderr[-300:]}")
    return str(own.with_name(f"{own.name}-peers") / "bin" / "python")
