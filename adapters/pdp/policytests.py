"""The tests that a policy brings along, run on the embedded engine.

Two kinds: rules named `test_*` in `*_test.rego`, which must be true, as `opa test` runs them; and cases under `cases/`,
each a list of `{"name", "entrypoint", "input", "expect"}`, where `expect` names what the answer must hold at least.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import orjson

from adapters.pdp.bundle import Bundle, Fault, Source
from adapters.pdp.engine import EngineFailure, read_yaml
from adapters.pdp.rules import Program, Rule
from adapters.pdp.syntax import modules_in
from adapters.pdp.trial import DEADLINE_S, TrialEngine
from gateway import codec

TEST_PREFIX: Final = "test_"


@dataclass(frozen=True, slots=True)
class Case:
    """One question and what the answer must hold at least."""

    file: str
    name: str
    entrypoint: str
    input: Mapping[str, object]
    expect: object


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test went. `fault` is empty when it passed."""

    name: str
    file: str
    line: int = 0
    col: int = 0
    fault: str = ""
    printed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """How all tests went, and which lines of which file none of them reached."""

    outcomes: tuple[Outcome, ...]
    uncovered: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    covered: Mapping[str, int] = field(default_factory=dict)
    """How many lines of each file were reached; a file with nothing to reach is not in it."""

    def percent(self, file: str) -> float:
        """Coverage of one file, in percent."""
        return self.percent_of([file])

    def percent_of(self, files: Iterable[str]) -> float:
        """Coverage of several files together, in percent; 100 of none."""
        chosen = list(files)
        reached = sum(self.covered.get(file, 0) for file in chosen)
        lines = reached + sum(len(self.uncovered.get(file, ())) for file in chosen)
        return 100.0 * reached / lines if lines else 100.0

    @property
    def faults(self) -> list[Fault]:
        """What failed, as faults of the policy."""
        return [
            Fault(each.file, each.line, each.col, f"{each.name}: {each.fault}") for each in self.outcomes if each.fault
        ]


def run_tests(bundle: Bundle, *, coverage: bool = False, deadline_s: float = DEADLINE_S) -> Report:
    """Run every test of the bundle, each with a deadline."""
    if not bundle.tests and not bundle.cases and not coverage:
        return Report(())
    try:
        with TrialEngine(bundle, coverage=coverage, deadline_s=deadline_s) as engine:
            rules = _test_rules(engine, {test.path for test in bundle.tests})
            outcomes = [*(_outcome(engine, rule) for rule in rules), *_case_outcomes(engine, bundle.cases)]
            return Report(tuple(outcomes), *(_coverage(engine, bundle) if coverage else ()))
    except EngineFailure as failure:
        return Report((Outcome("tests", failure.file or "policy", failure.line, failure.col, failure.text),))


def cases_in(source: Source) -> tuple[Case, ...]:
    """The cases of one file. Raises `ValueError` for one that cannot be read."""
    document = codec.loads(source.text.encode()) if source.path.endswith(".json") else read_yaml(source.text)
    if not isinstance(document, list) or not all(isinstance(entry, dict) for entry in document):
        raise ValueError("cases are a list of objects with name, input and expect")
    return tuple(_case(source.path, cast("dict[str, object]", entry)) for entry in document)


def _case(file: str, entry: Mapping[str, object]) -> Case:
    unknown = entry.keys() - {"name", "entrypoint", "input", "expect"}
    question = entry.get("input")
    if unknown or "expect" not in entry or not isinstance(question, dict):
        raise ValueError("a case has name, input (an object), expect and, if it is not decision, entrypoint")
    name = str(entry.get("name", "unnamed"))
    return Case(file, name, str(entry.get("entrypoint", "decision")), question, entry["expect"])


def holds(expected: object, actual: object) -> bool:
    """Whether `actual` has everything that `expected` names; of a list, in any order."""
    if isinstance(expected, Mapping):
        return isinstance(actual, Mapping) and all(
            key in actual and holds(value, actual[key]) for key, value in expected.items()
        )
    if isinstance(expected, list):
        if not isinstance(actual, list) or (not expected and actual):
            return False
        return all(any(holds(item, other) for other in actual) for item in expected)
    return type(expected) is type(actual) and expected == actual


def _test_rules(engine: TrialEngine, files: set[str]) -> Iterator[Rule]:
    seen: set[str] = set()
    for rule in Program(modules_in(engine.tree())).rules:
        last = rule.path[-1] or ""
        if rule.file in files and last.startswith(TEST_PREFIX) and rule.arity is None and rule.name not in seen:
            seen.add(rule.name)
            yield rule


def _outcome(engine: TrialEngine, rule: Rule) -> Outcome:
    fault = ""
    try:
        value = orjson.loads(engine.evaluate(f"data.{rule.name}", b"{}"))
        fault = "" if value is True else "is not true"
    except EngineFailure as failure:
        fault = "is undefined" if failure.kind == "undefined" else f"{failure.where}: {failure.text or failure.kind}"
    printed = tuple(orjson.loads(engine.prints()))
    return Outcome(rule.name, rule.file, rule.node.line, rule.node.col, fault, printed)


def _case_outcomes(engine: TrialEngine, sources: Iterable[Source]) -> Iterator[Outcome]:
    for source in sources:
        try:
            cases = cases_in(source)
        except ValueError as exc:
            yield Outcome("cases", source.path, fault=str(exc))
            continue
        for case in cases:
            yield Outcome(case.name, case.file, fault=_case_fault(engine, case))


def _case_fault(engine: TrialEngine, case: Case) -> str:
    try:
        value = orjson.loads(engine.evaluate(f"data.interlock.{case.entrypoint}", codec.dumps(case.input)))
    except EngineFailure as failure:
        return f"{failure.kind} {failure.where} {failure.text}".strip()
    return "" if holds(case.expect, value) else f"the answer is {codec.dumps(value).decode()}"


def _coverage(engine: TrialEngine, bundle: Bundle) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """The lines of each file that were not reached, and how many were."""
    report = cast("dict[str, list[dict[str, object]]]", orjson.loads(engine.coverage()))
    policies = {file.path for file in bundle.files}
    entries = [entry for entry in report["files"] if entry["path"] in policies]
    missed = {str(entry["path"]): tuple(cast("Sequence[int]", entry["not_covered"])) for entry in entries}
    reached = {str(entry["path"]): len(cast("Sequence[int]", entry["covered"])) for entry in entries}
    return {file: lines for file, lines in missed.items() if lines}, reached
