"""A small policy and a question for the tests of `interlock policy`."""

from __future__ import annotations

import json
from pathlib import Path

QUESTION: dict[str, object] = {
    "schema": "interlock.input/1",
    "phase": "request",
    "subject": {"type": "agent", "id": "agent:a", "properties": {"roles": ["x"]}},
    "action": {"name": "mcp.tools.call", "properties": {}},
    "resource": {
        "type": "tool",
        "id": "shop/buy",
        "properties": {"upstream": "shop", "name": "buy", "truncated": False, "arguments": {"amount": 12}},
    },
    "context": {},
}
RULES = """package rules.shop

default allow := false

allow if {
	input.action.name == "mcp.tools.call"
	small(input.resource.properties.arguments.amount)
}

small(x) if {
	is_number(x)
	x < 10
}

deny contains {"code": "closed", "message": "closed", "public": true} if input.resource.id == "shop/closed"
"""
TESTS = """package tests.shop

test_small_is_allowed if data.rules.shop.allow with input as {
	"action": {"name": "mcp.tools.call"},
	"resource": {"properties": {"arguments": {"amount": 3}}},
}
"""


def write_policy(root: Path, rules: str = RULES, tests: str = TESTS) -> Path:
    """A directory with these rules and tests."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "shop.rego").write_text(rules)
    if tests:
        (root / "shop_test.rego").write_text(tests)
    return root


def write_question(path: Path, amount: object = 12) -> Path:
    """A file with the question to buy for so much."""
    path.write_text(json.dumps(question(amount)))
    return path


def question(amount: object = 12, resource: str = "shop/buy") -> dict[str, object]:
    """The question to buy for so much."""
    properties = {"upstream": "shop", "name": "buy", "truncated": False, "arguments": {"amount": amount}}
    return {**QUESTION, "resource": {"type": "tool", "id": resource, "properties": properties}}
