"""How drivers find out whether their boxes hold: one box is made, and a program in it tries its walls."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.boxes import Program
from sandboxes.driver import Place
from sandboxes.spec import BoxSpec

UIDS: Final = {
    "bubblewrap": 1_899_999_999,
    "qemu": 1_899_999_998,
    "gvisor": 1_899_999_997,
    "microsandbox": 1_899_999_996,
}
"""Host users of the boxes made here where the gateway may choose one: nobody's, and below those that boxes get."""

_TRY_WALLS: Final = r"""
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
perl -e 'print "landlock\n" if syscall(444, 0, 0, 1) > 0' 2>/dev/null
echo done
"""
SPEC: Final = BoxSpec("probe", ("/bin/sh", "-c", _TRY_WALLS), egress=False)
"""A box of a Linux kernel of its own or the host's, whose program says what is open that should not be."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the program of `SPEC` found: `faults` are doors that stand open, `failure` says why it could not look."""

    faults: tuple[str, ...] = ()
    failure: str = ""
    landlock: bool = False


@contextmanager
def trial_place(driver: str, parent: Path | None = None) -> Iterator[Place]:
    """A place for one box of `driver`, below `parent` or among the temporary files, removed afterwards."""
    if parent is not None:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix="interlock-probe-", ignore_cleanup_errors=True) as directory:
        box = Path(directory, "box")
        box.mkdir(mode=0o700)
        yield Place("probe", box, UIDS[driver] if os.geteuid() == 0 else None)


async def said_by(program: Program, max_bytes: int = 65_536) -> str:
    """All that a program writes, as text; what is over `max_bytes` is left unread."""
    said = b""
    while len(said) < max_bytes and (piece := await program.receive()):
        said += piece
    return said.decode("utf-8", "replace")


def judged(status: int, said: str, complaints: str) -> Findings:
    """What the program's answer means. One that did not get to its end has found nothing to rely on."""
    lines = said.splitlines()
    faults = tuple(line.removeprefix("fault: ") for line in lines if line.startswith("fault: "))
    if status != 0 or lines[-1:] != ["done"]:
        last = " | ".join(complaints.splitlines()[-3:]).strip(" |")
        return Findings(faults, last or f"status {status}")
    return Findings(faults, landlock="landlock" in lines)
