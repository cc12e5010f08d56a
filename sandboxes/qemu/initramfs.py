"""The first file system of a guest: our agent, the Python that runs us, and the kernel's modules."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandboxes.qemu.closure import in_usr, libraries, links_to
from sandboxes.qemu.elf import loadable

_ROOT: Final = Path(__file__).parents[2]
_INTERPRETER: Final = "/bin/python"
_INIT: Final = f"""#!{_INTERPRETER} -ISE
import sys
sys.path.insert(0, "/")
from sandboxes.qemu.guest import main
main()
"""
_ASK: Final = (
    "import sys, json; sys.path.insert(0, sys.argv[1]); import sandboxes.qemu.guest, traceback, linecache, tokenize;"
    "print(json.dumps([[getattr(m, '__file__', None), getattr(m, '__cached__', None)] for m in sys.modules.values()]))"
)
_ASK_S: Final = 30
_DIRECTORIES: Final = ("proc", "sys", "dev", "cgroup", "modules", "etc", "root")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive."""

    mode: int
    data: bytes = b""
    mtime: int = 0
    device: tuple[int, int] = (0, 0)


def archive(entries: Mapping[str, Entry]) -> bytes:
    """A cpio archive ("newc") of files by path, directories made where they are missing."""
    out = io.BytesIO()
    whole = dict(_with_parents(entries))
    for number, path in enumerate(sorted(whole), start=1):
        _write(out, number, path.lstrip("/"), whole[path])
    _write(out, 0, "TRAILER!!!", Entry(0))
    return out.getvalue()


def _with_parents(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    whole = dict(entries)
    for path in entries:
        for parent in Path(path).parents:
            whole.setdefault(str(parent), Entry(stat.S_IFDIR | 0o755))
    whole.pop("/", None)
    return whole


def _write(out: io.BytesIO, number: int, path: str, entry: Entry) -> None:
    name = path.encode() + b"\0"
    fields = (number, entry.mode, 0, 0, 1, entry.mtime, len(entry.data), 0, 0, *entry.device, len(name), 0)
    out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
    out.write(b"\0" * (-out.tell() % 4) + entry.data)
    out.write(b"\0" * (-out.tell() % 4))


def agent_entries(modules: tuple[Path, ...]) -> dict[str, Entry]:
    """What a guest starts with. Raises `OSError` or `subprocess.SubprocessError` when our own Python cannot be read."""
    python = Path(sys.executable).resolve()
    ours = _modules_of(python)
    natives = [path for path in ours if path.suffix == ".so"]
    entries = {"/" + name: Entry(stat.S_IFDIR | 0o755) for name in _DIRECTORIES}
    for path in (python, *ours, *libraries([python, *natives])):
        entries |= _with_links(path)
    entries[_INTERPRETER] = Entry(stat.S_IFLNK | 0o777, str(python).encode())
    entries["/init"] = Entry(stat.S_IFREG | 0o755, _INIT.encode())
    entries["/dev/console"] = Entry(stat.S_IFCHR | 0o600, device=(5, 1))
    for number, module in enumerate(modules):
        entries[f"/modules/{number:02}-{module.name}"] = Entry(stat.S_IFREG | 0o644, module.read_bytes())
    return entries | _top_links()


def digest_of(entries: Mapping[str, Entry]) -> str:
    """Names the archive."""
    return hashlib.sha256(archive(entries)).hexdigest()


def _modules_of(python: Path) -> list[Path]:
    """Every file that the agent's imports read, asked of that Python itself, compiled forms too."""
    answer = subprocess.run(  # noqa: S603  # our own interpreter
        [str(python), "-ISE", "-c", _ASK, str(_ROOT)], capture_output=True, timeout=_ASK_S, check=True, env={}
    )
    found: list[Path] = []
    for source, cached in json.loads(answer.stdout):
        found += [Path(name) for name in (source, cached) if name and os.path.isfile(name)]
    return found + _landmarks(python)


def _landmarks(python: Path) -> list[Path]:
    """What Python finds its library by."""
    library = python.parent.parent / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [path for path in (library / "os.py",) if path.is_file()]


def _with_links(path: Path) -> dict[str, Entry]:
    entries = {}
    for step in links_to(path):
        at = _placed(step)
        if step.is_symlink():
            entries[at] = Entry(stat.S_IFLNK | 0o777, os.readlink(step).encode())
        else:
            status = step.stat()
            mode = stat.S_IFREG | (0o755 if status.st_mode & 0o100 else 0o644)
            entries[at] = Entry(mode, loadable(step.read_bytes()), int(status.st_mtime))
    return entries


def _placed(path: Path) -> str:
    """Our own modules directly below the root, all else where it is here."""
    if path.is_relative_to(_ROOT / "sandboxes"):
        return "/" + str(path.relative_to(_ROOT))
    return str(in_usr(path))


def _top_links() -> dict[str, Entry]:
    tops = [f"/{name}" for name in ("lib", "lib64") if os.path.islink(f"/{name}")]
    return {top: Entry(stat.S_IFLNK | 0o777, os.readlink(top).encode()) for top in tops}
