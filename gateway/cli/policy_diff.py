"""`interlock policy diff`: what changes from one policy to another, in its rules, its data and its answers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.pdp.differences import Change, answer, data_changes, rule_changes, verdict
from adapters.pdp.engine import EngineFailure
from adapters.pdp.trial import TrialEngine
from gateway import codec
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, CommandFailed
from gateway.cli.policy_files import Verbs, add_json, entrypoint_for, print_json, question_in, usable

_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~"}
_DESCRIPTION: Final = (
    "Say which rules were added, removed or changed from A to B (layout and comments do not count), which data, and,"
    " with --inputs, which answers differ. The library is put beside both. Exit code 1 when an answer differs, else 0."
)


@dataclass(frozen=True, slots=True)
class Differing:
    """A question that the two answer differently; `line` in the file of questions."""

    line: int
    about: str
    before: object
    after: object


def add_verb(verbs: Verbs) -> None:
    """Mount `diff`."""
    verb = verbs.add_parser("diff", help="compare two policies", description=_DESCRIPTION)
    verb.add_argument("old", type=Path, metavar="A", help="a directory of rules")
    verb.add_argument("new", type=Path, metavar="B", help="another one")
    verb.add_argument("--inputs", type=Path, metavar="FILE.jsonl", help="questions (interlock.input/1), one a line")
    add_json(verb)
    verb.set_defaults(func=diff)


def diff(arguments: argparse.Namespace) -> int:
    """Exit code 0 if no answer differs, else 1."""
    (old, old_program), (new, new_program) = usable([arguments.old]), usable([arguments.new])
    rules, data = rule_changes(old_program, new_program), data_changes(old, new)
    differing: list[Differing] = []
    asked = 0
    if arguments.inputs is not None:
        questions = list(_questions(arguments.inputs))
        asked = len(questions)
        with TrialEngine(old) as before, TrialEngine(new) as after:
            try:
                differing = list(_differing(before, after, questions))
            except EngineFailure as exc:
                culprit = arguments.old if before.is_over else arguments.new
                raise CommandFailed(f"{culprit} cannot be compared: {exc.text}") from exc
    if arguments.json:
        plain_rules = {package: [_plain(change) for change in changes] for package, changes in rules.items()}
        revisions = {"from": old.revision, "to": new.revision}
        answers = [_plain_answer(each) for each in differing]
        print_json(
            {
                **revisions,
                "rules": plain_rules,
                "data": [_plain(each) for each in data],
                "asked": asked,
                "differing": answers,
            }
        )
    else:
        _print(rules, data)
        _print_answers(differing, asked)
    return NOT_AS_IT_SHOULD_BE if differing else OK


def _questions(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise CommandFailed(f"{path}: not a file that can be read") from exc
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, question_in(line, f"{path}:{number}")


def _differing(
    before: TrialEngine, after: TrialEngine, questions: Sequence[tuple[int, Mapping[str, object]]]
) -> Iterator[Differing]:
    for number, question in questions:
        entrypoint, text = entrypoint_for(question), codec.dumps(question)
        old, new = answer(before, entrypoint, text), answer(after, entrypoint, text)
        if codec.canonical(old) != codec.canonical(new):
            yield Differing(number, _about(question), old, new)


def _about(question: Mapping[str, object]) -> str:
    """Who wants to do what to what."""
    parts = [(part, name) for part, name in (("subject", "id"), ("action", "name"), ("resource", "id"))]
    values = [found.get(name, "?") if isinstance(found := question.get(part), dict) else "?" for part, name in parts]
    return f"{values[0] or 'nobody'} {values[1]} {values[2]}"


def _plain(change: Change) -> dict[str, object]:
    return {"kind": change.kind, "name": change.name, "before": list(change.before), "after": list(change.after)}


def _plain_answer(each: Differing) -> dict[str, object]:
    verdicts = {"from": verdict(each.before), "to": verdict(each.after)}
    return {"line": each.line, "about": each.about, **verdicts, "before": each.before, "after": each.after}


def _print(rules: Mapping[str, Sequence[Change]], data: Sequence[Change]) -> None:
    for package, changes in rules.items():
        print(f"package {package}")
        for change in changes:
            places = [*(f"-{place}" for place in change.before), *(f"+{place}" for place in change.after)]
            print(f"  {_SIGNS[change.kind]} {change.name}  {' '.join(places)}")
    for change in data:
        values = " -> ".join(_shortened(value) for value in (*change.before, *change.after))
        print(f"{_SIGNS[change.kind]} {change.name}  {values}")
    if not rules and not data:
        print("no rule and no data differs")


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]} ..."


def _print_answers(differing: Sequence[Differing], asked: int) -> None:
    for each in differing:
        old, new = verdict(each.before), verdict(each.after)
        more = " (in obligations, labels or wording)" if old == new else ""
        print(f"line {each.line}: {each.about}: {old} -> {new}{more}")
    if asked:
        print(f"{len(differing)} of {asked} answers differ")
