"""The policies and questions that the verbs of `interlock policy` are given."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from adapters.pdp.bundle import Bundle, Fault, PolicyRefused, load_bundle
from adapters.pdp.checks import Examined, examine
from adapters.pdp.policytests import run_tests
from adapters.pdp.rules import Program
from gateway import codec
from gateway.cli.main import CommandFailed
from gateway.config.fields import policy_library, starter_policies
from gateway.ports import Entrypoint


class Verbs(Protocol):
    """What the modules of single verbs mount themselves on: argparse's collection of them."""

    def add_parser(self, name: str, *, help: str, description: str = ...) -> argparse.ArgumentParser: ...  # noqa: A002


def add_path(verb: argparse.ArgumentParser) -> None:
    """The option that says which policy is meant."""
    verb.add_argument(
        "--path",
        action="append",
        type=Path,
        metavar="DIR",
        help="a directory of rules, on top of the library (again for more; default: the starter policies)",
    )


def add_json(verb: argparse.ArgumentParser) -> None:
    """The option for who reads the output with a program."""
    verb.add_argument("--json", action="store_true", help="print JSON")


def load(paths: Sequence[Path] | None) -> tuple[Bundle | None, list[Fault]]:
    """The library with these directories on top, or what keeps them from being read."""
    library = policy_library()
    chosen = [path for path in (paths or [starter_policies()]) if path.resolve() != library.resolve()]
    try:
        return load_bundle([library, *chosen]), []
    except PolicyRefused as refused:
        return None, list(refused.faults)


def refusals(bundle: Bundle, examined: Examined) -> list[Fault]:
    """What keeps a policy from being activated: its faults or, where it has none, its tests that fail."""
    return list(examined.faults) or run_tests(bundle).faults


def usable(paths: Sequence[Path] | None) -> tuple[Bundle, Program]:
    """A policy that could be activated. Raises `CommandFailed` with everything that is wrong with any other."""
    bundle, faults = load(paths)
    examined = examine(bundle) if bundle is not None else None
    if bundle is None or examined is None or examined.program is None or examined.faults:
        found = faults if examined is None else examined.faults
        raise CommandFailed("the policy cannot be evaluated:\n" + "\n".join(str(fault) for fault in found))
    return bundle, examined.program


def own_files(bundle: Bundle) -> list[str]:
    """The files that are not the library's; all of them where there are no others."""
    library = policy_library()
    shipped = {f"{library.name}/{path.relative_to(library).as_posix()}" for path in library.rglob("*.rego")}
    return [file.path for file in bundle.files if file.path not in shipped] or [file.path for file in bundle.files]


def read_question(place: str) -> Mapping[str, object]:
    """One question from a file or, for `-`, from standard input; it may be wrapped in `{"input": ...}`."""
    try:
        text = sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
    except OSError as exc:
        raise CommandFailed(f"{place}: not a JSON file that can be read") from exc
    return question_in(text, place)


def question_in(text: bytes, place: str) -> Mapping[str, object]:
    """The question that is written here. Raises `CommandFailed`, naming `place`, when there is none."""
    try:
        value = codec.loads(text)
    except ValueError as exc:
        raise CommandFailed(f"{place}: not a JSON file that can be read") from exc
    if not isinstance(value, dict):
        raise CommandFailed(f"{place}: a question is a JSON object (interlock.input/1)")
    question = value.get("input", value) if "subject" not in value else value
    return cast("Mapping[str, object]", question if isinstance(question, dict) else value)


def entrypoint_for(question: Mapping[str, object]) -> Entrypoint:
    """Who answers such a question."""
    return "visible" if question.get("phase") == "list" else "decision"


def plain(faults: Iterable[Fault]) -> list[dict[str, object]]:
    """Faults as JSON."""
    return [{"file": fault.file, "line": fault.line, "col": fault.col, "message": fault.message} for fault in faults]


def print_json(value: object) -> None:
    """One line of JSON."""
    print(json.dumps(value, ensure_ascii=False), flush=True)
