"""Who refers to whom: the rules of a policy, what each reads, calls and depends on.

Everything here errs on the side of more: a name that might be a rule is taken for one, a step that is computed
matches every name. What is found to be unread is therefore really unread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, TypeAlias

from adapters.pdp.syntax import KNOWN, Module, Node, constant_path, ref_steps

Pattern: TypeAlias = tuple[str | None, ...]
"""A path in which `None` stands for any name."""

Read: TypeAlias = tuple[str | int | None, ...]
"""A path below `input`; a number stands for the value of that argument of the function which reads it."""

_REFS: Final = frozenset({"Var", "RefDot", "RefBrack"})
_ROOTS: Final = frozenset({"input", "data"})
_PATTERN_SIDES: Final = {"SomeIn": ("key", "value"), "Every": ("key", "value"), "AssignExpr": ("lhs",)}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function: `name` as written out in full (`data.lib.f`, `startswith`)."""

    name: str
    node: Node
    user_defined: bool


@dataclass(frozen=True, eq=False)
class Rule:
    """One rule of one file. `path` is where its value appears below `data`."""

    file: str
    module: Module
    node: Node
    path: Pattern
    arity: int | None
    """The number of arguments of a function; `None` for a rule that is none."""
    uses: Uses = field(repr=False)

    @property
    def name(self) -> str:
        return ".".join(step or "*" for step in self.path)

    @cached_property
    def unbound(self) -> tuple[Node, ...]:
        """The names that nothing in the rule, its module or the language gives a value."""
        head = self.node.part("head") or self.node
        parts = [*head.parts, *(self.node.parts if head is not self.node else ())]
        steps = [step for step in _head_ref(self.node)[1] if isinstance(step, Node)]
        tops = [*steps, *(node for role, node in parts if role not in {"refr", "head", "args"})]
        bound = {*self.uses.names, "_", *_ROOTS, *(name for top in tops for name in bound_in(top))}
        bound |= {name for argument in head.all("args") for name in _names_in(argument)}
        return tuple(node for top in tops for node in _read_names(top) if node.text not in bound)

    @cached_property
    def locals(self) -> frozenset[str]:
        """Names that the rule declares itself, anywhere in it."""
        return frozenset(_declared(self.node))


@dataclass(frozen=True, slots=True)
class Uses:
    """What one rule touches. `strange` are constructs that these analyses do not know."""

    inputs: frozenset[Read]
    documents: frozenset[tuple[Pattern, str]]
    """References below `data`, each with the bare name it was written as (empty when written out)."""
    calls: tuple[Call, ...]
    stand_ins: frozenset[Pattern]
    """Rules and functions that are put in the place of others (`with f as g`)."""
    strange: tuple[Node, ...]
    names: frozenset[str]
    """What the module knows without declaring it in the rule: its imports and the rules of its package."""


class Program:
    """The rules of all modules of a bundle, and the closure of an entry point over them."""

    def __init__(self, modules: Iterable[Module]) -> None:
        self.modules = tuple(modules)
        names = _names_by_package(self.modules)
        self.rules = tuple(
            _rule(module, node, names[module.package]) for module in self.modules for node in module.rules
        )

    def matching(self, pattern: Pattern) -> list[Rule]:
        """The rules whose value a reference to `data.<pattern>` may see."""
        return [rule for rule in self.rules if _compatible(rule.path, pattern)]

    def closure(self, entrypoint: Pattern) -> tuple[Rule, ...]:
        """Every rule that may have a say in the value of `data.<entrypoint>`."""
        waiting = self.matching(entrypoint)
        found: dict[int, Rule] = {}
        while waiting:
            rule = waiting.pop()
            if id(rule) in found:
                continue
            found[id(rule)] = rule
            waiting.extend(self.needed_by(rule))
        return tuple(found.values())

    def needed_by(self, rule: Rule, *, without_locals: bool = False) -> Iterator[Rule]:
        """The rules that this one refers to or calls."""
        for pattern, bare in rule.uses.documents:
            if not (without_locals and bare in rule.locals):
                yield from self.matching(pattern)

    def defines(self, name: str) -> list[Rule]:
        """The functions called `data.<...>`."""
        return [rule for rule in self.matching(tuple(name.split(".")[1:])) if rule.arity is not None]


def _compatible(left: Pattern, right: Pattern) -> bool:
    return all(a is None or b is None or a == b for a, b in zip(left, right, strict=False))


def _names_by_package(modules: Iterable[Module]) -> dict[tuple[str, ...], frozenset[str]]:
    names: dict[tuple[str, ...], set[str]] = {}
    for module in modules:
        here = names.setdefault(module.package, set())
        here.update(_head_ref(rule)[0].text for rule in module.rules)
    return {package: frozenset(found) for package, found in names.items()}


def _head_ref(rule: Node) -> tuple[Node, list[str | Node]]:
    head = rule.part("head") or rule
    ref = head.part("refr")
    return ref_steps(ref) if ref is not None else (rule, [])


def _rule(module: Module, node: Node, names: frozenset[str]) -> Rule:
    base, steps = _head_ref(node)
    head = node.part("head") or node
    is_function = head.kind == "Func" or bool(node.all("args"))
    path: Pattern = (*module.package, base.text, *(step if isinstance(step, str) else None for step in steps))
    uses = _Reader(module, names).uses(node)
    return Rule(module.file, module, node, path, len(head.all("args")) if is_function else None, uses)


def _declared(rule: Node) -> Iterator[str]:
    head = rule.part("head") or rule
    for argument in head.all("args"):
        yield from _names_in(argument)
    yield from _declared_below(rule)


def _declared_below(top: Node, *, with_bare: bool = True) -> Iterator[str]:
    for node in top.walk():
        if node.kind == "SomeVars" and with_bare:
            yield from (name.text for name in node.all("vars"))
        if node.kind == "AssignExpr" and node.value != "ColEq":
            continue
        for role in _PATTERN_SIDES.get(node.kind, ()):
            for side in node.all(role):
                yield from _names_in(side)


def _parameters(rule: Node, head: Node) -> dict[str, int]:
    """The arguments that are plain names which nothing in the rule declares again."""
    arguments = head.all("args")
    parts = [*head.parts, *(rule.parts if head is not rule else ())]
    inside = {name for role, node in parts if role not in {"args", "refr", "head"} for name in _declared_below(node)}
    return {
        argument.text: position
        for position, argument in enumerate(arguments)
        if argument.kind == "Var" and argument.text not in inside
    }


def _bound_by_use(rule: Node) -> Iterator[str]:
    """Names that get a value where they stand: steps of a reference, sides of `=`, a function's output argument."""
    for node in rule.walk():
        if node.kind == "RefBrack":
            yield from (each.text for index in node.all("index") for each in index.walk() if each.kind == "Var")
        elif node.kind == "AssignExpr" and node.value != "ColEq":
            yield from (name for side in (*node.all("lhs"), *node.all("rhs")) for name in _names_in(side))
        elif node.kind == "Call":
            yield from (name for output in node.all("params")[-1:] for name in _names_in(output))


def _read_names(node: Node) -> Iterator[Node]:
    """The bare names below `node`, without those of functions and of what `with` replaces."""
    if node.kind == "Var":
        yield node
    for role, child in node.parts:
        is_replaced = node.kind == "with_mods" and (role == "refr" or child.kind in _REFS)
        if not (is_replaced or (node.kind == "Call" and role == "fcn")):
            yield from _read_names(child)


def bound_in(top: Node) -> set[str]:
    """The names that a part of a rule may give a value; `some x` alone gives none."""
    return {*_declared_below(top, with_bare=False), *_bound_by_use(top)}


def read_in(statement: Node) -> set[str]:
    """The bare names that a statement reads."""
    return {node.text for node in _read_names(statement)}


def _names_in(node: Node) -> Iterator[str]:
    return (each.text for each in node.walk() if each.kind in {"Var", "name"})


class _Reader:
    """Collects what one rule touches, with the imports and the rule names of its module at hand."""

    def __init__(self, module: Module, names: frozenset[str]) -> None:
        self._package = module.package
        self._names = names
        self._aliases: Mapping[str, tuple[str, ...]] = {
            alias: path for ref, alias in module.imports if (path := constant_path(ref)) and path[0] in _ROOTS
        }
        self._parameters: Mapping[str, int] = {}
        self._inputs: set[Read] = set()
        self._stand_ins: set[Pattern] = set()
        self._documents: set[tuple[Pattern, str]] = set()
        self._calls: list[Call] = []
        self._strange: list[Node] = []

    def uses(self, rule: Node) -> Uses:
        head = rule.part("head") or rule
        self._parameters = _parameters(rule, head)
        for step in _head_ref(rule)[1]:
            if isinstance(step, Node):
                self._read(step)
        for role, node in (*head.parts, *(rule.parts if head is not rule else ())):
            if role not in {"refr", "head"}:
                self._read(node)
        return Uses(
            frozenset(self._inputs),
            frozenset(self._documents),
            tuple(self._calls),
            frozenset(self._stand_ins),
            tuple(self._strange),
            self._names | self._aliases.keys(),
        )

    def _read(self, node: Node) -> None:
        if node.kind in _REFS:
            self._refer(node)
        elif node.kind == "Call":
            self._call(node)
        else:
            if node.kind not in KNOWN:
                self._strange.append(node)
            for role, child in node.parts:
                if node.kind != "with_mods":
                    self._read(child)
                elif role != "refr":  # what is replaced is written, not read
                    self._replace(child)

    def _replace(self, value: Node) -> None:
        before = set(self._documents)
        self._read(value)
        self._stand_ins.update(pattern for pattern, _ in self._documents - before)
        path = constant_path(value) if value.kind in _REFS else None
        if path is not None and path[0] in self._names:
            self._stand_ins.add((*self._package, *path))

    def _refer(self, ref: Node, beyond: tuple[str, ...] = ()) -> None:
        base, steps = ref_steps(ref)
        if base.kind != "Var":
            self._read(base)
        else:
            self._note(base.text, (*(self._step(step) for step in steps), *beyond))
        for step in steps:
            if isinstance(step, Node):
                self._read(step)

    def _step(self, step: str | Node) -> str | int | None:
        if isinstance(step, str):
            return step
        return self._parameters.get(step.text) if step.kind == "Var" else None

    def _note(self, name: str, steps: Read) -> None:
        root, *prefix = self._aliases.get(name, (name,))
        names: Pattern = tuple(step if isinstance(step, str) else None for step in steps)
        if root == "input":
            self._inputs.add((*prefix, *steps))
        elif root == "data":
            self._documents.add(((*prefix, *names), ""))
        elif name in self._names:
            self._documents.add(((*self._package, name, *names), name))

    def _call(self, node: Node) -> None:
        function = node.part("fcn")
        path = constant_path(function) if function is not None else None
        if path is None:
            self._strange.append(node)
            return
        self._name_call(node, path)
        arguments = node.all("params")
        steps = _literal_steps(path, arguments)
        if steps is not None:
            self._refer(arguments[0], steps)
            arguments = arguments[1:]
        for argument in arguments:
            self._read(argument)

    def _name_call(self, node: Node, path: tuple[str, ...]) -> None:
        full = (*self._aliases.get(path[0], (path[0],)), *path[1:])
        if full[0] == "data":
            self._documents.add((full[1:], ""))
            self._calls.append(Call(".".join(full), node, user_defined=True))
        elif path[0] in self._names:
            self._documents.add(((*self._package, *path), ""))
            self._calls.append(Call(".".join(("data", *self._package, *path)), node, user_defined=True))
        else:
            self._calls.append(Call(".".join(path), node, user_defined=False))


def _literal_steps(function: tuple[str, ...], arguments: list[Node]) -> tuple[str, ...] | None:
    """The path that `object.get(ref, "a", ...)` or `object.get(ref, ["a", "b"], ...)` looks up, when written out."""
    if function != ("object", "get") or len(arguments) < 3 or arguments[0].kind not in _REFS:
        return None
    key = arguments[1]
    keys = key.all("items") if key.kind == "Array" else [key]
    if not all(item.kind in {"String", "RawString"} for item in keys):
        return None
    return tuple(item.text for item in keys)
