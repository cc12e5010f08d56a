"""Finds what a command of the host needs in order to run in a box: read-only, and no more than that.

/usr is in every box whose base is the host's, so what is installed there needs nothing. For a program elsewhere it is:

* in a virtual environment: the environment, and the interpreter that it was made from;
* a Python or node of its own: its prefix (`bin` and `lib` and what is beside them);
* in a `node_modules`: the outermost one;
* anything else: the directory it is in, or only the program itself where that directory is on the PATH and so holds
  other things too;
* a script: its interpreter as well, by the same rules, `#!/usr/bin/env NAME` included;
* for an interpreter whose first argument is the absolute path of a script: that script, by the same rules.

Nothing else is looked for: no other argument, no editable installation, no cache of npx or uvx, no shared library.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.errors import ConfigError
from sandboxes.spec import Bind

BOX_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_BASE: Final = tuple(Path(f"/{top}") for top in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"))
_INTERPRETER: Final = re.compile(r"(?:python|pypy|ruby|perl|lua)[0-9.]*|node|deno|bun|bash|sh|dash|zsh")
_PYTHON: Final = re.compile(r"(?:python|pypy)[0-9.]*")
_HOME: Final = re.compile(r"^home\s*=\s*(\S.*?)\s*$", re.MULTILINE)
_DOWNLOADERS: Final = {
    "npx": "npm install -g PACKAGE, and its command",
    "uvx": "uv tool install PACKAGE, and its command",
    "bunx": "bun add -g PACKAGE, and its command",
    "pipx": "pipx install PACKAGE, and its command",
}
_MOST_LINKS: Final = 20
_MOST_INTERPRETERS: Final = 4
_SHEBANG_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Closure:
    """How the command is run in a box: its program by full path, what the box sees for that, and why.

    `env` holds a PATH where the usual one does not lead to an interpreter. `notes` say what will probably not work.
    """

    command: tuple[str, ...]
    binds: tuple[Bind, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Place in the box to why it is there."""
    notes: tuple[str, ...] = ()


def closure_of(
    command: Sequence[str], environ: Mapping[str, str], cwd: Path = Path("/"), key: str = "command"
) -> Closure:
    """What the command needs, its program looked up on the PATH of `environ`. Raises `ConfigError` at `key`.

    The binds are as yet unchecked: pass them through `covers.admitted` like those that somebody wrote.
    """
    entries = environ.get("PATH", BOX_PATH).split(os.pathsep)  # a relative one would be whatever somebody put there
    search = _Search(tuple(Path(entry) for entry in entries if os.path.isabs(entry)), cwd, key)
    if not command:
        raise ConfigError([(key, "is empty: give a program and its arguments")])
    program = search.found(command[0])
    shown = _Shown(search)
    first = shown.program(program, "the program")
    script = _script_in(command)
    if script is not None:
        shown.program(script, "the script that it runs")
    return Closure(
        command=(str(first), *command[1:]),
        binds=shown.binds(),
        env=shown.env(),
        reasons={str(place): why for place, (_, why) in shown.places.items()},
        notes=tuple(_notes(program)),
    )


def in_base(path: Path) -> bool:
    """Whether every box that has the host's base has this too."""
    return any(path.is_relative_to(top) for top in _BASE)


def _script_in(command: Sequence[str]) -> Path | None:
    """The script that an interpreter is given first, if it is an absolute path: others depend on where it runs."""
    if len(command) < 2 or not _INTERPRETER.fullmatch(os.path.basename(command[0])):
        return None
    script = Path(command[1])
    return script if script.is_absolute() and script.is_file() else None


def _notes(program: Path) -> Iterator[str]:
    instead = _DOWNLOADERS.get(program.name)
    if instead:
        yield (
            f"{program.name} fetches what it runs when it starts, which a box has no way for unless policy grants it: "
            f"install it and give its command instead ({instead})"
        )


@dataclass(frozen=True, slots=True)
class _Search:
    """Where programs are looked for."""

    path: tuple[Path, ...]
    cwd: Path
    key: str

    def found(self, name: str) -> Path:
        """A program by its absolute path, links not followed."""
        candidates = [self.cwd / name] if "/" in name else [entry / name for entry in self.path]
        for candidate in candidates:
            if candidate.is_file() and os.access(candidate, os.X_OK):
                return self._no_shim(Path(os.path.normpath(candidate)))
        raise ConfigError([(self.key, f"{name!r} is no program here; install it, or give a full path")])

    def _no_shim(self, program: Path) -> Path:
        if program.parent.name != "shims":
            return program
        manager = program.parent.parent.name.lstrip(".")
        what = f"{program} only looks for the real program when it runs, which a box does not see: give its full path"
        raise ConfigError([(self.key, f"{what} (`{manager} which {program.name}` says it)")])

    def has_others(self, directory: Path) -> bool:
        """Whether that is a directory of programs of all kinds."""
        return directory in {Path(os.path.realpath(entry)) for entry in self.path}


@dataclass(slots=True)
class _Shown:
    """What the box sees beside its base. Each thing is at its own path, and at the one that leads to it."""

    search: _Search
    places: dict[Path, tuple[Path, str]] = field(default_factory=dict)
    """Place in the box to what is there, and why."""
    lookups: list[Path] = field(default_factory=list)
    """Directories in which `env` finds interpreters."""

    def program(self, written: Path, why: str, depth: int = 0) -> Path:
        """Show a program with all it needs; the path by which it is to be started."""
        placed = _placed(written)
        self._show(placed, why)
        interpreter = _shebang(placed)
        if interpreter and depth < _MOST_INTERPRETERS:
            self._interpreter(interpreter, placed, depth)
        return placed

    def _interpreter(self, words: Sequence[str], script: Path, depth: int) -> None:
        why = f"what runs {script}"
        name = _by_env(words)
        if name is None:
            written = Path(words[0])
            if written.is_file():  # else it runs nowhere, here no more than in a box
                self.program(written, why, depth + 1)
                self._reached(written, why)
            return
        found = self.search.found(name)
        self.program(found, why, depth + 1)
        if not in_base(found):
            self._reached(found, why)
            self.lookups.append(found.parent)

    def _reached(self, written: Path, why: str) -> None:
        """A path that is used as it is written, by the kernel or through PATH, has to be there in the box."""
        if not in_base(written) and not self._has(written):
            self.places[written] = (Path(os.path.realpath(written)), why)

    def _show(self, program: Path, why: str) -> None:
        root = _venv_of(program)
        if root is not None:
            self._add(root, f"{why}: its virtual environment")
            self._python_of(root)
            return
        real = Path(os.path.realpath(program))
        if not in_base(real):
            found, what = self._root_of(real)
            self._add(found, f"{why}{what}")

    def _python_of(self, venv: Path) -> None:
        """The interpreter that an environment was made from, by the path in its links and by its own."""
        why = f"the Python of {venv}"
        home = _HOME.search(_text(venv / "pyvenv.cfg"))
        if home is not None:
            self._add_prefix(Path(home[1]).parent, why)
        for link in _links(venv / "bin" / "python"):
            if not in_base(link) and not link.is_relative_to(venv) and link.parent.name == "bin":
                self._add_prefix(link.parent.parent, why)

    def _add_prefix(self, prefix: Path, why: str) -> None:
        real = Path(os.path.realpath(prefix))
        if not in_base(real) and real != Path("/"):
            self._add(real, why)
        if not in_base(prefix) and prefix != real and prefix.is_dir():
            self.places.setdefault(prefix, (real, why))

    def _root_of(self, real: Path) -> tuple[Path, str]:
        modules = [parent for parent in real.parents if parent.name == "node_modules"]
        if modules:
            return modules[-1], ": its node_modules"
        prefix = real.parent.parent
        if real.parent.name == "bin" and _is_prefix(real.name, prefix):
            return prefix, ": its prefix"
        if self.search.has_others(real.parent) or _is_plain_script(real):
            return real, ""
        return real.parent, ": its directory"

    def _add(self, place: Path, why: str) -> None:
        if not self._has(place):
            self.places = {old: kept for old, kept in self.places.items() if not old.is_relative_to(place)}
            self.places[place] = (place, why)

    def _has(self, place: Path) -> bool:
        return any(place.is_relative_to(shown) for shown in self.places)

    def binds(self) -> tuple[Bind, ...]:
        return tuple(Bind(source, str(place)) for place, (source, _) in sorted(self.places.items()))

    def env(self) -> Mapping[str, str]:
        if not self.lookups:
            return {}
        return {"PATH": os.pathsep.join([*dict.fromkeys(str(entry) for entry in self.lookups), BOX_PATH])}


def _placed(written: Path) -> Path:
    """Follow the links of a program to where it is installed.

    Not inside of a virtual environment, which is known by them, nor where the box has them and what they lead to.
    """
    if in_base(written) and in_base(Path(os.path.realpath(written))):
        return written
    path = _in_real_directory(written)
    for _ in range(_MOST_LINKS):
        if _venv_of(path) is not None or not path.is_symlink():
            return path
        path = _in_real_directory(path.parent / os.readlink(path))
    return path


def _in_real_directory(path: Path) -> Path:
    return Path(os.path.realpath(path.parent)) / path.name


def _links(path: Path) -> Iterator[Path]:
    """Each path on the way that a link leads."""
    for _ in range(_MOST_LINKS):
        if not path.is_symlink():
            return
        path = Path(os.path.normpath(path.parent / os.readlink(path)))
        yield path


def _venv_of(program: Path) -> Path | None:
    for parent in program.parents:
        if (parent / "pyvenv.cfg").is_file() and not in_base(parent):
            return parent
    return None


def _is_prefix(name: str, prefix: Path) -> bool:
    if _PYTHON.fullmatch(name):
        return any((prefix / "lib").glob("python3.*")) or any((prefix / "lib").glob("pypy3.*"))
    return name == "node" and (prefix / "lib" / "node_modules").is_dir()


def _is_plain_script(real: Path) -> bool:
    """A single script; what it reads beside itself has to be bound by whoever knows it."""
    return not os.access(real, os.X_OK) or _shebang(real) != ()


def _shebang(path: Path) -> tuple[str, ...]:
    """The words behind `#!`; none for what is no script."""
    try:
        with path.open("rb") as file:
            head = file.read(_SHEBANG_BYTES)
    except OSError:
        return ()
    if not head.startswith(b"#!"):
        return ()
    line = head[2:].partition(b"\n")[0].decode("utf-8", "replace").strip()
    program, _, rest = line.partition(" ")
    return tuple(word for word in (program, rest.strip()) if word)


def _by_env(words: Sequence[str]) -> str | None:
    """The name that `env` is to look up, or `None` where the interpreter is named by its path."""
    if os.path.basename(words[0]) != "env" or len(words) < 2:
        return None
    try:
        rest = [word for word in shlex.split(words[1]) if not word.startswith("-") and "=" not in word]
    except ValueError:
        return None
    return rest[0] if rest else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
