"""References to parts of the question that its JSON Schema does not know: most are typing errors, which never hold.

Where the schema says that there is nothing else, such a reference is a fault; where it leaves room, it is worth a
note. The teams' rules are looked at, not the library (it is ours), and not what is only asked about a question of
another shape (`with input as ...`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final, TypeAlias, cast

from adapters.pdp.bundle import Fault
from adapters.pdp.rules import Program, Rule
from adapters.pdp.syntax import Node, constant_path, ref_steps
from gateway import codec

Schema: TypeAlias = Mapping[str, object]

_ENTRYPOINTS: Final = (("interlock", "decision"), ("interlock", "visible"))
_LIBRARY: Final = "interlock"
_REFS: Final = frozenset({"Var", "RefDot", "RefBrack"})
_SCALARS: Final = {"string": "text", "integer": "number", "number": "number", "boolean": "true or false"}


@dataclass(frozen=True, slots=True)
class Unknown:
    """What was found; each has its place. `faults` can never be there, `notes` are not described."""

    faults: tuple[Fault, ...] = ()
    notes: tuple[Fault, ...] = ()


def read_schema(path: Path) -> Schema:
    """The schema in a file. Raises `ValueError` when it is none, `OSError` when it cannot be read."""
    document = codec.loads(path.read_bytes())
    if isinstance(document, dict):
        return cast("Schema", document)
    raise ValueError(f"{path} is no JSON Schema: it must be an object")


def unknown_references(program: Program, schema: Schema) -> Unknown:
    """The references below `input` that `schema` does not know, in the rules that the entry points may ask."""
    faults: set[Fault] = set()
    notes: set[Fault] = set()
    resolver = _Resolver(schema)
    for rule in _asked(program):
        for node, path in _references(rule):
            problem = resolver.problem(path)
            if problem is not None:
                (faults if problem.certain else notes).add(Fault(rule.file, node.line, node.col, problem.text))
    return Unknown(tuple(sorted(faults)), tuple(sorted(notes)))


def _asked(program: Program) -> list[Rule]:
    foreign = set(_foreign_packages(program))
    asked = {id(rule): rule for entry in _ENTRYPOINTS for rule in program.closure(entry)}
    return [
        rule for rule in asked.values() if rule.module.package[:1] != (_LIBRARY,) and rule.module.package not in foreign
    ]


def _foreign_packages(program: Program) -> Iterator[tuple[str, ...]]:
    """The packages that somebody asks about another question than ours."""
    for rule in program.rules:
        for node in rule.node.walk():
            if any(_replaces_input(part) for part in node.all("with_mods")):
                yield from _packages_named(program, rule, node)


def _packages_named(program: Program, rule: Rule, node: Node) -> Iterator[tuple[str, ...]]:
    aliases = {alias: path for ref, alias in rule.module.imports if (path := constant_path(ref))}
    for each in node.walk():
        path = constant_path(each) if each.kind in _REFS else None
        if path is None:
            continue
        full = (*aliases.get(path[0], path[:1]), *path[1:])
        yield from (
            module.package
            for module in program.modules
            if full[0] == "data" and full[1 : len(module.package) + 1] == module.package
        )


def _replaces_input(modifier: Node) -> bool:
    target = modifier.part("refr")
    return target is not None and constant_path(target) == ("input",)


def _references(rule: Rule) -> Iterator[tuple[Node, Sequence[str | None]]]:
    """Each whole reference below `input` with its steps; `None` stands for a computed one."""
    aliases = {alias: path for ref, alias in rule.module.imports if (path := constant_path(ref)) and path[0] == "input"}
    waiting = [rule.node]
    while waiting:
        node = waiting.pop()
        if node.kind not in _REFS:
            waiting += [child for _, child in node.parts]
            continue
        base, steps = ref_steps(node)
        waiting += [step for step in steps if isinstance(step, Node)]
        names = [step if isinstance(step, str) else None for step in steps]
        if base.kind != "Var":
            waiting.append(base)
        elif base.text == "input":
            yield base, names
        elif base.text in aliases and base.text not in rule.locals:
            yield base, [*aliases[base.text][1:], *names]


@dataclass(frozen=True, slots=True)
class _Problem:
    text: str
    certain: bool


class _Resolver:
    """Follows references through the schema."""

    def __init__(self, schema: Schema) -> None:
        self._root = schema

    def problem(self, path: Sequence[str | None]) -> _Problem | None:
        """Why there is nothing at this path, or nothing that the schema describes."""
        here = self._root
        for count, step in enumerate(path):
            shown = _shown(path[:count])
            following = self._below(here, step, shown)
            if following is None or isinstance(following, _Problem):
                return following
            here = following
        return None

    def _below(self, schema: Schema, step: str | None, shown: str) -> Schema | _Problem | None:
        """The schema one step down; `None` where anything may be."""
        kind = schema.get("type")
        if isinstance(kind, str) and kind in _SCALARS:
            return _Problem(f"{shown} is {_SCALARS[kind]}: it has no parts", certain=True)
        if kind == "array":
            return self._item(schema, step, shown)
        known = schema.get("properties")
        if step is None or not isinstance(known, dict) or not known:
            return None
        if step in known:
            return self._resolved(known[step])
        certain = schema.get("additionalProperties") is False
        near = get_close_matches(step, known, n=1)
        instead = f"did you mean {near[0]}?" if near else f"there is {', '.join(sorted(known))}"
        verb = "does not exist" if certain else "is not described by the schema of the question"
        return _Problem(f"{shown}.{step} {verb}; {instead}", certain)

    def _item(self, schema: Schema, step: str | None, shown: str) -> Schema | _Problem | None:
        if step is not None:
            return _Problem(f"{shown} is a list: it has no .{step}; go through it with `some ... in`", certain=True)
        items = schema.get("items")
        return self._resolved(items) if isinstance(items, dict) else None

    def _resolved(self, schema: object) -> Schema | None:
        """The schema that a `$ref` within the document leads to; `None` for what cannot be followed."""
        for _ in range(8):
            if not isinstance(schema, dict):
                return None
            target = schema.get("$ref")
            if target is None:
                return cast("Schema", schema)
            schema = self._pointed_to(str(target))
        return None

    def _pointed_to(self, target: str) -> object:
        found: object = self._root
        for name in target.removeprefix("#/").split("/"):
            found = found.get(name) if isinstance(found, dict) else None
        return found


def _shown(path: Sequence[str | None]) -> str:
    return "input" + "".join("[_]" if step is None else f".{step}" for step in path)
