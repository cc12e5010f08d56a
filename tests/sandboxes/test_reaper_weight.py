"""The supervisor, for which every start of a process waits, loads next to nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from tests.sandboxes.places import ROOT

HEAVY: Final = frozenset(
    {"collections", "contextlib", "dataclasses", "enum", "functools", "inspect", "json", "re", "signal", "typing"}
)
SCRIPT: Final = f"""
import sys
sys.path.append({str(ROOT)!r})
from sandboxes.host.reaper import main
print(*sys.modules)
"""


def test_supervisor_loads_no_module_that_takes_longer_than_its_work() -> None:
    loaded = subprocess.run(
        (sys.executable, "-I", "-S", "-E", "-c", SCRIPT), capture_output=True, text=True, check=True, timeout=20
    ).stdout.split()

    assert "sandboxes.host.jail" in loaded
    assert HEAVY.isdisjoint(loaded)
