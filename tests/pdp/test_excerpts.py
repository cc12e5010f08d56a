"""The text of an expression is cut out whole, whatever stands in its strings and comments."""

from __future__ import annotations

import pytest

from adapters.pdp.excerpts import excerpt, parenthesised, texts_of
from adapters.pdp.syntax import Node, true_column
from tests.pdp.policies import composed, program_of


def statements(body: str) -> list[str]:
    bundle = composed(f"allow if {{\n{body}\n}}")
    (rule,) = (rule for rule in program_of(bundle).rules if rule.path == ("rules", "team", "allow"))
    source = next(file.text for file in bundle.files if file.path == "team.rego").encode()
    query = next(node for node in rule.node.walk() if node.kind == "query")
    assert isinstance(query, Node)
    return texts_of(source, query)


@pytest.mark.parametrize(
    "body",
    [
        ["input.a == 1", "input.b"],
        ['input.a == "}; # no"', "input.b"],
        ['"é" == input.a', '"" != input.b', "`\\` == input.c"],
        ['input.a == "\\"}"', "input.b[`]`]"],
        ['x := {"a": [1,\n  2]}', "x.a[_] == 2"],
        ["every x in input.l {\n x > 1 # }\n}", "not input.q"],
        ['input.a with input.b as {"c": "d"}', 'startswith(input.a, "x")'],
        ["count([x | some x in input.l; x > 1]) > 2", "input.m[input.n]"],
        ["some x, y", "input.l[x] == y"],
        ["some k, v in input.o", "k == v"],
    ],
)
@pytest.mark.parametrize("between", ["\n", "; ", '\n\n\t# a } comment; with " signs\n\t'])
def test_statements_come_out_as_they_were_written(body: list[str], between: str) -> None:
    assert statements(between.join(body) + " # the last") == body


@pytest.mark.parametrize(
    ("text", "inside"), [("f(a)", "a"), ('f(")", (1))', '")", (1)'), ("x.f( [a], b ) == (2)", " [a], b ")]
)
def test_what_stands_in_brackets_ends_with_their_partner(text: str, inside: str) -> None:
    assert parenthesised(text.encode(), 0) == inside


def test_a_string_that_never_ends_ends_with_the_file() -> None:
    assert excerpt(b'x == "abc', 0, 4) == "x =="
    assert excerpt(b'x == "abc', 0, 6) == 'x == "abc'


@pytest.mark.parametrize(
    ("line", "engine", "editor"),
    [("abc", 3, 3), ("\tabc", 5, 2), ("\t\tabc", 9, 3), ('"é" x', 6, 5), ("\tx", 99, 3), ("x" * 5000 + "\t", 7, 7)],
)
def test_columns_are_counted_as_an_editor_does(line: str, engine: int, editor: int) -> None:
    assert true_column(line, engine) == editor
