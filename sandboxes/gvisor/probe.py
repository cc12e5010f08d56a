"""Finds out whether gVisor works here: by starting a box that tells what it could reach."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias

import anyio
from anyio import to_thread

from gateway.boxes import Program
from gateway.errors import InterlockError
from sandboxes import inside, walls
from sandboxes.driver import Feature, Place, Probe
from sandboxes.gvisor import runsc
from sandboxes.spec import BoxSpec

StartBox: TypeAlias = Callable[[BoxSpec, Place], Awaitable[Program]]

INSTALL: Final = (
    "install runsc of 2024-07-29 or newer (Debian 12: apt-get install -t bookworm-backports runsc; "
    "Debian 13: apt-get install runsc)"
)
OPEN_NAMESPACES: Final = (
    "allow unprivileged user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns"
)
_MAX_SAID: Final = 4096
_LOOK: Final = """
echo uid=$(id -u)
while read -r name value; do case $name in CapEff:|CapBnd:) echo $name$value ;; esac; done < /proc/self/status
for net in /sys/class/net/*; do echo net=${net##*/}; done
(echo probe > /proc/sys/kernel/core_pattern) 2>/dev/null && echo core_pattern
(echo probe > /usr/interlock-probe) 2>/dev/null && echo usr
echo done
"""
_EXPECTED: Final = frozenset({f"uid={inside.UID}", "CapEff:" + "0" * 16, "CapBnd:" + "0" * 16, "done"})
_HARMLESS: Final = frozenset({"net=lo", "net=*"})


async def probed(start: StartBox, program: Path | None, deadline_s: float) -> Probe:
    """What is wrong with gVisor here, if anything."""
    if program is None:
        return Probe(False, "", "runsc is not installed", INSTALL)
    try:
        version = await to_thread.run_sync(runsc.version, program)
    except (OSError, subprocess.SubprocessError) as exc:
        return Probe(False, "", f"{program} does not tell its version: {exc}", INSTALL)
    if runsc.too_old(version):
        return Probe(False, version, f"{program} is of {version[:8]}, which is too old", INSTALL)
    reason = await _tried(start, deadline_s)
    if reason:
        return Probe(False, version, reason, OPEN_NAMESPACES if "namespace" in reason else INSTALL)
    return Probe(True, version, features=_features())


def _features() -> frozenset[Feature]:
    always: set[Feature] = {"writable-binds"}
    return frozenset(always | {"warm"} if shutil.which("unshare", path=runsc.ENV["PATH"]) else always)


async def _tried(start: StartBox, deadline_s: float) -> str:
    """Start a box. Returns why it is none, or nothing."""
    spec = BoxSpec("gVisor's probe", ("/bin/sh", "-c", _LOOK), egress=False)
    try:
        with walls.trial_place("gvisor") as place, anyio.fail_after(deadline_s):
            async with await start(spec, place) as program:
                said = await walls.said_by(program, _MAX_SAID)
                return what_is_wrong(said.split("\n"), program.obituary())
    except TimeoutError:
        return f"a box did not end within {deadline_s:g} s"
    except (OSError, InterlockError) as exc:
        return str(exc)


def what_is_wrong(lines: list[str], obituary: str) -> str:
    """Compare what the box told with what it should; empty when it is as it should be."""
    told = frozenset(line for line in lines if line)
    if missing := sorted(_EXPECTED - told):
        return f"a box does not say {', '.join(missing)}: {obituary}"
    if open_doors := sorted(told - _EXPECTED - _HARMLESS):
        return f"a box is not closed: {', '.join(open_doors)[:200]}"
    return ""
