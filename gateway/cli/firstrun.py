"""Writes the configuration of a first run: real servers that can start here, and a repository for one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gateway.cli.main import CommandFailed
from gateway.config import Settings

REPOSITORY: Final = "demo-repository"
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

_GIT: Final = """
[upstreams.git]
type = "mcp"
command = ["mcp-server-git", "--repository", {repository}]
# In its sandbox the repository belongs to somebody else, which git wants to be told is in order.
env = {{ GIT_CONFIG_COUNT = "1", GIT_CONFIG_KEY_0 = "safe.directory", GIT_CONFIG_VALUE_0 = "*" }}
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

_CODE: Final = """
# Runs code that agents send, each session in a sandbox of its own.
[upstreams.sandbox]
type = "sandbox"
"""

_ON_THE_HOST: Final = """\
sandbox = "none"        # no sandbox works here: `interlock sandbox doctor` says why. Remove this line when one does
"""


def refuse_no_place(path: Path) -> None:
    """Raise `CommandFailed` where no configuration can stand, before anything else makes directories on the way."""
    if not path.parent.is_dir():
        raise CommandFailed(
            f"{path} cannot be written: there is no directory {path.parent}; make it, or give "
            "another place with --config"
        )


def write_configuration(path: Path, *, boxed: bool) -> tuple[str, ...]:
    """Write a configuration where there is none; the names of the upstreams in it.

    `boxed`: a sandbox works here. Where none does, these servers, and only these, are configured to do without.
    """
    repository = path.parent.absolute() / REPOSITORY
    chosen = sections(has_git=shutil.which("git") is not None, boxed=boxed, repository=repository)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_HEAD + "".join(chosen.values()))
        if "git" in chosen:
            make_repository(repository)
    except OSError as exc:
        raise CommandFailed(f"{path} cannot be written: {exc.strerror}; give another place with --config") from exc
    return tuple(chosen)


def is_of_first_run(settings: Settings) -> bool:
    """Whether these are (still) the settings that a first run writes: then there is something to demonstrate."""
    clock = settings.upstreams.get("time")
    return clock is not None and clock.command == CLOCK


def sections(*, has_git: bool, boxed: bool, repository: Path) -> Mapping[str, str]:
    """The upstreams that can start here, by name."""
    found: dict[str, str] = {}
    if find_spec("mcp_server_time"):
        found["time"] = _apart(_TIME, boxed)
        if not has_git:
            found["vault"] = _apart(_RISKY, boxed)
    if has_git and find_spec("mcp_server_git"):
        git = _GIT.format(repository=json.dumps(str(repository)))
        found["git"] = _apart(git, boxed, str(repository))
    everything = find_spec("conformance")
    if everything is not None and everything.submodule_search_locations:
        found["everything"] = _apart(_EVERYTHING, boxed, everything.submodule_search_locations[0])
    if boxed:
        found["sandbox"] = _CODE
    return found


def _apart(section: str, boxed: bool, *binds: str) -> str:
    """The section with what its box has to see, or without a box."""
    shown = f"binds = {json.dumps(list(binds))}\n" if binds else ""
    return section + (shown if boxed else _ON_THE_HOST)


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
