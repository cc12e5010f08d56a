"""Whether the cost of a policy is bounded by what it is written as, or by what a caller sends.

A question has at most 2,000 values. A rule that goes through them once costs milliseconds at worst; one that goes
through them inside a loop over them, or calls a function whose work is not bounded by its arguments, can be made to
run for seconds. Such a policy is evaluated where it can be ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

from adapters.pdp.builtins import UNBOUNDED
from adapters.pdp.bundle import Bundle
from adapters.pdp.rules import Call, Program, Read, Rule
from adapters.pdp.syntax import Node, constant_path, ref_steps

Isolation: TypeAlias = Literal["auto", "inline", "process"]

MAX_POLICY_BYTES: Final = 512 << 10
MAX_DATA_BYTES: Final = 8 << 20
MAX_LOOPS: Final = 1
_LITERALS: Final = frozenset({"Array", "Set", "Object", "String", "RawString", "Number", "Bool", "Null"})
_COMPREHENSIONS: Final = frozenset({"ArrayCompr", "SetCompr", "ObjectCompr"})
_FIXED_PATTERN: Final[Mapping[str, int]] = {
    "regex.find_n": 0,
    "regex.match": 0,
    "regex.replace": 1,
    "regex.split": 0,
    "sprintf": 0,
}
"""Functions that are cheap when this argument is written out, because then it is compiled once or says how much."""
_SMALL: Final = ("subject", "action", "context")
"""The parts of a question that hold facts of ours, whose size no caller decides."""
_OURS: Final = frozenset({("resource", "properties", "catalog")})
_TEXTS: Final = frozenset(
    {("phase",), ("schema",), ("resource", "id"), ("resource", "type")}
    | {("resource", "properties", name) for name in ("arguments_digest", "mode", "name", "truncated", "upstream")}
)
"""What is one value."""


def isolation_for(wanted: Isolation, program: Program, bundle: Bundle) -> Literal["inline", "process"]:
    """Where to evaluate: as configured, and with `auto` in a process unless the policy is found to be cheap."""
    if wanted != "auto":
        return wanted
    return "process" if next(unbounded(program, bundle), None) else "inline"


def unbounded(program: Program, bundle: Bundle) -> Iterator[str]:
    """Each reason for which an evaluation might take long, with file and line; none when it cannot."""
    size = sum(len(file.text) for file in bundle.files)
    if size > MAX_POLICY_BYTES:
        yield f"the policy has {size} bytes, more than {MAX_POLICY_BYTES}"
    if len(bundle.data) > MAX_DATA_BYTES:
        yield f"the data has {len(bundle.data)} bytes, more than {MAX_DATA_BYTES}"
    depths = _Depth(program)
    for rule in _asked(program):
        yield from (f"{rule.file}:{node.line}: {node.kind} is not understood" for node in rule.uses.strange)
        yield from (f"{rule.file}:{call.node.line}: {call.name}" for call in rule.uses.calls if _is_costly(call))
        depth = depths.of_rule(rule)
        if depth > MAX_LOOPS:
            yield f"{rule.file}:{rule.node.line}: {rule.name} has {depth} nested loops over what a caller sends"


def _asked(program: Program) -> Iterable[Rule]:
    asked = {id(rule): rule for entry in ("decision", "visible") for rule in program.closure(("interlock", entry))}
    return asked.values()


def _is_costly(call: Call) -> bool:
    if call.user_defined or call.name not in UNBOUNDED:
        return False
    position = _FIXED_PATTERN.get(call.name)
    arguments = call.node.all("params")
    if position is None or len(arguments) <= position:
        return True
    return arguments[position].kind not in {"String", "RawString"} or any(_from_caller(each) for each in arguments)


def _from_caller(node: Node) -> bool:
    """Whether the text may be an argument of the call, read directly (a name may hold anything, and is small)."""
    path = constant_path(node)
    return path is not None and path[:4] == ("input", "resource", "properties", "arguments")


class _Depth:
    """How many loops over caller-sized collections are nested, counting through the functions that are called."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._known: dict[Rule, int] = {}
        self._from_caller: dict[Rule, bool] = {}

    def of_rule(self, rule: Rule) -> int:
        """The deepest nesting in this rule."""
        if rule not in self._known:
            self._known[rule] = 0  # a recursive function is refused elsewhere
            self._known[rule] = _Body(self, rule).depth(rule.node)
        return self._known[rule]

    def of_function(self, name: str) -> int:
        """The deepest nesting in any definition of this function."""
        return max((self.of_rule(rule) for rule in self._program.defines(name)), default=0)

    def function_sees_caller(self, name: str) -> bool:
        """Whether a function looks at what a caller sends without being given it."""
        return any(self._sees_caller(rule) for rule in self._program.defines(name))

    def document_is_callers(self, rule: Rule, name: str) -> bool:
        """Whether a rule of the same package has a value that depends on what a caller sends."""
        return any(self._sees_caller(each) for each in self._program.matching((*rule.module.package, name)))

    def path_is_callers(self, path: tuple[str | None, ...]) -> bool:
        """As above, for what a reference below `data` may see. How many packages there are is no caller's doing."""
        return any(self._sees_caller(each) for each in self._program.matching(path) if len(each.path) <= len(path))

    def _sees_caller(self, rule: Rule) -> bool:
        if rule not in self._from_caller:
            self._from_caller[rule] = any(_is_callers(read) for read in rule.uses.inputs)
            self._from_caller[rule] |= any(self._sees_caller(needed) for needed in self._program.needed_by(rule))
        return self._from_caller[rule]


def _is_callers(read: Read) -> bool:
    return not (read[:1] and read[0] in _SMALL) and not (read[:3] in _OURS or read in _TEXTS)


class _Body:
    """One rule: where its names come from, and how deep its loops are."""

    def __init__(self, depths: _Depth, rule: Rule) -> None:
        self._depths = depths
        self._rule = rule
        self._calls = {id(call.node): call for call in rule.uses.calls}
        self._origins = dict(_origins(rule.node))

    def depth(self, node: Node) -> int:
        """The deepest nesting below `node`; the statements of one query run inside the loops before them."""
        if node.kind == "query":
            return self._of_query(node)
        depth = max((self.depth(child) for _, child in node.parts), default=0)
        if node.kind in _COMPREHENSIONS or node.kind == "bodies":
            depth = max(depth, self._with_head(node))
        if node.kind == "Every":  # only its own body is inside the loop
            depth += self._is_loop(node)
        call = self._calls.get(id(node))
        if call is not None and call.user_defined:
            depth = max(depth, self._depths.of_function(call.name))
        return depth

    def _with_head(self, node: Node) -> int:
        """What a body or comprehension yields is computed each time round the loops of its query."""
        query = next((child for _, child in node.parts if child.kind == "query"), None)
        if query is None:
            return 0
        rest = max((self.depth(child) for _, child in node.parts if child is not query), default=0)
        return sum(self._loops(statement) for statement in query.all("stmts")) + rest

    def _of_query(self, query: Node) -> int:
        loops = deepest = 0
        for statement in query.all("stmts"):
            deepest = max(deepest, loops + self.depth(statement))
            loops += self._loops(statement)
        return max(deepest, loops)

    def _loops(self, statement: Node) -> int:
        """The loops that a statement opens for those after it; what is inside a comprehension stays inside."""
        count = 0
        waiting = [statement]
        while waiting:
            node = waiting.pop()
            count += node.kind != "Every" and self._is_loop(node)
            waiting.extend(
                child for _, child in node.parts if child.kind not in _COMPREHENSIONS and child.kind != "query"
            )
        return count

    def _is_loop(self, node: Node) -> bool:
        if node.kind in {"SomeIn", "Every"}:
            collection = node.part("collection") or node.part("domain")
            return collection is None or self._is_caller_sized(collection)
        if node.kind != "RefBrack":
            return False
        index, inner = node.part("index"), node.part("refr")
        if index is None or inner is None or index.kind != "Var" or index.text in self._origins:
            return False  # a step whose name is bound elsewhere is a look-up
        return self._is_caller_sized(inner)

    def _is_caller_sized(self, collection: Node, hops: int = 8) -> bool:
        """Not a literal, not data, not a fact of ours: then a caller may decide how long it is."""
        if collection.kind in _LITERALS:
            return False
        base, steps = ref_steps(collection)
        if base.kind != "Var" or hops == 0:
            return base.kind != "Call" or self._result_is_caller_sized(base, hops)
        names = tuple(step if isinstance(step, str) else None for step in steps)
        if base.text in {"input", "data"}:
            return _is_callers(names) if base.text == "input" else self._depths.path_is_callers(names)
        if base.text in self._origins:
            origin = self._origins[base.text]
            return origin is None or self._is_caller_sized(origin, hops - 1)
        return self._depths.document_is_callers(self._rule, base.text)

    def _result_is_caller_sized(self, node: Node, hops: int) -> bool:
        call = self._calls.get(id(node))
        if hops == 0 or call is None or (call.user_defined and self._depths.function_sees_caller(call.name)):
            return True
        return any(self._is_caller_sized(argument, hops - 1) for argument in node.all("params"))


def _origins(rule: Node) -> Iterator[tuple[str, Node | None]]:
    """What each name of a rule is taken from: the collection it loops over, the value it is given, or its caller."""
    head = rule.part("head") or rule
    for argument in head.all("args"):
        yield from ((each.text, None) for each in argument.walk() if each.kind == "Var")
    for node in rule.walk():
        if node.kind in {"SomeIn", "Every"}:
            sides, origin = [*node.all("key"), *node.all("value")], node.part("collection") or node.part("domain")
        elif node.kind == "AssignExpr":
            sides, origin = node.all("lhs"), node.part("rhs")
        else:
            continue
        for side in sides:
            yield from (
                (each.text, origin) for each in side.walk() if each.kind in {"Var", "name"} and each.text != "_"
            )
