"""One box as bubblewrap is told of it: what the jail gathers, what lies on disk for it, and the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import SandboxFailure
from sandboxes import inside
from sandboxes.cgroups import home_of, joined_at_once, rlimits
from sandboxes.driver import Place
from sandboxes.host.plan import Jail, Mount
from sandboxes.placing import checked
from sandboxes.spec import MIB, WORK, BoxSpec, Limits
from sandboxes.view import View

_FILTER_FD: Final = 10
_LAID, _VIEW, _FILTER = "laid", "view", "seccomp.bpf"
"""The directory of a box's files in its own; in that, what it sees, and its filter, where no path in the box leads."""
_BYTES_PER_INODE: Final = 4096
_QUICK_CPUS: Final = 0.5
_QUICK_BYTES: Final = 64 * MIB
"""With less, the reaper that comes up within the box's limits would not fit, or take longer than joining does."""
_LOADER: Final = ("LD_", "GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH", "MALLOC_TRACE")
"""Variables that make a C program load or write files: bwrap runs outside of the box, so it never sees them."""


@dataclass(frozen=True, slots=True)
class Box:
    """What the reaper is to run. `env` holds secrets; `command` never does."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    jail: Jail


def described(bwrap: str, nested: bool, spec: BoxSpec, place: Place) -> Box:
    """How to start it, once `put_down` has been done.

    `nested`: whether this bwrap can forbid user namespaces in the box; the filter of system calls does it too. Raises
    `SandboxFailure` when the spec asks for what cannot be.
    """
    checked(spec)
    egress = spec.egress and place.egress is not None
    env = inside.variables(spec, egress)
    loader = {name: value for name, value in env.items() if name.startswith(_LOADER)}
    if loader.keys() & spec.secrets.keys():
        raise SandboxFailure(
            f"{spec.label!r}: {sorted(loader)[0]} cannot be a secret; put it among the plain variables"
        )
    launcher = _launcher(bwrap)
    command = (
        *(launcher.path if launcher else bwrap, *_WALLS, *(("--disable-userns",) if nested else ())),
        *_view(spec, egress),
        *(word for name, value in loader.items() for word in ("--setenv", name, value)),
        *("--chdir", spec.cwd, "--seccomp", str(_FILTER_FD), "--"),
        *(*inside.entry(spec, landlock=True, egress=egress), *spec.command),
    )
    outside = {name: value for name, value in env.items() if name not in loader}
    mounts = (*((launcher,) if launcher else ()), *_mounts(spec, place, egress))
    return Box(command, outside, _jail(spec, place, mounts))


def _launcher(bwrap: str) -> Mount | None:
    """The program itself, where the box's user may not find it: a Python environment in somebody's home, for one."""
    return None if bwrap.startswith("/usr/") else Mount("bwrap", "bind", bwrap, read_only=True)


_WALLS: Final = (
    *("--unshare-all", "--unshare-user", "--cap-drop", "ALL", "--uid", str(inside.UID), "--gid", str(inside.UID)),
    *("--die-with-parent", "--new-session", "--hostname", inside.HOSTNAME),
)


def _jail(spec: BoxSpec, place: Place, mounts: tuple[Mount, ...]) -> Jail:
    return Jail(
        uid=place.uid,
        mounts=mounts,
        rlimits=rlimits(spec.limits, place.cgroup_procs),
        cgroups=place.cgroup_procs,
        home=_home(spec.limits, place.cgroup_procs),
        files={_FILTER_FD: str(place.directory / _LAID / _FILTER)},
    )


def _home(limits: Limits, procs: tuple[str, ...]) -> tuple[str, ...]:
    """Where the reaper goes back to, if it is to come up within the box's groups because joining them takes time."""
    roomy = limits.cpus >= _QUICK_CPUS and limits.memory_bytes >= _QUICK_BYTES
    return home_of(procs) if roomy and not joined_at_once(procs) else ()


def _mounts(spec: BoxSpec, place: Place, egress: bool) -> Iterator[Mount]:
    """What has to be opened with the gateway's rights, and memory that is not executable, which bwrap cannot make."""
    yield Mount(_VIEW, "bind", str(place.directory / _LAID / _VIEW), read_only=True)
    if spec.base is not None:
        yield Mount("base", "bind", str(spec.base), read_only=True)
    if egress:
        yield Mount("egress", "bind", str(place.egress), read_only=True, no_exec=True)
    for number, path in enumerate(inside.SCRATCH):
        yield Mount(f"scratch{number}", "tmpfs", options=_memory(path, spec.limits, place.uid))
    for number, bind in enumerate(spec.binds):
        write = bind.writable
        name, source = f"bind{number}", str(bind.source)
        yield Mount(name, "bind", source, read_only=not write, no_exec=write, owned=write, direct=True)


def _memory(path: str, limits: Limits, uid: int | None) -> str:
    size = limits.work_bytes if path == WORK else limits.tmp_bytes
    options = f"size={size},nr_inodes={max(1024, size // _BYTES_PER_INODE)},mode=700"
    return options if uid is None else f"{options},uid={uid},gid={uid}"


def _view(spec: BoxSpec, egress: bool) -> Iterator[str]:
    """What the box sees, outermost first, then everything sealed."""
    stage = Mount(_VIEW, "bind").path
    base = Mount("base", "bind").path
    for bind in inside.base_binds(spec):
        yield from ("--ro-bind", str(bind.source) if spec.base is None else base + bind.place, bind.place)
    for link, target in inside.base_links(spec):
        yield from ("--symlink", target, link)
    if spec.base is None:
        yield from ("--ro-bind", f"{stage}/etc", "/etc")
        for bind in inside.etc_binds():
            yield from ("--ro-bind", str(bind.source), bind.place)
    yield from ("--proc", "/proc", "--dev", "/dev", "--ro-bind", stage + inside.GUEST, inside.GUEST)
    if egress:
        yield from ("--ro-bind", Mount("egress", "bind").path, inside.EGRESS_SOCKET)
    for number, path in enumerate(inside.SCRATCH):
        yield from ("--bind", Mount(f"scratch{number}", "tmpfs").path, path)
    yield from _own(spec, stage)
    yield from ("--remount-ro", "/dev", "--remount-ro", "/")


def _own(spec: BoxSpec, stage: str) -> Iterator[str]:
    """Binds and files of the spec, a directory before what is in it."""
    found = [
        (bind.place, "--bind" if bind.writable else "--ro-bind", Mount(f"bind{number}", "bind").path)
        for number, bind in enumerate(spec.binds)
    ]
    found += [(path, "--ro-bind", stage + path) for path in spec.files if not _in_view(spec, path)]
    for path, how, source in sorted(found):
        yield from (how, source, path)


def _in_view(spec: BoxSpec, path: str) -> bool:
    return spec.base is None and path.startswith("/etc/")


def put_down(spec: BoxSpec, directory: Path, program: bytes, shared: Path | None = None) -> None:
    """Write the filter and the view, which the box's user can read, but get at through the jail only.

    What has no files of its own is the same for many boxes: those have one copy below `shared`, where that is given.
    Blocks on the disk. Raises `SandboxFailure`.
    """
    view = View({**_view_files(spec), _FILTER: program}, _view_directories(spec))
    try:
        if shared is None or spec.files:
            view.write(directory / _LAID)
        else:
            (directory / _LAID).symlink_to(view.kept(shared))
    except OSError as exc:
        where = str(exc.filename or directory)
        raise SandboxFailure(f"{spec.label!r}: its box cannot be laid out: {exc.strerror}: {where!r}") from exc


def _view_files(spec: BoxSpec) -> dict[str, bytes]:
    etc = inside.etc_files(inside.UID) if spec.base is None else {}
    places = {bind.place: b"" for bind in spec.binds if _in_view(spec, bind.place) and not bind.source.is_dir()}
    files = {**etc, **inside.guest_files(), **places, **spec.files}
    return {_VIEW + path: content for path, content in files.items()}


def _view_directories(spec: BoxSpec) -> tuple[str, ...]:
    shown = [bind for bind in spec.binds if _in_view(spec, bind.place) and bind.source.is_dir()]
    return tuple(_VIEW + bind.place for bind in (*(inside.etc_binds() if spec.base is None else ()), *shown))
