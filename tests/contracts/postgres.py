"""A PostgreSQL cluster of a test's own, from whatever version is installed, on a Unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PLACES = ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin")


def binaries() -> Path:
    """The directory of the newest `initdb`; skips the test where there is none."""
    found = [path for pattern in _PLACES for path in Path("/").glob(f"{pattern[1:]}/initdb")]
    on_path = shutil.which("initdb")
    if on_path is not None:
        found.append(Path(on_path))
    if not found:
        pytest.skip("no PostgreSQL here: install Debian's `postgresql` (or `brew install postgresql`)")
    return max(found, key=_version).parent


def _version(initdb: Path) -> int:
    digits = [part for part in initdb.parts if part.isdigit()]
    return int(digits[0]) if digits else 0


@contextmanager
def cluster() -> Iterator[Path]:
    """Start a cluster and give the directory of its socket; superuser `postgres`, no password."""
    user = _user()
    home = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # socket paths are short, and root's own are closed
    if user is not None:
        os.chown(home, user.pw_uid, user.pw_gid)
    try:
        _run(home, str(binaries() / "initdb"), "-D", "data", "-U", "postgres", "-A", "trust", "--no-sync")
        start(home)
        try:
            yield home
        finally:
            stop(home)
    finally:
        shutil.rmtree(home)


def start(home: Path) -> None:
    """Start the server (again) and wait until it answers."""
    options = f"-c listen_addresses='' -c fsync=off -c unix_socket_directories='{home}'"
    _run(home, str(binaries() / "pg_ctl"), "-D", "data", "-w", "-t", "60", "-l", "log", "-o", options, "start")


def stop(home: Path) -> None:
    """Stop the server as a crash would."""
    _run(home, str(binaries() / "pg_ctl"), "-D", "data", "-m", "immediate", "-w", "stop")


def create_database(home: Path, name: str) -> str:
    """Make an empty database and give its URL."""
    psql = [str(binaries() / "psql"), "-h", str(home), "-U", "postgres", "-c", f"CREATE DATABASE {name}"]
    subprocess.run(psql, check=True, capture_output=True, timeout=60)
    return f"postgresql://postgres@/{name}?host={home}"


def _user() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root, so root lends it another user."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root and there is no user `postgres`: add one")


def _run(home: Path, *command: str) -> None:
    user = _user()
    uid, gid = (None, None) if user is None else (user.pw_uid, user.pw_gid)
    with (home / f"{Path(command[0]).name}.out").open("a") as output:  # a pipe would be kept open by the server
        subprocess.run(command, check=True, cwd=home, stdout=output, stderr=output, timeout=120, user=uid, group=gid)
