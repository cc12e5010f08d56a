"""The npm packages that the tests talk to: pinned with hashes, installed once into the cache of this environment."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from conformance.node import Node, ToolchainMissing, cache_dir, find_node, run, say

PINS: Final = Path(__file__).resolve().parent / "node"
_PROGRAMS: Final = {
    "inspector": "@modelcontextprotocol/inspector/clients/launcher/build/index.js",
    "everything": "@modelcontextprotocol/server-everything/dist/index.js",
    "filesystem": "@modelcontextprotocol/server-filesystem/dist/index.js",
    "memory": "@modelcontextprotocol/server-memory/dist/index.js",
}


@dataclass(frozen=True, slots=True)
class NpmPeers:
    """Installed packages, and the Node that runs them."""

    node: Node
    modules: Path

    def command(self, name: str, *arguments: str) -> list[str]:
        """The command line of a server or client, which needs no PATH."""
        return [str(self.node.program), str(self.modules / _PROGRAMS[name]), *arguments]

    def script(self, name: str, *arguments: str) -> list[str]:
        """The command line of a script of this folder, which needs `environment`."""
        return [str(self.node.program), str(PINS.with_name(name)), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Where scripts find the packages."""
        return {"NODE_PATH": str(self.modules)}


def npm_peers() -> NpmPeers:
    """The packages, installed if they are not yet. Skips the test where Node or the registry cannot be had."""
    try:
        node = find_node(cache_dir())
        return NpmPeers(node, _installed(node, cache_dir().with_name("peers")))
    except (ToolchainMissing, subprocess.TimeoutExpired) as exc:
        pytest.skip(f"no Node 22 with the npm packages of tests/peers/node: {exc}")


def _installed(node: Node, place: Path) -> Path:
    stamp, lock = place / ".installed", (PINS / "package-lock.json").read_text()
    if not stamp.is_file() or stamp.read_text() != lock:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PINS / name, place)
        say("installing the npm peers (once)")
        run([*node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], place, node)
        stamp.write_text(lock)
    return place / "node_modules"
