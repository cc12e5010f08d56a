"""Whether a policy can be activated: everything that is wrong with it, each with file, line and what to do.

The same checks hold for the embedded engine and for OPA, so that a policy that passes means the same on both.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, cast

import orjson

from adapters.pdp.builtins import ARITY, FORBIDDEN, VARIADIC
from adapters.pdp.bundle import Bundle, Fault, Source
from adapters.pdp.engine import EngineFailure
from adapters.pdp.rules import Call, Program, Rule
from adapters.pdp.safety import unsafe_names
from adapters.pdp.samples import SAMPLES
from adapters.pdp.syntax import Node, constant_path, modules_in
from adapters.pdp.trial import DEADLINE_S, TrialEngine
from gateway import codec
from gateway.ports import Entrypoint

ENTRYPOINTS: Final[tuple[Entrypoint, ...]] = ("decision", "visible")
PACKAGE: Final = "interlock"
RULES: Final = "rules"
RULES_DEPTH: Final = 2
NEGATION: Final = ("future", "keywords", "not")
_PLAIN: Final = frozenset({"Var", "RefDot", "RefBrack"})
_VERB: Final = re.compile(r"%(?:[^a-zA-Z%]*)(?:[a-zA-Z%]|$)")
_EQUAL_VERB: Final = re.compile(r"%(?:[vsdxq%]|0?[0-9]+d|\.[0-9]+f)")
_UNEQUAL_CLASS: Final = re.compile(r"(?:^|[^\\])(?:\\\\)*(\\[wWdDsSbB])")
_WRITE_INSTEAD: Final = {"w": "[0-9A-Za-z_]", "d": "[0-9]", "s": "[ \\t\\n\\r]", "b": "what must stand there"}


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found about a bundle. `program` is there even if there are faults, unless it does not parse."""

    faults: tuple[Fault, ...]
    program: Program | None = None


def check_bundle(bundle: Bundle, *, deadline_s: float = DEADLINE_S) -> list[Fault]:
    """Everything that keeps `bundle` from being activated; empty when nothing does."""
    return list(examine(bundle, deadline_s=deadline_s).faults)


def examine(bundle: Bundle, *, deadline_s: float = DEADLINE_S) -> Examined:
    """`check_bundle`, with the analysed program for those who go on."""
    try:
        with TrialEngine(replace(bundle, tests=()), deadline_s=deadline_s) as engine:
            program = Program(modules_in(engine.tree()))
            faults = [*_static_faults(program, bundle)]
            if not faults:  # evaluating a recursive policy would only kill the process
                faults += _probed(engine)
    except EngineFailure as failure:
        return Examined(tuple(_unparsed(bundle, deadline_s)) or (_fault(failure),))
    one_per_place = {(fault.file, fault.line, fault.col, fault.line or fault.message): fault for fault in faults[::-1]}
    return Examined(tuple(sorted(one_per_place.values())), program)


def _unparsed(bundle: Bundle, deadline_s: float) -> Iterator[Fault]:
    """What does not parse, as far as it is found in time: each file takes a process."""
    until_s = time.monotonic() + deadline_s
    for file in bundle.files:
        yield from _parse_faults(file, deadline_s)
        if time.monotonic() > until_s:
            return


def _parse_faults(file: Source, deadline_s: float) -> Iterator[Fault]:
    """What is wrong with one file by itself: the engine stops at the first that it cannot read."""
    try:
        TrialEngine(Bundle((file,), b"{}", ""), deadline_s=deadline_s).close()
    except EngineFailure as failure:
        yield replace(_fault(failure), file=failure.file or file.path)


def _fault(failure: EngineFailure) -> Fault:
    text = "the engine panicked" if failure.kind == "panic" else failure.text or failure.kind
    return Fault(failure.file or "policy", failure.line, failure.col, text)


def _static_faults(program: Program, bundle: Bundle) -> Iterator[Fault]:
    yield from _missing_entrypoints(program)
    yield from _overlaps(program, cast("Mapping[str, object]", codec.loads(bundle.data)))
    yield from _recursions(program)
    yield from _two_kinds(program)
    yield from _package_faults(program)
    yield from _negation_faults(program)
    for rule in program.rules:
        for call in rule.uses.calls:
            yield from _call_faults(program, rule, call)
        for unsafe in unsafe_names(rule):
            yield _at(rule, unsafe.node, unsafe.message)


def _missing_entrypoints(program: Program) -> Iterator[Fault]:
    for name in ENTRYPOINTS:
        found = [rule for rule in program.rules if rule.path == (PACKAGE, name)]
        if not found:
            text = f"no rule data.{PACKAGE}.{name}; load the shipped library (policies/lib) or define it"
            yield Fault("policy", 0, 0, text)
        for rule in found:
            if rule.arity is not None:
                yield _at(rule, rule.node, f"data.{PACKAGE}.{name} is a function; it must be a rule")


def _overlaps(program: Program, data: Mapping[str, object]) -> Iterator[Fault]:
    """Data in the place of a rule: the embedded engine would silently prefer it to the rule."""
    for rule in program.rules:
        taken = _taken(data, rule.path)
        if taken:
            yield _at(rule, rule.node, f"data.{taken} is given as data too; rename the rule or the data")


def _taken(data: object, path: Iterable[str | None]) -> str:
    seen: list[str] = []
    for step in path:
        if step is None or not isinstance(data, dict):
            break
        if step not in data:
            return ""
        seen.append(step)
        data = data[step]
    return ".".join(seen)


def _recursions(program: Program) -> Iterator[Fault]:
    """Rego has no recursion (OPA refuses it; the embedded engine overflows its stack)."""
    needs = {rule: tuple(program.needed_by(rule, without_locals=True)) for rule in program.rules}
    done: set[Rule] = set()
    for rule in program.rules:
        cycle = _cycle_from(rule, needs, done)
        if cycle:
            text = " -> ".join(f"data.{step.name}" for step in (*cycle, cycle[0]))
            yield _at(cycle[0], cycle[0].node, f"recursive: {text}; write it without")


def _two_kinds(program: Program) -> Iterator[Fault]:
    """A name that is a rule here and a function there, or a function of two arities: no engine takes it for both."""
    first: dict[tuple[str | None, ...], Rule] = {}
    for rule in program.rules:
        other = first.setdefault(rule.path, rule)
        if other.arity != rule.arity:
            place = f"{other.file}:{other.node.line}"
            text = f"data.{rule.name} is {_kind(other)} at {place} and {_kind(rule)} here; rename one"
            yield _at(rule, rule.node, text)


def _kind(rule: Rule) -> str:
    return "a rule" if rule.arity is None else f"a function of {rule.arity}"


def _package_faults(program: Program) -> Iterator[Fault]:
    """Packages whose rules would not all count.

    The embedded engine silently loses rules, denials among them, of a package that is spread over several files; and
    the library composes `rules.<team>`, nothing deeper.
    """
    first: dict[tuple[str, ...], str] = {}
    for module in program.modules:
        name = ".".join(module.package)
        home = first.setdefault(module.package, module.file)
        if home != module.file:
            text = f"package {name} already has the file {home}; keep a package in one file, or rules of it may be lost"
            yield Fault(module.file, 1, 1, text)
        if module.package[:1] == (RULES,) and len(module.package) != RULES_DEPTH:
            yield Fault(module.file, 1, 1, f"package {name} is not asked: rules live in {RULES}.<team>, one name deep")


def _negation_faults(program: Program) -> Iterator[Fault]:
    """OPA and the embedded engine differ on `not f(x)` with an undefined `x`, except under `future.keywords.not`."""
    agreed = {
        module.file for module in program.modules if any(constant_path(ref) == NEGATION for ref, _ in module.imports)
    }
    for rule in program.rules:
        if rule.module.file in agreed:
            continue
        for node in rule.node.walk():
            inner = node.part("expr") if node.kind == "NotExpr" else None
            if inner is not None and inner.kind not in _PLAIN:
                text = (
                    "`not` round a call means different things to different engines; add `import future.keywords.not`"
                )
                yield _at(rule, node, text)


def _cycle_from(start: Rule, needs: Mapping[Rule, tuple[Rule, ...]], done: set[Rule]) -> list[Rule]:
    path: list[Rule] = []
    stack: list[tuple[Rule, Iterator[Rule]]] = []
    if start not in done:
        path.append(start)
        stack.append((start, iter(needs[start])))
    while stack:
        rule, rest = stack[-1]
        following = next((each for each in rest if each not in done), None)
        if following is None:
            done.add(rule)
            stack.pop()
            path.pop()
        elif following in path:
            done.update(path)
            return path[path.index(following) :]
        else:
            path.append(following)
            stack.append((following, iter(needs[following])))
    return []


def _call_faults(program: Program, rule: Rule, call: Call) -> Iterator[Fault]:
    given = len(call.node.all("params"))
    if call.user_defined:
        takes = {function.arity for function in program.defines(call.name)}
        if not takes:
            yield _at(rule, call.node, f"there is no function {call.name}; define it or correct the name")
        elif given not in takes and given - 1 not in takes:
            yield _at(rule, call.node, f"{call.name} takes {_counts(takes)}, not {given} arguments")
        return
    if call.name in FORBIDDEN:
        yield _at(rule, call.node, f"{call.name} is not allowed: {FORBIDDEN[call.name]}")
    elif call.name in VARIADIC:
        return
    elif call.name not in ARITY:
        yield _at(rule, call.node, f"there is no function {call.name} that every engine has; do without it")
    elif given not in {ARITY[call.name], ARITY[call.name] + 1}:
        yield _at(rule, call.node, f"{call.name} takes {ARITY[call.name]} arguments, not {given}")
    else:
        yield from _literal_faults(rule, call)


def _literal_faults(rule: Rule, call: Call) -> Iterator[Fault]:
    """What is written out in a pattern or a format, and means something else on each engine."""
    argument = next((each for each in call.node.all("params") if each.kind in {"String", "RawString"}), None)
    if argument is None:
        return
    if call.name == "sprintf":
        verb = next((verb for verb in _VERB.findall(argument.text) if not _EQUAL_VERB.fullmatch(verb)), "")
        if verb:
            yield _at(rule, argument, f"the engines write {verb} differently; use %v, %s, %d or %x")
    elif call.name == "glob.match" and "[^" in argument.text:
        yield _at(rule, argument, "the engines read [^ differently; write [!")
    elif call.name.startswith("regex."):
        found = _UNEQUAL_CLASS.search(argument.text)
        if found:
            instead = _WRITE_INSTEAD[found[1][1].lower()]
            text = f"{found[1]} is about ASCII on OPA and about all of Unicode on the embedded engine; write {instead}"
            yield _at(rule, argument, text)


def _counts(takes: Iterable[int | None]) -> str:
    return " or ".join(str(count) for count in sorted(count for count in takes if count is not None))


def _at(rule: Rule, node: Node, message: str) -> Fault:
    return Fault(rule.file, node.line, node.col, message)


def _probed(engine: TrialEngine) -> Iterator[Fault]:
    """What shows only when rules are evaluated: type errors, conflicts, names that are never bound."""
    try:
        engine.query("data")
        engine.query(f"data.{PACKAGE}", codec.dumps(None))
    except EngineFailure as failure:
        yield _fault(failure)
        return
    for name, entrypoint, question in SAMPLES:
        try:
            value = orjson.loads(engine.evaluate(f"data.{PACKAGE}.{entrypoint}", codec.dumps(question)))
        except EngineFailure as failure:
            if failure.kind != "undefined":
                yield replace(_fault(failure), message=f"{_fault(failure).message} (asked for {name})")
            if engine.is_over:
                return
            continue
        if not _is_answer(entrypoint, value):
            expected = "a set of indexes" if entrypoint == "visible" else 'an object with a boolean "decision"'
            yield Fault("policy", 0, 0, f"data.{PACKAGE}.{entrypoint} must be {expected} (asked for {name})")


def _is_answer(entrypoint: Entrypoint, value: object) -> bool:
    if entrypoint == "visible":
        return isinstance(value, list) and all(type(index) is int for index in value)
    return isinstance(value, dict) and isinstance(value.get("decision"), bool)
