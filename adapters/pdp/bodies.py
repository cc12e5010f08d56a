"""The bodies of a rule as steps that hold one after another, or do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from adapters.pdp.excerpts import excerpt, parenthesised, start_of, texts_of
from adapters.pdp.rules import Rule, bound_in, read_in
from adapters.pdp.syntax import Node

RESULT: Final = "interlock_value_"
_ROOTS: Final = frozenset({"input", "data"})
_CONSTANTS: Final = frozenset({"Bool", "Null", "Number", "String", "RawString"})


@dataclass(frozen=True, slots=True)
class Step:
    """One expression. `probe` is how it is written where only its holding matters."""

    line: int
    col: int
    text: str
    probe: str
    node: Node
    is_result: bool = False
    """It is the value of the rule, in its head."""


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """One way for a rule to fire: all of `steps` hold. Of an `else` it counts only if those before it did not fire."""

    rule: Rule
    line: int
    col: int
    steps: tuple[Step, ...]
    parameters: str | None = None
    """What stands between the brackets of a function's head; `None` for a rule that is none."""


def bodies_of(rule: Rule, text: str) -> tuple[Body, ...]:
    """The bodies of one definition in the order in which they are tried; none for a default."""
    if rule.node.kind == "Default":
        return ()
    source = text.encode()
    head = rule.node.part("head") or rule.node
    parameters = parenthesised(source, start_of(source, head)) if rule.arity is not None else None
    written = rule.node.all("bodies")
    first = [] if not written else _steps(source, written[0])
    bodies = [Body(rule, rule.node.line, rule.node.col, (*first, *_results(source, head)), parameters)]
    for alternative in written[1:]:
        steps = (*_steps(source, alternative), *_results(source, alternative))
        bodies.append(Body(rule, alternative.line, alternative.col, steps, parameters))
    return tuple(bodies)


def inner_steps(text: str, every: Node) -> list[tuple[Step, str]]:
    """The steps inside an `every`, each with the `every` that demands all up to it."""
    source = text.encode()
    query = every.part("query")
    if query is None:
        return []
    start = start_of(source, every)
    opening = source[start : query.start].decode(errors="replace")
    found: list[tuple[Step, str]] = []
    steps = _query_steps(source, query)
    for count, step in enumerate(steps, start=1):
        found.append((step, opening + "{\n" + "\n".join(each.probe for each in steps[:count]) + "\n}"))
    return found


def domain_probe(text: str, every: Node) -> str:
    """Holds if there is anything to go through."""
    domain = every.part("domain")
    if domain is None:
        return "true"
    source = text.encode()
    return f"{RESULT}domain := {excerpt(source, start_of(source, domain), domain.end)}"


def call_arguments(text: str, call: Node) -> str:
    """What stands between the brackets of a call."""
    source = text.encode()
    return parenthesised(source, start_of(source, call))


def modifiers(text: str, step: Step) -> str:
    """The `with ...` of a step; empty when there is none."""
    found = step.node.all("with_mods")
    if not found:
        return ""
    source = text.encode()
    return excerpt(source, start_of(source, found[0]), found[-1].end)


def _steps(source: bytes, body: Node) -> list[Step]:
    query = body.part("query")
    return _query_steps(source, query) if query is not None else []


def _query_steps(source: bytes, query: Node) -> list[Step]:
    statements = query.all("stmts")
    steps = [_step(source, node, text) for node, text in zip(statements, texts_of(source, query), strict=True)]
    return _in_order(steps)


def _step(source: bytes, node: Node, text: str) -> Step:
    return Step(*_place(source, node), text, text, node)


def _in_order(steps: Sequence[Step]) -> list[Step]:
    """As written, but nothing before the statement that gives its names a value: engines wait for it too."""
    waiting = list(steps)
    done: list[Step] = []
    while waiting:
        missing = [_needed(step) & _given_by(each for each in waiting if each is not step) for step in waiting]
        at = next((at for at, names in enumerate(missing) if not names - _given_by([waiting[at], *done])), 0)
        done.append(waiting.pop(at))
    return done


def _needed(step: Step) -> set[str]:
    return read_in(step.node) - _ROOTS  # these have a value wherever they stand, also as the last argument of a call


def _given_by(steps: Iterator[Step] | Sequence[Step]) -> set[str]:
    return {name for step in steps for name in bound_in(step.node)}


def _results(source: bytes, holder: Node) -> Iterator[Step]:
    """What the head of a rule computes: steps of its name, its key, its value."""
    found = [node for node in _head_parts(holder) if node.kind not in _CONSTANTS]
    assign = holder.part("assign")
    for count, node in enumerate(found):
        text = excerpt(source, start_of(source, node), node.end)
        probe = f"{RESULT}{count} := {text}"
        if assign is not None and node in assign.all("value"):
            probe += f"\n{RESULT}{count} != false"
        yield Step(*_place(source, node), text, probe, node, is_result=True)


def _place(source: bytes, node: Node) -> tuple[int, int]:
    """Where the text of a node begins, as line and column; the engine names the operator's place for many."""
    before = source[: start_of(source, node)].decode(errors="replace")
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _head_parts(holder: Node) -> Iterator[Node]:
    ref = holder.part("refr")
    while ref is not None and ref.kind in {"RefBrack", "RefDot"}:
        yield from ref.all("index")
        ref = ref.part("refr")
    yield from holder.all("key")
    assign = holder.part("assign")
    if assign is not None:
        yield from assign.all("value")
