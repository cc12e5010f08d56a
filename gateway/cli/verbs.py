"""Verbs of commands that ask a gateway that is running, such as `interlock budgets list`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TypeAlias

from gateway.cli.main import OK
from gateway.cli.remote import Remote, add_remote, remote

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Verb: TypeAlias = Callable[[argparse.Namespace, Remote], int]
"""Asks the gateway and prints what it says; the exit code."""


def add_verb(verbs: Verbs, name: str, purpose: str, verb: Verb, role: str) -> argparse.ArgumentParser:
    """Mount a verb. `role` is one that usually may do it, for who has no key or is refused."""
    parser = verbs.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    add_remote(parser)
    parser.set_defaults(func=lambda args: verb(args, remote(args, role)))
    return parser


def print_json(value: object) -> int:
    """What `--json` shows; the exit code."""
    print(json.dumps(value, indent=2))
    return OK
