"""Real MCP servers, as upstreams of a gateway."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from conformance.gateway import Table
from tests.peers.npm import NpmPeers

LABELS = ("peers",)
ANY_OWNER = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
"""Git works on repositories of others: in a sandbox, each file that is only to be read is somebody else's."""


def upstreams(npm: NpmPeers, place: Path) -> dict[str, Table]:
    """`everything`, `files`, `memory`, `git` and `time`, with what they work on below `place`."""
    missing = [name for name in ("mcp_server_git", "mcp_server_time") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'interlock-gateway[demo]'")
    files = place / "files"
    files.mkdir()
    (files / "hello.txt").write_text("hello from a file")
    memory = place / "memory"
    memory.mkdir()
    repo = str(repository(place / "repo"))
    return {
        "everything": {"command": npm.command("everything", "stdio"), "labels": LABELS},
        "files": {"command": npm.command("filesystem", str(files)), "binds": [f"{files}:rw"], "labels": LABELS},
        "memory": {
            "command": npm.command("memory"),
            "env": {"MEMORY_FILE_PATH": str(memory / "memory.jsonl")},
            "binds": [f"{memory}:rw"],
        },
        "git": {
            "command": [sys.executable, "-m", "mcp_server_git", "--repository", repo],
            "binds": [repo],
            "env": ANY_OWNER,
        },
        "time": {"command": [sys.executable, "-m", "mcp_server_time"]},
    }


def repository(place: Path) -> Path:
    """A git repository with one commit."""
    place.mkdir()
    (place / "README").write_text("a repository\n")
    who = ["-c", "user.name=Ana", "-c", "user.email=ana@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], [*who, "commit", "-q", "-m", "the first commit"]):
        subprocess.run(["git", *words], cwd=place, check=True, timeout=30, capture_output=True)
    return place
