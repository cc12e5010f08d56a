"""Writes the configuration of a first run: real servers that can start here, and a repository for one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gateway.cli.main import CommandFailed
from gateway.config import Settings

DATA_DIR: Final = ".interlock"
REPOSITORY: Final = f"{DATA_DIR}/demo-repository"
GIT_DEADLINE_S: Final = 30
CLOCK: Final = ("mcp-server-time",)

_HEAD: Final = """\
# Written by `interlock up`. All keys: gateway/config.md. `interlock check` says what is wrong with this file.
# A change of upstreams or policies takes effect at once; the rest at the next start.

[listen]
host = "127.0.0.1"
port = 8080

[policy]
path = "starter"        # default deny; copy policies/starter and name your copy here to write rules of your own
"""

_TIME: Final = """
[upstreams.time]
type = "mcp"
command = ["mcp-server-time"]
risk = "low"
"""

_GIT: Final = f"""
[upstreams.git]
type = "mcp"
command = ["mcp-server-git", "--repository", "{REPOSITORY}"]
"""

_RISKY: Final = """
# Stands in for a server that can do harm, since git is not installed here.
[upstreams.vault]
type = "mcp"
command = ["mcp-server-time"]
risk = "high"
"""

_EVERYTHING: Final = """
# Has one of everything that MCP knows; for trying clients out.
[upstreams.everything]
type = "mcp"
command = ["python", "-m", "conformance.everything", "stdio"]
labels = ["conformance"]
"""


def write_configuration(path: Path) -> tuple[str, ...]:
    """Write a configuration where there is none; the names of the upstreams in it."""
    chosen = sections(has_git=shutil.which("git") is not None)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_HEAD + "".join(chosen.values()))
        if "git" in chosen:
            make_repository(path.parent / REPOSITORY)
    except OSError as exc:
        raise CommandFailed(f"{path} cannot be written: {exc.strerror}; give another place with --config") from exc
    return tuple(chosen)


def is_of_first_run(settings: Settings) -> bool:
    """Whether these are (still) the settings that a first run writes: then there is something to demonstrate."""
    clock = settings.upstreams.get("time")
    return clock is not None and clock.command == CLOCK


def sections(*, has_git: bool) -> Mapping[str, str]:
    """The upstreams that can start here, by name."""
    found: dict[str, str] = {}
    if find_spec("mcp_server_time"):
        found["time"] = _TIME
        if not has_git:
            found["vault"] = _RISKY
    if has_git and find_spec("mcp_server_git"):
        found["git"] = _GIT
    if find_spec("conformance"):
        found["everything"] = _EVERYTHING
    return found


def make_repository(directory: Path) -> None:
    """A small git repository with one commit, unless it is there."""
    if (directory / ".git").exists():
        return
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir(exist_ok=True)
    (directory / "README.md").write_text("A repository for the demonstration of Interlock.\n", encoding="utf-8")
    _git(directory, "init", "--quiet", "--initial-branch=main")
    _git(directory, "add", "README.md")
    _git(directory, "commit", "--quiet", "--message", "Begin")


def _git(directory: Path, *words: str) -> None:
    """Git with nothing of this user's: no hooks, no signing, no name."""
    identity = ("-c", "user.name=Interlock", "-c", "user.email=interlock@localhost")
    quiet = ("-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null", "-c", "init.templateDir=")
    try:
        subprocess.run(  # noqa: S603  # fixed words
            ["git", *identity, *quiet, *words],  # noqa: S607  # the git of this person's PATH is the one that is meant
            cwd=directory,
            check=True,
            capture_output=True,
            text=True,
            timeout=GIT_DEADLINE_S,
        )
    except (subprocess.SubprocessError, OSError) as exc:
        raise CommandFailed(f"git could not make {directory}: {getattr(exc, 'stderr', '') or exc}".strip()) from exc
