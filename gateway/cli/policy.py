"""`interlock policy`: what an author of policies needs, without a gateway and without OPA."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from adapters.pdp.bundle import Fault
from adapters.pdp.checks import examine
from adapters.pdp.cost import unbounded
from adapters.pdp.input_schema import Unknown, read_schema, unknown_references
from adapters.pdp.rules import Program
from gateway.cli import (
    policy_bench,
    policy_bundle,
    policy_diff,
    policy_evaluating,
    policy_replay,
    policy_shadow,
    policy_testing,
    policy_tools,
)
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, CommandFailed, Commands
from gateway.cli.policy_files import Verbs, add_json, add_path, load, plain, print_json
from gateway.config.fields import policy_library

_DESCRIPTION: Final = (
    "Say everything that keeps the policy from being activated but its own tests (`interlock policy test`), and"
    " references to parts of the question that do not exist. Notes are no faults. Exit code 1 if there is a fault."
)


def add_parser(commands: Commands) -> None:
    """Mount the command."""
    parser = commands.add_parser("policy", help="check, test or evaluate policies")
    verbs = parser.add_subparsers(title="what to do", metavar="WHAT", required=True)
    _add_check(verbs)
    policy_testing.add_verb(verbs)
    policy_evaluating.add_verb(verbs)
    policy_tools.add_verbs(verbs)
    policy_bench.add_verb(verbs)
    policy_bundle.add_verbs(verbs)
    policy_diff.add_verb(verbs)
    policy_shadow.add_verbs(verbs)
    policy_replay.add_verbs(verbs)


def _add_check(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "check",
        help="say everything that keeps the policy from being activated but its tests",
        description=_DESCRIPTION,
    )
    add_json(verb)
    add_path(verb)
    verb.set_defaults(func=check)


def check(arguments: argparse.Namespace) -> int:
    """Exit code 0 if the policy could be activated and reads only what questions have, else 1."""
    bundle, faults = load(arguments.path)
    remarks: list[str] = []
    notes: Sequence[Fault] = ()
    if bundle is not None:
        examined = examine(bundle)
        unknown = _unknown(examined.program)
        faults, notes = sorted({*examined.faults, *unknown.faults}), unknown.notes
        if examined.program is not None and not examined.faults:
            remarks = list(unbounded(examined.program, bundle))
    revision = bundle.revision if bundle is not None else ""
    if arguments.json:
        report = {"ok": not faults, "revision": revision, "faults": plain(faults), "notes": plain(notes)}
        print_json({**report, "unbounded": remarks})
    else:
        print("\n".join(str(fault) for fault in faults) or f"policy {revision}: nothing to correct")
        _print_notes(notes, remarks)
    return NOT_AS_IT_SHOULD_BE if faults else OK


def _unknown(program: Program | None) -> Unknown:
    """What the policy reads of a question that no question has."""
    if program is None:
        return Unknown()
    path = policy_library().with_name("schemas") / "input.schema.json"
    try:
        return unknown_references(program, read_schema(path))
    except (OSError, ValueError) as exc:
        raise CommandFailed(f"{path}: the schema of questions cannot be read; install Interlock again") from exc


def _print_notes(notes: Sequence[Fault], remarks: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}")
    for remark in remarks:
        print(f"note: evaluated in a process of its own, because of {remark}")
