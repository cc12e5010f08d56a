"""There is one path to an upstream: proved over the syntax of every module that ships."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
SHIPPED: Final = ("gateway", "adapters", "sandboxes")
SQL: Final = frozenset({"sqlite3", "sqlalchemy"})
"""Modules that import these call `execute` on databases."""


class Places(ast.NodeVisitor):
    """Where a module uses a name as a value (not in an annotation), by the function that does it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[str] = []
        self._scopes: list[str] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._within(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._within(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._within(node)

    def _within(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._scopes.append(node.name)
        for decorator in node.decorator_list:
            self.visit(decorator)
        for child in node.body:
            self.visit(child)
        for default in node.args.defaults if not isinstance(node, ast.ClassDef) else node.bases:
            self.visit(default)
        self._scopes.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        self._note(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._note(node.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in {"getattr", "attrgetter", "methodcaller"}:
            for argument in node.args:
                self._note(argument.value if isinstance(argument, ast.Constant) else None)
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        if node.asname is not None:
            self._note(node.name)  # under another name it could not be found

    def _note(self, name: object) -> None:
        if name == self.name:
            self.found.append(".".join(self._scopes))


def modules(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.Module) -> set[str]:
    """Every dotted name that a module imports, wherever in it: `gateway.types` and `gateway.types.Call`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def uses(tree: ast.Module, name: str) -> list[str]:
    places = Places(name)
    places.visit(tree)
    return places.found


def uses_everywhere(name: str) -> dict[str, list[str]]:
    found = {path: uses(tree, name) for path, tree in modules(*SHIPPED)}
    return {path: places for path, places in found.items() if places}


def test_only_the_pipeline_makes_an_authorized_call() -> None:
    assert uses_everywhere("Authorized") == {"gateway/pipeline.py": ["Pipeline.handle"]}


def test_nothing_makes_an_authorized_call_of_another_one() -> None:
    assert [path for path, tree in modules(*SHIPPED) if any(copies(call) for call in ast.walk(tree))] == []


def copies(node: ast.AST) -> bool:
    """Whether it is a copy of an `Authorized` with something else in it; the page's `session` is none."""
    if not isinstance(node, ast.Call) or ast.unparse(node.func) not in {"replace", "dataclasses.replace"}:
        return False
    copied = ast.unparse(node.args[0]).rpartition(".")[2] if node.args else ""
    words = {word.arg for word in node.keywords}
    return copied in {"authorized", "parent"} or "permit" in words or ("identity" in words and copied != "session")


def test_only_the_judge_of_an_answer_makes_a_permit() -> None:
    found = uses_everywhere("Permit")

    assert found.pop("gateway/types.py") == [""]  # the alias `Decision`
    looking = "gateway/shadow/comparing.py"  # asks of answers that decide nothing what kind they are
    assert set(found) <= {"gateway/authz/answer.py", "gateway/authz/authz.py", looking}
    assert [path for path, tree in modules(*SHIPPED) if constructs(tree, "Permit")] == ["gateway/authz/answer.py"]


def constructs(tree: ast.Module, name: str) -> bool:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == name for call in calls)


def test_only_the_pipeline_and_its_wrapper_carry_calls_out() -> None:
    found = {
        path: places
        for path, tree in modules(*SHIPPED)
        if (places := uses(tree, "execute")) and not any(name.partition(".")[0] in SQL for name in imported(tree))
    }

    assert found == {
        "gateway/app/agents.py": ["BridgedAgent.execute", "BridgedAgent._sent"],  # an agent and its other side
        "gateway/app/model_path.py": ["_Noted.execute"],  # the listener hears of the permit, and the call goes on
        "gateway/pipeline.py": ["Pipeline._execute"],
        "gateway/routing/answers.py": ["Cached.execute"],  # the same call to the same upstream, or an answer it gave
        "gateway/running.py": ["_Entry.execute"],
    }


def test_only_connections_of_boxes_are_carried_by_others_than_their_upstream() -> None:
    found = {path: calls for path, tree in modules(*SHIPPED) if (calls := passing_on(tree, "by"))}

    assert found.pop("gateway/cli/pins.py") == found.pop("gateway/cli/agents.py") == ["accept"]  # who accepts
    assert found == {
        "gateway/app/agents.py": ["relay.act"],  # a question to policy that nothing follows from
        "gateway/app/assembly.py": ["self.pipeline.handle"],
        "gateway/app/egress.py": ["cause.relay.act", "self._handle"],
        "gateway/app/held_messages.py": ["self._handler.handle"],  # questions about held calls, answered by us
        "gateway/app/held_tasks.py": ["self._handler.handle"],
        "gateway/app/model_path.py": ["self._handler.handle"],  # by its upstream; lists and repetitions by us
        "gateway/pipeline.py": ["self.handle"],
    }


def passing_on(tree: ast.Module, keyword: str) -> list[str]:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return sorted(ast.unparse(call.func) for call in calls if any(word.arg == keyword for word in call.keywords))


def test_modules_that_talk_sql_know_no_upstream() -> None:
    for path, tree in modules(*SHIPPED):
        names = imported(tree)
        if any(name.partition(".")[0] in SQL for name in names):
            assert not names & {"gateway.ports.Upstream", "gateway.types.Authorized"}, path


def test_listeners_know_nothing_that_could_reach_an_upstream() -> None:
    forbidden = {"gateway.ports.Upstream", "gateway.types.Authorized", "gateway.ports.Relay"}
    places = ("gateway.running", "gateway.lister", "gateway.pipeline", "gateway.authz", "adapters", "sandboxes")

    for path, tree in modules("gateway/listeners"):
        names = imported(tree)
        assert not names & forbidden, path
        assert not [name for name in names if name.startswith(places)], path
        assert not [name for word in ("execute", "upstream_for") for name in uses(tree, word)], path


@pytest.mark.parametrize(
    "source",
    [
        "def sneak(call): return Authorized(call, who, permit)",
        "class A:\n    def b(self): return types.Authorized(*args)",
        "make = Authorized",
        "from gateway.types import Authorized as Known",
        "made = object.__new__(Authorized)",
        "x: type = Authorized",
        "def f(make=Authorized): ...",
        "class Mine(Authorized): ...",
        "made = getattr(types, 'Authorized')",
    ],
)
def test_proof_would_find_a_second_path(source: str) -> None:
    assert len(uses(ast.parse(source), "Authorized")) >= 1


def test_proof_does_not_mind_annotations() -> None:
    source = "from gateway.types import Authorized\nasync def f(a: Authorized) -> Authorized:\n    b: Authorized = a"

    assert uses(ast.parse(source), "Authorized") == []
