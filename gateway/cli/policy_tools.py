"""`interlock policy fmt` and `lint`: the tools that Rego authors know, where they are installed."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, OK, CommandFailed
from gateway.cli.policy_files import Verbs

DEADLINE_S: Final = 120.0
_HOW: Final = {
    "opa": "`go install github.com/open-policy-agent/opa@latest`, `brew install opa`, or a binary of its releases",
    "regal": "`go install github.com/open-policy-agent/regal@latest`, `brew install regal`, or a binary of its"
    " releases",
}


def add_verbs(verbs: Verbs) -> None:
    """Mount `fmt` and `lint`."""
    formatting = verbs.add_parser(
        "fmt", help="format the rules (needs opa)", description="Format *.rego files in place with `opa fmt`."
    )
    formatting.add_argument(
        "--check", action="store_true", help="change nothing; name the files that are not formatted, exit code 1 if any"
    )
    formatting.set_defaults(func=fmt)
    linting = verbs.add_parser(
        "lint", help="look for bad style and likely mistakes (needs regal)", description="Run `regal lint`."
    )
    linting.set_defaults(func=lint)
    for verb in (formatting, linting):
        verb.add_argument(
            "--path",
            action="append",
            type=Path,
            metavar="DIR",
            required=True,
            help="a directory of rules (again for more)",
        )


def fmt(arguments: argparse.Namespace) -> int:
    """Exit code 0 if every file is formatted (now), else 1; 2 without `opa`."""
    options = ["--list", "--fail"] if arguments.check else ["--write"]
    return _run("opa", ["fmt", *options], arguments.path)


def lint(arguments: argparse.Namespace) -> int:
    """Exit code 0 if there is nothing to say, else 1; 2 without `regal`."""
    return _run("regal", ["lint"], arguments.path)


def _run(tool: str, options: Sequence[str], paths: Sequence[Path]) -> int:
    program = shutil.which(tool)
    if program is None:
        raise CommandFailed(f"{tool} is not on the PATH; get it with {_HOW[tool]}", CANNOT)
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise CommandFailed(f"{', '.join(missing)}: there is no such directory")
    command = [program, *options, *(str(path.resolve()) for path in paths)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=DEADLINE_S, check=False)  # noqa: S603  # found on the PATH
    except subprocess.TimeoutExpired as exc:
        raise CommandFailed(f"{tool} was not done within {DEADLINE_S:g} s and was ended") from exc
    return OK if done.returncode == 0 else NOT_AS_IT_SHOULD_BE
