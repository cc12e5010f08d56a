"""What a microVM is made of: the plan that `microsandbox_run.py` reads, and the files and mounts that it names.

The machine has no network card. Where the box has a way out it is one vsock port, which leads to the egress socket; a
socat in the box listens where the proxy variables point and passes on to it.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.errors import SandboxFailure
from sandboxes import inside
from sandboxes.driver import Place
from sandboxes.host.plan import STAGE, Mount
from sandboxes.skeleton import open_file, write_root
from sandboxes.spec import MIB, PROXY_PORT, WORK, Bind, BoxSpec

_PLAN, _HOME, _ROOT, _RUN = "plan", "home", "root", "run.py"
_PYTHON, _PACKAGES, _EGRESS = "python", "packages", "egress"
_PROGRAM: Final = Path(__file__).with_name("microsandbox_run.py")
_START: Final = (
    f"import runpy, sys; sys.path.insert(0, '{STAGE}/{_PACKAGES}'); "
    f"runpy.run_path('{STAGE}/{_RUN}', run_name='__main__')"
)
COMMAND: Final = (
    f"{STAGE}/{_PYTHON}/bin/python{sys.version_info.major}.{sys.version_info.minor}",
    *("-I", "-S", "-c", _START, f"{STAGE}/{_PLAN}"),
)
ENV: Final[Mapping[str, str]] = {
    "PATH": "/usr/bin:/bin",
    "HOME": f"{STAGE}/{_HOME}",
    "MSB_HOME": f"{STAGE}/{_HOME}",
    "TMPDIR": f"{STAGE}/{_HOME}",
    "LD_LIBRARY_PATH": f"{STAGE}/{_PYTHON}/lib",
}
_SOCAT: Final = "/usr/bin/socat"
_RELAY: Final = (
    f"{_SOCAT} TCP-LISTEN:{PROXY_PORT},bind=127.0.0.1,fork,reuseaddr VSOCK-CONNECT:2:{PROXY_PORT} "
    '</dev/null >/dev/null 2>&1 & exec "$@"'
)


def write_machine(spec: BoxSpec, place: Place, packages: Path) -> tuple[Mount, ...]:
    """Write the box's files into its directory. Returns what the jail has to stage.

    Raises `OSError` and `SandboxFailure`.
    """
    binds = _binds(spec)
    egress = place.egress if spec.egress else None
    root, home, plan = (place.directory / name for name in (_ROOT, _HOME, _PLAN))
    write_root(root, spec, inside.UID, binds)
    for path, content in spec.files.items():
        _write_file(root, spec, path, content)
    home.mkdir(mode=0o700)
    with open(os.open(plan, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(plan_of(spec, place.id, egress is not None), file)
    if place.uid is not None:
        for owned in (root, home, plan):
            os.chown(owned, place.uid, place.uid)
    return (
        *(Mount(path.name, "bind", str(path)) for path in (root, home)),
        Mount(_PLAN, "bind", str(plan), read_only=True),
        Mount(_RUN, "bind", str(_PROGRAM), read_only=True),
        Mount(_PYTHON, "bind", sys.base_prefix, read_only=True),
        Mount(_PACKAGES, "bind", str(packages), read_only=True),
        *_staged(binds, spec),
        *((Mount(_EGRESS, "bind", str(egress)),) if egress is not None else ()),
    )


def plan_of(spec: BoxSpec, name: str, egress: bool) -> dict[str, object]:
    """The machine and its program, as JSON. Memory sizes are rounded down, and nothing is smaller than a mebibyte."""
    limits = spec.limits
    scratch = {WORK: limits.work_bytes, inside.TMP: limits.tmp_bytes}
    shared = {
        bind.place: {"source": f"{STAGE}/{number}", "writable": bind.writable}
        for number, bind in enumerate(_binds(spec))
    }
    return {
        "name": name,
        "root": f"{STAGE}/{_ROOT}",
        "hostname": inside.HOSTNAME,
        "memory_mib": _mib(limits.memory_bytes),
        "cpus": max(1, math.ceil(limits.cpus)),
        "volumes": {at: {"source": None, "size_mib": _mib(size)} for at, size in scratch.items()} | shared,
        "egress": f"{STAGE}/{_EGRESS}" if egress else None,
        "port": PROXY_PORT,
        "command": [*_relay(spec, egress), *spec.command],
        "cwd": spec.cwd,
        "user": f"{inside.UID}:{inside.UID}",
        "env": inside.variables(spec, egress),
        "rlimits": {
            "nproc": limits.processes,
            "fsize": limits.file_bytes,
            "nofile": limits.open_files,
            "core": 0,
        },
    }


def _mib(size: int) -> int:
    return max(1, size // MIB)


def _binds(spec: BoxSpec) -> tuple[Bind, ...]:
    etc = inside.etc_binds() if spec.base is None else ()
    return (*inside.base_binds(spec), *etc, *spec.binds)


def _staged(binds: Sequence[Bind], spec: BoxSpec) -> tuple[Mount, ...]:
    return tuple(
        Mount(
            str(number),
            "bind",
            str(bind.source),
            read_only=not bind.writable,
            no_exec=bind.writable,
            owned=bind.writable,
            direct=bind in spec.binds,
        )
        for number, bind in enumerate(binds)
    )


def _relay(spec: BoxSpec, egress: bool) -> tuple[str, ...]:
    """What stands in front of the command in the machine."""
    if not egress:
        return ()
    if not os.path.isfile((spec.base or Path("/")) / _SOCAT.lstrip("/")):
        raise SandboxFailure(
            f"{spec.label!r}: there is no {_SOCAT} in the box, which the relay to the network needs in a microVM; "
            "install it (Debian: socat) or set egress = false"
        )
    return ("/bin/sh", "-c", _RELAY, "sh")


def _write_file(root: Path, spec: BoxSpec, path: str, content: bytes) -> None:
    """Into the root itself: what lies on a mount would be hidden by it."""
    mounts = (WORK, inside.TMP, *(bind.place for bind in _binds(spec)))
    if any(f"{path}/".startswith(f"{mount}/") for mount in mounts):
        raise SandboxFailure(f"{spec.label!r}: the file {path!r} lies on a mount, which a microVM cannot have")
    whole = root / path.lstrip("/")
    if any(place.is_symlink() for place in (whole, *whole.parents) if place != root and place.is_relative_to(root)):
        raise SandboxFailure(f"{spec.label!r}: the file {path!r} lies behind a link; choose another place")
    open_file(whole, content)
