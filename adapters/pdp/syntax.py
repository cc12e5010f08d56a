"""The syntax tree of a Rego module, as the embedded engine's parser sees it.

The engine hands its tree over as JSON; here it becomes one kind of node, so that whoever walks it need not know
how each construct is spelled. A construct that is new to us is still walked: nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from adapters.pdp.engine import EngineFailure
from gateway import codec

Scalar: TypeAlias = "bool | int | float | str | None"
_POSITION: Final = frozenset({"line", "col", "start", "end"})
_NOT_SYNTAX: Final = frozenset({"span", "eidx", "qidx", "sidx"})

_KNOWN: Final = (
    "Var RefDot RefBrack String RawString Number Bool Null Array Set Object ArrayCompr SetCompr ObjectCompr Call "
    "UnaryExpr ArithExpr BinExpr BoolExpr AssignExpr Membership SomeVars SomeIn Expr NotExpr Every "
    "Compr Func Spec Default query stmts with_mods bodies assign name"
)

_ENGINE_TAB: Final = 4
_LONG_LINE: Final = 4096
"""Nobody looks for a column in a longer one."""

TOO_DEEP: Final = "an expression has too many terms, or is nested too deeply, to be looked at; split it"

KNOWN: Final = frozenset(_KNOWN.split())
"""The constructs that the analyses here were written for; a module with any other is judged with suspicion."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One construct: `parts` are its children with the role they play, in source order; `value` a name or literal.

    `start` and `end` are places in the UTF-8 of its file; `end` may fall short of a closing quote or bracket.
    """

    kind: str
    line: int
    col: int
    value: Scalar
    parts: tuple[tuple[str, Node], ...]
    start: int = 0
    end: int = 0

    @property
    def text(self) -> str:
        """The name or string of this node; empty for anything else."""
        return self.value if isinstance(self.value, str) else ""

    def part(self, role: str) -> Node | None:
        """The first child with this role."""
        return next((node for name, node in self.parts if name == role), None)

    def all(self, role: str) -> list[Node]:
        """The children with this role."""
        return [node for name, node in self.parts if name == role]

    def walk(self) -> Iterator[Node]:
        """This node and everything below it, outermost first."""
        yield self
        for _, node in self.parts:
            yield from node.walk()


@dataclass(frozen=True, slots=True)
class Module:
    """One file: its package as a path, its imports as (path, alias) and its rules."""

    file: str
    package: tuple[str, ...]
    imports: tuple[tuple[Node, str], ...]
    rules: tuple[Node, ...]


def modules_in(tree: bytes) -> tuple[Module, ...]:
    """The modules of an engine's `get_ast_as_json()`. Raises `EngineFailure` for one that cannot be followed."""
    try:
        listed = cast("list[dict[str, object]]", codec.loads(tree))
        return tuple(_module(entry) for entry in listed)
    except (ValueError, RecursionError) as exc:
        raise EngineFailure("failed", TOO_DEEP) from exc


def constant_path(ref: Node) -> tuple[str, ...] | None:
    """`a.b["c"]` as `("a", "b", "c")`; `None` when any step is computed."""
    base, steps = ref_steps(ref)
    names = [step for step in steps if isinstance(step, str)]
    if base.kind != "Var" or len(names) != len(steps):
        return None
    return (base.text, *names)


def ref_steps(ref: Node) -> tuple[Node, list[str | Node]]:
    """What a reference starts at, and its steps: a name where it is written out, else the node that computes it."""
    steps: list[str | Node] = []
    while ref.kind in {"RefDot", "RefBrack"}:
        steps.append(_step(ref))
        inner = ref.part("refr")
        if inner is None:
            break
        ref = inner
    return ref, steps[::-1]


def _step(ref: Node) -> str | Node:
    if ref.kind == "RefDot":
        return ref.text
    index = ref.part("index")
    if index is None:
        return ref
    return index.text if index.kind in {"String", "RawString"} else index


def _module(entry: dict[str, object]) -> Module:
    source = cast("dict[str, str]", entry["source"])
    ast = cast("dict[str, object]", entry["ast"])
    reader = _Reader(source["contents"].encode())
    package = reader.read("package", ast["package"])[0][1].part("refr")
    path = constant_path(package) if package is not None else None
    imports = cast("Sequence[dict[str, object]]", ast["imports"])
    rules = [node for _, node in reader.read("rule", ast["rules"])]
    return Module(source["file"], path or (), tuple(_imported(reader, item) for item in imports), tuple(rules))


def _imported(reader: _Reader, item: dict[str, object]) -> tuple[Node, str]:
    ref = reader.read("refr", item["refr"])[0][1]
    alias = item.get("as")
    if alias is not None:
        return ref, reader.read("as", alias)[0][1].text
    path = constant_path(ref)
    return ref, path[-1] if path else ""


def true_column(line: str, col: int) -> int:
    """The column that an editor and OPA would name; the engine counts a tab as four, and bytes."""
    if len(line) > _LONG_LINE or (line.isascii() and "\t" not in line):
        return col
    seen = 1
    for at, letter in enumerate(line, start=1):
        if seen >= col:
            return at
        seen += _ENGINE_TAB if letter == "\t" else len(letter.encode())
    return len(line) + 1


class _Reader:
    """Turns the JSON of one file into nodes; names are cut out of its source where the tree has only their place."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._lines = source.decode(errors="replace").split("\n")

    def read(self, role: str, value: object) -> list[tuple[str, Node]]:
        if isinstance(value, list):
            return [pair for item in value for pair in self.read(role, item)]
        if not isinstance(value, dict):
            return []
        if len(value) == 1 and next(iter(value))[:1].isupper():
            kind, body = next(iter(value.items()))
            return [(role, self._node(kind, body if isinstance(body, dict) else {}))]
        if value.keys() == _POSITION:
            return [(role, self._name(value))]
        return [(role, self._node(role, value))]

    def _node(self, kind: str, body: dict[str, object]) -> Node:
        span = cast("dict[str, int]", body.get("span") or {})
        parts = [
            pair
            for role, value in body.items()
            if role not in _NOT_SYNTAX
            for pair in self.read(role, _without_positions(kind, role, value))
        ]
        return self._placed(kind, span, _value_of(body), tuple(parts))

    def _name(self, span: dict[str, int]) -> Node:
        text = self._source[span["start"] : span["end"]].decode(errors="replace")
        return self._placed("name", span, text, ())

    def _placed(self, kind: str, span: dict[str, int], value: Scalar, parts: tuple[tuple[str, Node], ...]) -> Node:
        line, col, start, end = (span.get(name, 0) for name in ("line", "col", "start", "end"))
        if 0 < line <= len(self._lines):
            col = true_column(self._lines[line - 1], col)
        return Node(kind, line, col, value, parts, start, end)


def _without_positions(kind: str, role: str, value: object) -> object:
    if kind == "Object" and role == "fields" and isinstance(value, list):
        return [item[1:] for item in value]
    return None if kind == "RefDot" and role == "field" else value


def _value_of(body: dict[str, object]) -> Scalar:
    field = body.get("field")
    if isinstance(field, list) and len(field) == 2:
        return cast("str", field[1])
    for role in ("value", "op"):
        value = body.get(role)
        if isinstance(value, (bool, int, float, str)):
            return value
    return None
