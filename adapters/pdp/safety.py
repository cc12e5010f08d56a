"""Names in a rule that never have a value: OPA refuses them; what the embedded engine makes of them differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from adapters.pdp.rules import Rule, bound_in
from adapters.pdp.syntax import Node

_OWN_SCOPE: Final = frozenset({"ArrayCompr", "SetCompr", "ObjectCompr", "Every"})


@dataclass(frozen=True, slots=True)
class Unsafe:
    """One name, and what to do about it."""

    node: Node
    message: str


def unsafe_names(rule: Rule) -> Iterator[Unsafe]:
    """The names that nothing gives a value, or that only a negation would, and those declared for nothing."""
    for node in rule.unbound:
        yield Unsafe(node, f"{node.text} is never given a value (unsafe variable); declare it or correct the name")
    outside = _bound_outside_negations(rule.node) | _arguments(rule) | rule.uses.names
    for node in _negations(rule.node):
        for index in _indexes(node):
            if index.text not in outside:
                text = f"{index.text} has no value outside of `not` (unsafe variable); find it in a line or rule before"
                yield Unsafe(index, text)
    used = {node.text for node in rule.node.walk() if node.kind == "Var"}
    for node in rule.node.walk():
        for name in node.all("vars") if node.kind == "SomeVars" else ():
            if name.text not in used:
                yield Unsafe(name, f"{name.text} is declared and never used; take it away")


def _negations(node: Node) -> Iterator[Node]:
    return (each for each in node.walk() if each.kind == "NotExpr")


def _indexes(node: Node) -> Iterator[Node]:
    """The names that stand as a step of a reference, and are therefore looked for, outside of any scope of its own."""
    for role, child in node.parts:
        if role == "index" and child.kind == "Var":
            yield child
        if child.kind not in _OWN_SCOPE:
            yield from _indexes(child)


def _bound_outside_negations(node: Node) -> set[str]:
    """Names with a value: given in any part of the rule that is not negated."""
    if node.kind == "NotExpr":
        return set()
    if not any(_negations(node)):
        return bound_in(node)
    if node.kind in {"SomeIn", "Every", "AssignExpr"}:
        return bound_in(node)
    return {name for _, child in node.parts for name in _bound_outside_negations(child)}


def _arguments(rule: Rule) -> set[str]:
    head = rule.node.part("head") or rule.node
    return {each.text for argument in head.all("args") for each in argument.walk() if each.kind == "Var"}
