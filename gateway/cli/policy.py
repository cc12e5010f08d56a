"""`interlock policy`: check, test or evaluate policies without a gateway and without OPA."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from adapters.pdp.bundle import Bundle, Fault, PolicyRefused, load_bundle
from adapters.pdp.checks import check_bundle, examine
from adapters.pdp.cost import unbounded
from adapters.pdp.engine import EngineFailure
from adapters.pdp.policytests import Report, run_tests
from adapters.pdp.rules import Program, Rule
from adapters.pdp.trial import TrialEngine
from gateway import codec
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, CommandFailed, Commands
from gateway.config.tree import policy_library, starter_policies

_TEAMS: Final = "rules"
_NOTHING: Final[tuple[object, ...]] = (None, False, [], {}, "")


def add_parser(commands: Commands) -> None:
    """Mount the command."""
    parser = commands.add_parser("policy", help="check, test or evaluate policies")
    verbs = parser.add_subparsers(title="what to do", metavar="WHAT", required=True)
    checking = verbs.add_parser("check", help="say everything that keeps the policy from being activated")
    checking.set_defaults(func=check)
    testing = verbs.add_parser("test", help="run the policy's own tests")
    testing.add_argument("--coverage", action="store_true", help="list the lines that no test reaches")
    testing.set_defaults(func=test)
    evaluating = verbs.add_parser("eval", help="answer one question, and say which rules fired")
    evaluating.add_argument("--input", required=True, metavar="FILE", help="an interlock.input/1 question; - is stdin")
    evaluating.set_defaults(func=evaluate)
    for verb in (checking, testing, evaluating):
        verb.add_argument("--json", action="store_true", help="print JSON")
        verb.add_argument(
            "--path",
            action="append",
            type=Path,
            metavar="DIR",
            help="a directory of rules, on top of the library (again for more; default: the starter policies)",
        )


def check(arguments: argparse.Namespace) -> int:
    """Exit code 0 if the policy could be activated, else 1."""
    bundle, faults = _load(arguments.path)
    remarks: list[str] = []
    if bundle is not None:
        examined = examine(bundle)
        faults = list(examined.faults)
        if examined.program is not None and not faults:
            remarks = list(unbounded(examined.program, bundle))
    revision = bundle.revision if bundle is not None else ""
    if arguments.json:
        _print_json({"ok": not faults, "revision": revision, "faults": _plain(faults), "unbounded": remarks})
    else:
        print("\n".join(str(fault) for fault in faults) or f"policy {revision}: nothing to correct")
        for remark in remarks:
            print(f"note: evaluated in a process of its own, because of {remark}")
    return NOT_AS_IT_SHOULD_BE if faults else OK


def test(arguments: argparse.Namespace) -> int:
    """Exit code 0 if there are tests and all passed, else 1."""
    bundle, faults = _load(arguments.path)
    report = Report(())
    if bundle is not None:
        faults = check_bundle(bundle)
        report = report if faults else run_tests(bundle, coverage=arguments.coverage)
        faults += report.faults
    good = not faults and bool(report.outcomes)
    if arguments.json:
        uncovered = {file: list(lines) for file, lines in report.uncovered.items()}
        _print_json({"ok": good, "tests": len(report.outcomes), "faults": _plain(faults), "uncovered": uncovered})
    else:
        _print_report(report, faults, coverage=arguments.coverage)
    return OK if good else NOT_AS_IT_SHOULD_BE


def evaluate(arguments: argparse.Namespace) -> int:
    """Exit code 0 if the policy permits (of a list: answers), else 1."""
    bundle, faults = _load(arguments.path)
    examined = examine(bundle) if bundle is not None else None
    if bundle is None or examined is None or examined.program is None or examined.faults:
        found = faults if examined is None else examined.faults
        raise CommandFailed("the policy cannot be evaluated:\n" + "\n".join(str(fault) for fault in found))
    question = _question(arguments.input)
    entrypoint = "visible" if question.get("phase") == "list" else "decision"
    with TrialEngine(bundle) as engine:
        answer, failure = _ask(engine, f"data.interlock.{entrypoint}", question)
        fired = _fired(engine, examined.program, question)
        printed = cast("list[str]", codec.loads(engine.prints()))
    permits = not failure and (entrypoint == "visible" or (isinstance(answer, dict) and answer.get("decision") is True))
    if arguments.json:
        _print_json({"permits": permits, "answer": answer, "failure": failure, "fired": fired, "printed": printed})
    else:
        _print_answer(answer, failure, fired, printed)
    return OK if permits else NOT_AS_IT_SHOULD_BE


def _load(paths: Sequence[Path] | None) -> tuple[Bundle | None, list[Fault]]:
    library = policy_library()
    chosen = [path for path in (paths or [starter_policies()]) if path.resolve() != library.resolve()]
    try:
        return load_bundle([library, *chosen]), []
    except PolicyRefused as refused:
        return None, list(refused.faults)


def _question(place: str) -> Mapping[str, object]:
    try:
        value = codec.loads(sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes())
    except (OSError, ValueError) as exc:
        raise CommandFailed(f"{place}: not a JSON file that can be read") from exc
    if not isinstance(value, dict):
        raise CommandFailed(f"{place}: a question is a JSON object (interlock.input/1)")
    question = value.get("input", value) if "subject" not in value else value
    return cast("Mapping[str, object]", question if isinstance(question, dict) else value)


def _ask(engine: TrialEngine, rule: str, question: Mapping[str, object]) -> tuple[object, str]:
    try:
        return codec.loads(engine.evaluate(rule, codec.dumps(question))), ""
    except EngineFailure as failure:
        return None, failure.kind if failure.kind != "failed" else f"{failure.where}: {failure.text}"


def _fired(engine: TrialEngine, program: Program, question: Mapping[str, object]) -> dict[str, object]:
    """The rules of the teams that have something to say about this question."""
    names = {rule.name for rule in program.rules if _may_fire(program, rule)}
    values = {f"data.{name}": _ask(engine, f"data.{name}", question)[0] for name in sorted(names)}
    return {name: value for name, value in values.items() if value not in _NOTHING}


def _may_fire(program: Program, rule: Rule) -> bool:
    """Whether it is a team's rule whose value depends on the question."""
    is_teams = rule.path[0] == _TEAMS and rule.arity is None and None not in rule.path
    return is_teams and any(each.uses.inputs for each in program.closure(rule.path))


def _plain(faults: Sequence[Fault]) -> list[dict[str, object]]:
    return [{"file": fault.file, "line": fault.line, "col": fault.col, "message": fault.message} for fault in faults]


def _print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _print_report(report: Report, faults: Sequence[Fault], *, coverage: bool) -> None:
    for fault in faults:
        print(fault)
    failed = sum(1 for outcome in report.outcomes if outcome.fault)
    print(f"{len(report.outcomes) - failed} passed, {failed} failed" if report.outcomes else "no tests were run")
    for file, lines in report.uncovered.items():
        print(f"{file}: not reached: {', '.join(str(line) for line in lines)}")
    if coverage and report.outcomes and not report.uncovered:
        print("every line was reached")


def _print_answer(answer: object, failure: str, fired: Mapping[str, object], printed: Sequence[str]) -> None:
    print(f"denied: {failure}" if failure else json.dumps(answer, indent=2, ensure_ascii=False))
    print("fired:" if fired else "no rule fired")
    for name, value in fired.items():
        print(f"  {name} = {json.dumps(value, ensure_ascii=False)}")
    for line in printed:
        print(f"print: {line}")
