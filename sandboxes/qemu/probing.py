"""What a guest is asked to find out about its own walls before the driver is used, and what its answer means."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sandboxes.driver import Place, Probe
from sandboxes.spec import BoxSpec

_PROBE_UID: Final = 1_899_999_998
"""Below those that boxes get."""
_CHECKS: Final = r"""
status() { sed -n "s/^$1:[[:space:]]*//p" /proc/self/status; }
check() { [ "$2" = "$3" ] || echo "fault: $1 is '$2'"; }
may() { if eval "$2" 2>/dev/null; then echo "fault: $1"; fi; }
check user "$(id -u)" 1000
check NoNewPrivs "$(status NoNewPrivs)" 1
check CapEff "$(status CapEff)" 0000000000000000
check CapBnd "$(status CapBnd)" 0000000000000000
check Seccomp "$(status Seccomp)" 2
check "the network" "$(sed 1,2d /proc/net/dev | cut -d: -f1 | tr -d ' \n')" lo
may "core_pattern can be written" "( : >> /proc/sys/kernel/core_pattern )"
may "/usr can be written" "( : > /usr/bin/interlock-probe )"
may "/ can be written" "( : > /interlock-probe )"
may "the workspace holds programs" "cp /bin/true /workspace/true && /workspace/true"
may "a namespace can be had" "unshare -U true"
echo done
"""
PROBE_SPEC: Final = BoxSpec("probe", ("/bin/sh", "-c", _CHECKS), egress=False)


@contextmanager
def probe_place(cache: Path) -> Iterator[Place]:
    """A place for one box, removed afterwards."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="probe-", ignore_cleanup_errors=True) as directory:
        box = Path(directory, "box")
        box.mkdir(mode=0o700)
        yield Place("probe", box, _PROBE_UID if os.geteuid() == 0 else None)


def judged(version: str, status: int, said: str, complaints: str) -> Probe:
    """What the guest's answer means."""
    lines = said.splitlines()
    faults = [line.removeprefix("fault: ") for line in lines if line.startswith("fault: ")]
    if faults:
        return Probe(False, version, "a guest does not hold: " + "; ".join(faults), "do not use it; report this")
    if status != 0 or lines[-1:] != ["done"]:
        last = " | ".join(complaints.splitlines()[-3:])
        return Probe(False, version, f"a guest does not work: {last or f'status {status}'}", "report this")
    return Probe(True, version, features=frozenset({"warm", "seccomp", "landlock"}))
