"""Finds the command that was asked for and turns what it expects to go wrong into one line and an exit code.

Exit codes: 0 it is as it should be; 1 it was looked at and is not; 2 it could not be done (usage, missing things).
A command is a module with `add_parser(commands)`, which sets `func` to a `Callable[[Namespace], int]`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Final, Protocol, TypeAlias, cast

from gateway.errors import ConfigError, InterlockError

OK: Final = 0
NOT_AS_IT_SHOULD_BE: Final = 1
CANNOT: Final = 2
INTERRUPTED: Final = 130

Command: TypeAlias = Callable[[argparse.Namespace], int]


class Commands(Protocol):
    """What `add_parser` is given: argparse's collection of commands."""

    def add_parser(self, name: str, *, help: str, description: str = ...) -> argparse.ArgumentParser: ...  # noqa: A002


class CommandModule(Protocol):
    """What each command's module offers."""

    def add_parser(self, commands: Commands) -> None: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One command before its module is imported."""

    name: str
    module: str
    summary: str


COMMANDS: Final = (
    Entry("up", "gateway.cli.up", "start the gateway, with a demonstration on the first run"),
    Entry("check", "gateway.cli.check", "say everything that is wrong with the configuration"),
    Entry("doctor", "gateway.cli.doctor", "say what is missing on this machine and what to do"),
    Entry("connect", "gateway.cli.connect", "put the gateway into a client's settings, or import a client's servers"),
    Entry("policy", "gateway.cli.policy", "check, test or evaluate policies"),
    Entry("keys", "gateway.cli.keys", "make, list and revoke API keys"),
    Entry("pins", "gateway.cli.pins", "show and accept changed tool definitions"),
    Entry("agents", "gateway.cli.agents", "show, add and accept A2A agents"),
    Entry(
        "sandbox", "gateway.cli.sandbox", "show what isolation works here, run a command in a box, list and end boxes"
    ),
    Entry("approvals", "gateway.cli.approvals", "see which calls wait for people, and decide on them"),
    Entry("budgets", "gateway.cli.budgets", "see what was spent of which budget, and begin one anew"),
    Entry("memory", "gateway.cli.memory", "see where a memory comes from, review, roll back, erase, export, import"),
    Entry("models", "gateway.cli.models", "list models, explain and calibrate routes, see what routes saved"),
    Entry("kill", "gateway.cli.kill", "stop a subject, an agent, an upstream, a tool or everything, at once"),
    Entry("audit", "gateway.cli.audit", "verify, follow or export the record of calls"),
)


class CommandFailed(Exception):
    """An expected failure: its text is the one line that the person sees, `code` the exit code."""

    def __init__(self, message: str, code: int = CANNOT) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        namespace = _parser(words[0] if words else "").parse_args(words)
        code = cast("Command", namespace.func if "func" in namespace else namespace.run)(namespace)
        sys.stdout.flush()
    except ConfigError as error:
        return _complain((f"{path}: {what}" for path, what in error.faults), CANNOT)
    except CommandFailed as error:
        return _complain([str(error)], error.code)
    except (InterlockError, OSError) as error:
        return _on_failure(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _on_failure(error: InterlockError | OSError) -> int:
    if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return _complain([str(error)], CANNOT)


def _complain(lines: Iterable[str], code: int) -> int:
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    return code


def _parser(wanted: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="interlock", description="The gateway that every action of an agent goes through."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for entry in COMMANDS:
        if entry.name == wanted:
            _module(entry).add_parser(cast("Commands", commands))
        else:
            commands.add_parser(entry.name, help=entry.summary)
    return parser


def _module(entry: Entry) -> CommandModule:
    try:
        return cast("CommandModule", importlib.import_module(entry.module))
    except ModuleNotFoundError as exc:
        raise CommandFailed(
            f"`interlock {entry.name}` needs {exc.name}, which is not installed: run scripts/env run"
        ) from exc


def version() -> str:
    """The version of the installed distribution, or that this is a bare checkout."""
    try:
        return metadata.version("interlock-gateway")
    except metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"


class _Version(argparse.Action):
    """Prints the version without making every start look it up."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"interlock {version()}")
        parser.exit(OK)
