"""The OCI bundle of one box: what it consists of as JSON, and as files on disk that the jail stages for `runsc`.

The root is a skeleton; everything else is mounted on it, from below the stage, so that sources may lie in directories
that the box's user cannot pass through.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandboxes import inside
from sandboxes.gvisor.runsc import BUNDLE, CREATED, RUNSC, STATE
from sandboxes.host.plan import STAGE, Mount
from sandboxes.skeleton import open_directory, open_file, write_root
from sandboxes.spec import WORK, Bind, BoxSpec

_CAPABILITY_SETS: Final = ("bounding", "effective", "inheritable", "permitted", "ambient")
_NAMESPACES: Final = ("pid", "ipc", "uts", "mount", "network")
"""No user namespace: `runsc` has one already, and would look for newuidmap."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """One box as `runsc` is to see it."""

    spec: BoxSpec
    egress: Path | None
    """Socket of its egress proxy, where it has one."""

    @property
    def user(self) -> int:
        """Who the program is inside.

        `runsc` shows files of the box's host user as root's. So where the box may write to the host it is root to the
        sentry, if one without capabilities: otherwise it could not write to what is its own.
        """
        return 0 if any(bind.writable for bind in self.spec.binds) else inside.UID

    def mounts(self, directory: Path, runsc: Path) -> tuple[Mount, ...]:
        """What the jail has to stage, once the bundle was written into the box's directory."""
        return (
            Mount(BUNDLE, "bind", str(directory / BUNDLE), read_only=True),
            Mount(STATE, "bind", str(directory / STATE)),
            Mount(RUNSC, "bind", str(runsc), read_only=True),
            *(_stage_mount(name, bind, direct=bind in self.spec.binds) for name, bind in self._staged().items()),
        )

    def write(self, directory: Path, uid: int | None) -> None:
        """Put it into the box's directory. Blocks on the disk. Raises `OSError` and `SandboxFailure`."""
        staged = self._staged()
        bundle = open_directory(directory / BUNDLE)
        write_root(bundle / "rootfs", self.spec, self.user, staged.values())
        open_directory(bundle / "files")
        for number, content in enumerate(self.spec.files.values()):
            open_file(bundle / "files" / str(number), content)
        _secret_file(bundle / "config.json", json.dumps(self.config()).encode(), uid)
        _write_state(directory / STATE, uid)

    def config(self) -> dict[str, object]:
        """What stands in config.json."""
        spec = self.spec
        egress = self.egress is not None
        variables = inside.variables(spec, egress)
        return {
            "ociVersion": "1.0.0",
            "process": {
                "terminal": False,
                "user": {"uid": self.user, "gid": self.user},
                "args": [*inside.entry(spec, landlock=False, egress=egress), *spec.command],
                "env": [f"{name}={value}" for name, value in variables.items()],
                "cwd": spec.cwd,
                "capabilities": {name: [] for name in _CAPABILITY_SETS},
                "rlimits": self._rlimits(),
                "noNewPrivileges": True,
            },
            "root": {"path": "rootfs", "readonly": True},
            "hostname": inside.HOSTNAME,
            "mounts": sorted(self._mounts(), key=_depth),
            "linux": {"namespaces": [{"type": kind} for kind in _NAMESPACES]},
        }

    def _rlimits(self) -> list[dict[str, object]]:
        """What the sentry enforces. Not AS, which no Node can live with, nor DATA, which it ignores."""
        limits = self.spec.limits
        numbers = {
            "NPROC": limits.processes,
            "FSIZE": limits.file_bytes,
            "NOFILE": limits.open_files,
            "CORE": 0,
        }
        return [{"type": f"RLIMIT_{name}", "soft": value, "hard": value} for name, value in numbers.items()]

    def _mounts(self) -> Iterator[dict[str, object]]:
        limits = self.spec.limits
        yield _mount("proc", "/proc", "nosuid", "nodev", "noexec")
        yield _mount("sysfs", "/sys", "ro", "nosuid", "nodev", "noexec")
        yield _mount("tmpfs", "/dev", "nosuid", "noexec", "mode=755", "size=1m")
        yield self._scratch(WORK, limits.work_bytes, "755")
        yield self._scratch(inside.TMP, limits.tmp_bytes, "1777")
        yield self._scratch(inside.SHM, limits.tmp_bytes, "1777")
        for name, bind in self._staged().items():
            yield _bind_mount(f"{STAGE}/{name}", bind)
        for number, path in enumerate(self.spec.files):
            yield _bind_mount(f"{STAGE}/{BUNDLE}/files/{number}", Bind(Path(path)))

    def _scratch(self, place: str, size: int, mode: str) -> dict[str, object]:
        owner = (f"uid={self.user}", f"gid={self.user}")
        return _mount("tmpfs", place, "nosuid", "nodev", "noexec", f"size={size}", f"mode={mode}", *owner)

    def _staged(self) -> dict[str, Bind]:
        """Everything of the host that the box sees, by its name in the stage."""
        etc = inside.etc_binds() if self.spec.base is None else ()
        binds = [*inside.base_binds(self.spec), *etc, *self.spec.binds]
        if self.egress is not None:
            binds.append(Bind(self.egress, inside.EGRESS_SOCKET))
        return {str(number): bind for number, bind in enumerate(binds)}


def _depth(mount: dict[str, object]) -> int:
    """Sort key that puts a mount after those that it lies on; what is equal stays in order."""
    return str(mount["destination"]).rstrip("/").count("/")


def _mount(kind: str, place: str, *options: str) -> dict[str, object]:
    return {"destination": place, "type": kind, "source": kind, "options": list(options)}


def _bind_mount(source: str, bind: Bind) -> dict[str, object]:
    rights = ("rw", "noexec") if bind.writable else ("ro",)
    options = ["rbind", *rights, "nosuid", "nodev"]
    return {"destination": bind.place, "type": "bind", "source": source, "options": options}


def _stage_mount(name: str, bind: Bind, *, direct: bool) -> Mount:
    write = bind.writable
    return Mount(name, "bind", str(bind.source), read_only=not write, no_exec=write, owned=write, direct=direct)


def _secret_file(path: Path, content: bytes, uid: int | None) -> None:
    """A file that holds the secrets of the box, for the box's user to read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        if uid is not None:
            os.fchown(file.fileno(), -1, uid)
            os.fchmod(file.fileno(), 0o640)


def _write_state(path: Path, uid: int | None) -> None:
    path.mkdir(mode=0o700)
    os.mkfifo(path / CREATED, 0o600)
    if uid is not None:
        for owned in (path, path / CREATED):
            os.chown(owned, uid, uid)
