"""`interlock policy eval`: the answer to one question, and why it is that."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

from adapters.pdp.engine import EngineFailure
from adapters.pdp.explain import Explained, Failed, explain
from adapters.pdp.rules import Program, Rule
from adapters.pdp.trial import TrialEngine
from gateway import codec
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, CommandFailed
from gateway.cli.policy_files import Verbs, add_json, add_path, entrypoint_for, print_json, read_question, usable

_TEAMS: Final = "rules"
_NOTHING: Final[tuple[object, ...]] = (None, False, [], {}, "")
_SHOWN_CHARS: Final = 80
_DESCRIPTION: Final = (
    "Answer one question as the gateway would, and say which of the teams' rules fired. With --explain also, for each"
    " body of a rule that did not fire, the first of its expressions that does not hold. Exit code 0 if the policy"
    " permits (of a list: answers), else 1."
)


def add_verb(verbs: Verbs) -> None:
    """Mount `eval`."""
    verb = verbs.add_parser("eval", help="answer one question, and say which rules fired", description=_DESCRIPTION)
    verb.add_argument("--input", required=True, metavar="FILE", help="an interlock.input/1 question; - is stdin")
    verb.add_argument("--explain", action="store_true", help="say why each rule that did not fire did not")
    add_json(verb)
    add_path(verb)
    verb.set_defaults(func=evaluate)


def evaluate(arguments: argparse.Namespace) -> int:
    """Exit code 0 if the policy permits (of a list: answers), else 1."""
    bundle, program = usable(arguments.path)
    question = read_question(arguments.input)
    entrypoint = entrypoint_for(question)
    with TrialEngine(bundle) as engine:
        answer, failure = _ask(engine, f"data.interlock.{entrypoint}", question)
        fired = _fired(engine, program, question)
        printed = cast("list[str]", codec.loads(engine.prints()))
    permits = not failure and (entrypoint == "visible" or (isinstance(answer, dict) and answer.get("decision") is True))
    explained: tuple[Explained, ...] | None = None
    if arguments.explain:
        try:
            explained = explain(bundle, program, question)
        except EngineFailure as exc:
            raise CommandFailed(f"this policy cannot be explained: {exc.where} {exc.text or exc.kind}") from exc
    if arguments.json:
        value = {"permits": permits, "answer": answer, "failure": failure, "fired": fired, "printed": printed}
        print_json(value if explained is None else {**value, "rules": [_plain_rule(each) for each in explained]})
    else:
        _print_answer(answer, failure, fired, printed)
        _print_explained(explained or ())
    return OK if permits else NOT_AS_IT_SHOULD_BE


def _ask(engine: TrialEngine, rule: str, question: Mapping[str, object]) -> tuple[object, str]:
    try:
        return codec.loads(engine.evaluate(rule, codec.dumps(question))), ""
    except EngineFailure as failure:
        if engine.is_over:
            raise CommandFailed(f"no answer to {rule}, which a gateway takes for a no: {failure.text}") from failure
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


def _plain_rule(explained: Explained) -> dict[str, object]:
    place = {"rule": explained.rule, "file": explained.file, "line": explained.line, "col": explained.col}
    told: dict[str, object] = {**place, "fired": explained.fired}
    if explained.failed is not None:
        told["failed"] = _plain_failed(explained.failed)
    return {**told, "unknown": explained.unknown} if explained.unknown else told


def _plain_failed(failed: Failed) -> dict[str, object]:
    told: dict[str, object] = {"file": failed.file, "line": failed.line, "col": failed.col, "text": failed.text}
    told["why"] = failed.why
    told["read"] = [{"path": path, "defined": there, "value": value} for path, there, value in failed.read]
    told["inside"] = [_plain_failed(each) for each in failed.inside]
    return told


def _print_answer(answer: object, failure: str, fired: Mapping[str, object], printed: Sequence[str]) -> None:
    print(f"denied: {failure}" if failure else json.dumps(answer, indent=2, ensure_ascii=False))
    print("fired:" if fired else "no rule fired")
    for name, value in fired.items():
        print(f"  {name} = {json.dumps(value, ensure_ascii=False)}")
    for line in printed:
        print(f"print: {line}")


def _print_explained(explained: Sequence[Explained]) -> None:
    for each in explained:
        place = f"{each.file}:{each.line}:{each.col}"
        if each.fired:
            print(f"\n{place}: {each.rule} fired")
        elif each.failed is None:
            print(f"\n{place}: {each.rule}: cannot be explained: {each.unknown}")
        else:
            print(f"\n{place}: {each.rule} did not fire:")
            print("\n".join(_failure_lines(each.failed, "  ")))


def _failure_lines(failed: Failed, indent: str) -> Iterator[str]:
    text = " ".join(failed.text.split())
    yield f"{indent}{failed.file}:{failed.line}:{failed.col}: {text}   <- {failed.why}"
    for path, there, value in failed.read:
        shown = json.dumps(value, ensure_ascii=False) if there else "not there"
        yield f"{indent}    {path}: {shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + ' ...'}"
    for each in failed.inside:
        yield from _failure_lines(each, f"{indent}  in ")
