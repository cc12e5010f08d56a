"""What is different between two policies: their rules, their data and their answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from adapters.pdp.bundle import Bundle
from adapters.pdp.engine import EngineFailure
from adapters.pdp.rules import Program, Rule
from adapters.pdp.syntax import Node
from adapters.pdp.trial import TrialEngine
from gateway import codec

Shape: TypeAlias = tuple[object, ...]
MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One rule (all its definitions together), or one value of the data."""

    kind: str
    """`added`, `removed` or `changed`."""
    name: str
    before: tuple[str, ...] = ()
    """Where its definitions are that the other does not have."""
    after: tuple[str, ...] = ()


def rule_changes(old: Program, new: Program) -> dict[str, list[Change]]:
    """The rules that are not the same, by package. Layout, comments and the order of definitions do not count."""
    before, after = _definitions(old), _definitions(new)
    found: dict[str, list[Change]] = defaultdict(list)
    for package, name in sorted(before.keys() | after.keys()):
        one, other = before.get((package, name), []), after.get((package, name), [])
        gone, come = _without(one, other), _without(other, one)
        if gone or come:
            kind = "changed" if one and other else "removed" if one else "added"
            found[package].append(Change(kind, name, tuple(gone), tuple(come)))
    return dict(found)


def data_changes(old: Bundle, new: Bundle) -> list[Change]:
    """The values of the data that are not the same; a list is one value."""
    before, after = dict(_leaves(codec.loads(old.data), "data")), dict(_leaves(codec.loads(new.data), "data"))
    found: list[Change] = []
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name, MISSING), after.get(name, MISSING)
        if one is MISSING or other is MISSING or codec.canonical(one) != codec.canonical(other):
            kind = "added" if one is MISSING else "removed" if other is MISSING else "changed"
            found.append(Change(kind, name, *(() if value is MISSING else (_text(value),) for value in (one, other))))
    return found


def answer(engine: TrialEngine, entrypoint: str, question: bytes) -> object:
    """What a policy answers, as a value that can be compared; no answer is the reason for that.

    Raises `EngineFailure` when the engine did not survive the question: it can be asked nothing more.
    """
    try:
        value = codec.loads(engine.evaluate(f"data.interlock.{entrypoint}", question))
    except EngineFailure as failure:
        if engine.is_over:
            raise
        return {"decision": False, "error": failure.kind}
    if entrypoint == "visible" and isinstance(value, list):
        return sorted(value, key=codec.canonical)
    return value


def verdict(value: object) -> str:
    """An answer in a few words: `permit`, `hold`, `deny` with the codes, or what a list shows."""
    if not isinstance(value, Mapping):
        return f"shows {codec.dumps(value).decode()}"
    if value.get("decision") is True:
        return "permit"
    if "error" in value:
        return f"deny ({value['error']})"
    context = value.get("context")
    facts = cast("Mapping[str, object]", context) if isinstance(context, Mapping) else {}
    if "access_request" in facts:
        return "hold"
    reasons = facts.get("reasons")
    codes = (
        [str(each.get("code")) for each in reasons if isinstance(each, Mapping)] if isinstance(reasons, list) else []
    )
    return f"deny ({', '.join(sorted(codes))})"


def _definitions(program: Program) -> dict[tuple[str, str], list[tuple[Shape, str]]]:
    found: dict[tuple[str, str], list[tuple[Shape, str]]] = defaultdict(list)
    for rule in program.rules:
        package = ".".join(rule.module.package)
        name = rule.name.removeprefix(f"{package}.") + ("" if rule.arity is None else f"({rule.arity})")
        found[package, name].append((_rule_shape(rule), f"{rule.file}:{rule.node.line}:{rule.node.col}"))
    return found


def _without(left: list[tuple[Shape, str]], right: list[tuple[Shape, str]]) -> list[str]:
    """The places of the definitions that are in `left` more often than in `right`."""
    others = Counter(shape for shape, _ in right)
    places: list[str] = []
    for shape, place in left:
        if others[shape] > 0:
            others[shape] -= 1
        else:
            places.append(place)
    return places


def _rule_shape(rule: Rule) -> Shape:
    """The rule without its layout. The imports count: they say what its names mean."""
    imports = frozenset(
        (alias, _shape("import", ref)) for ref, alias in rule.module.imports if alias in rule.uses.names
    )
    used = {node.text for node in rule.node.walk() if node.kind == "Var"}
    return (frozenset(entry for entry in imports if entry[0] in used), _shape("rule", rule.node))


def _shape(role: str, node: Node) -> Shape:
    return (role, node.kind, type(node.value).__name__, node.value, *(_shape(name, part) for name, part in node.parts))


def _leaves(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            step = f".{key}" if key.isidentifier() else f"[{_text(key)}]"  # a name with a dot is not two names
            yield from _leaves(inner, f"{name}{step}")
    elif value != {} or name != "data":
        yield name, value


def _text(value: object) -> str:
    return codec.canonical(value).decode()
