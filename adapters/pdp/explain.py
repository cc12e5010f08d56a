"""Why a rule did not fire: the first of its expressions that does not hold.

The engine has no trace. So each body is asked again as far as its first expression, its second and so on: where no
binding of its names satisfies all up to one, that one is the first that fails. Inside a function or an `every` that
fails it goes on in the same way. The questions are rules of their own (`probes`), in an engine that answers nothing
else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from adapters.pdp.bodies import Body, Step, bodies_of, call_arguments, domain_probe, inner_steps, modifiers
from adapters.pdp.bundle import Bundle
from adapters.pdp.probes import Frame, Held, Probe, Probes
from adapters.pdp.rules import Call, Program, Rule
from adapters.pdp.syntax import Node, constant_path
from adapters.pdp.trial import DEADLINE_S
from gateway import codec

MAX_DEPTH: Final = 4
"""How many functions deep an explanation goes."""
_LIBRARY: Final = "interlock"
_OWN_SCOPE: Final = frozenset({"ArrayCompr", "SetCompr", "ObjectCompr", "Every"})
_REFS: Final = frozenset({"RefDot", "RefBrack"})


@dataclass(frozen=True, slots=True)
class Failed:
    """An expression that does not hold. `inside` says what failed in the functions or the `every` of it."""

    file: str
    line: int
    col: int
    text: str
    why: str
    read: tuple[tuple[str, bool, object], ...] = ()
    """What it reads of the question: the path, whether there is anything, and what."""
    inside: tuple[Failed, ...] = ()


@dataclass(frozen=True, slots=True)
class Explained:
    """One body of one rule: it fired, or `failed` says what kept it from it. `unknown` says why neither is known."""

    rule: str
    file: str
    line: int
    col: int
    failed: Failed | None = None
    unknown: str = ""

    @property
    def fired(self) -> bool:
        """Whether all its expressions hold."""
        return self.failed is None and not self.unknown


def explain(
    bundle: Bundle, program: Program, question: Mapping[str, object], *, deadline_s: float = DEADLINE_S
) -> tuple[Explained, ...]:
    """Each body of the teams' rules that can depend on the question, in source order.

    Of alternatives (`else`), those after the one that fired are left out. Raises `EngineFailure` when nothing can be
    said at all.
    """
    return _Explaining(bundle, program, question, deadline_s).all()


def explainable(program: Program) -> tuple[Rule, ...]:
    """The rules with a value that read the question in some way; the library's own are not explained."""
    return tuple(
        rule
        for rule in program.rules
        if rule.arity is None
        and rule.path[0] != _LIBRARY
        and any(each.uses.inputs for each in program.closure(rule.path))
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Steps to be tried one after another, and how they are reached (`frames`, outermost first)."""

    body: Body
    attempts: tuple[tuple[Step, Probe], ...]
    entered: Probe | None = None
    """Holds if the place is reached at all; `None` if that is known."""
    frames: tuple[Frame, ...] = ()
    of_call: int = 0
    """Which places are alternatives of one another: those with the same number."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a place failed at; neither a failure nor a doubt if it did not, or was not reached."""

    failed: Failed | None = None
    unknown: str = ""
    reached: bool = True

    @property
    def fired(self) -> bool:
        return self.reached and self.failed is None and not self.unknown


class _Explaining:
    def __init__(self, bundle: Bundle, program: Program, question: Mapping[str, object], deadline_s: float) -> None:
        self._bundle = bundle
        self._program = program
        self._question = question
        self._deadline_s = deadline_s
        self._texts = {file.path: file.text for file in bundle.files}
        self._calls = {id(call.node): call for rule in program.rules for call in rule.uses.calls if call.user_defined}

    def all(self) -> tuple[Explained, ...]:
        chains = [bodies_of(rule, self._texts[rule.file]) for rule in explainable(self._program)]
        outcomes = iter(self._outcomes([_whole(body) for chain in chains for body in chain], 0))
        found: list[Explained] = []
        for chain in chains:
            told = [_explained(body, next(outcomes)) for body in chain]
            fired = next((at for at, each in enumerate(told) if each.fired), len(told))
            found += told[: fired + 1]
        return tuple(sorted(found, key=lambda each: (each.file, each.line, each.col)))

    def _outcomes(self, places: Sequence[_Place], depth: int) -> list[_Outcome]:
        if not places:
            return []
        with Probes(self._bundle, codec.dumps(self._question), self._deadline_s) as probes:
            for place in places:
                probes.add([probe for probe in (place.entered, *(probe for _, probe in place.attempts)) if probe])
            tried = [self._tried(place, probes) for place in places]
        inner = [list(self._inner(place, step)) if depth < MAX_DEPTH and step else [] for place, step, _ in tried]
        outcomes = iter(self._outcomes([each for places in inner for each in places], depth + 1))
        told: list[_Outcome] = []
        for (_, _, outcome), below in zip(tried, inner, strict=True):
            reasons = _reasons([(place, next(outcomes)) for place in below])
            failed = outcome.failed
            told.append(replace(outcome, failed=replace(failed, inside=reasons)) if failed and reasons else outcome)
        return told

    def _tried(self, place: _Place, probes: Probes) -> tuple[_Place, Step | None, _Outcome]:
        if place.entered is not None and probes.ask(place.entered) is not Held.YES:
            return place, None, _Outcome(reached=False)
        for step, probe in place.attempts:
            held = probes.ask(probe)
            if held is Held.UNKNOWN:
                return place, None, _Outcome(unknown=probes.trouble(probe))
            if held is not Held.YES:
                return place, step, _Outcome(self._failed(place, step, probes.trouble(probe)))
        return place, None, _Outcome()

    def _failed(self, place: _Place, step: Step, trouble: str) -> Failed:
        why = trouble or ("has no value, or false" if step.is_result else "does not hold")
        return Failed(place.body.rule.file, step.line, step.col, step.text, why, tuple(self._read(place, step)))

    def _read(self, place: _Place, step: Step) -> Iterator[tuple[str, bool, object]]:
        """The values of the question that the step names, where nothing is put in their place."""
        if step.node.all("with_mods"):
            return
        aliases = {alias: constant_path(ref) for ref, alias in place.body.rule.module.imports}
        seen: set[tuple[str, ...]] = set()
        for path in _paths(step.node):
            full = (*(aliases.get(path[0]) or path[:1]), *path[1:])
            if full[0] == "input" and full not in seen:
                seen.add(full)
                yield ".".join(full), *_looked_up(self._question, full[1:])

    def _inner(self, place: _Place, step: Step) -> Iterator[_Place]:
        """Where to look on, below a step that failed."""
        body, text = place.body, self._texts[place.body.rule.file]
        before = _before(place, step)
        if before is None:
            return
        every = step.node.part("literal")
        if every is not None and every.kind == "Every":
            yield self._inside(place, step, every, before)
            return
        for call in self._calls_in(step.node):
            frame = Frame(body, before, call_arguments(text, call.node), modifiers(text, step))
            for function in self._program.defines(call.name):
                if function.arity == len(call.node.all("params")):
                    yield from self._called(function, (*place.frames, frame), id(call.node))

    def _inside(self, place: _Place, step: Step, every: Node, before: tuple[str, ...]) -> _Place:
        body, text = place.body, self._texts[place.body.rule.file]
        under = modifiers(text, step)
        attempts = [
            (inner, Probe(body, (*before, f"{written} {under}"), place.frames))
            for inner, written in inner_steps(text, every)
        ]
        entered = Probe(body, (*before, f"{domain_probe(text, every)} {under}"), place.frames)
        return _Place(body, tuple(attempts), entered, place.frames, of_call=id(every))

    def _called(self, function: Rule, frames: tuple[Frame, ...], of_call: int) -> Iterator[_Place]:
        for body in bodies_of(function, self._texts[function.file]):
            yield replace(_whole(body, frames), entered=Probe(body, (), frames), of_call=of_call)

    def _calls_in(self, node: Node) -> Iterator[Call]:
        if id(node) in self._calls:
            yield self._calls[id(node)]
        for _, child in node.parts:
            if child.kind not in _OWN_SCOPE:
                yield from self._calls_in(child)


def _whole(body: Body, frames: tuple[Frame, ...] = ()) -> _Place:
    texts = [step.probe for step in body.steps]
    attempts = [(step, Probe(body, tuple(texts[:count]), frames)) for count, step in enumerate(body.steps, start=1)]
    return _Place(body, tuple(attempts), frames=frames)


def _before(place: _Place, step: Step) -> tuple[str, ...] | None:
    """What holds before a step; `None` inside an `every`, whose names nothing outside it knows."""
    at = next((at for at, each in enumerate(place.body.steps) if each is step), None)
    return None if at is None else tuple(each.probe for each in place.body.steps[:at])


def _reasons(outcomes: Sequence[tuple[_Place, _Outcome]]) -> tuple[Failed, ...]:
    """What failed in calls none of whose bodies fired; a call that has a value is not why."""
    found: list[Failed] = []
    for _, group in groupby(outcomes, key=lambda each: each[0].of_call):
        results = [outcome for _, outcome in group]
        if not any(outcome.fired for outcome in results):
            found += [outcome.failed for outcome in results if outcome.failed is not None]
    return tuple(found)


def _explained(body: Body, outcome: _Outcome) -> Explained:
    rule = body.rule
    return Explained(f"data.{rule.name}", rule.file, body.line, body.col, outcome.failed, outcome.unknown)


def _paths(node: Node) -> Iterator[tuple[str, ...]]:
    """The outermost references below `node` whose steps are all written out."""
    path = constant_path(node) if node.kind in _REFS else None
    if path is not None:
        yield path
        return
    for _, child in node.parts:
        yield from _paths(child)


def _looked_up(value: object, path: Sequence[str]) -> tuple[bool, object]:
    for step in path:
        if not isinstance(value, Mapping) or step not in value:
            return False, None
        value = value[step]
    return True, value
