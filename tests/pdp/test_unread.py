"""A rule that no decision reads costs no decision anything."""

from __future__ import annotations

import anyio
import pytest

from adapters.pdp.activation import EngineSpec, build_engine
from adapters.pdp.bundle import Bundle, bundle_of, load_bundle
from adapters.pdp.checks import examine
from adapters.pdp.unread import without_unread
from gateway.config import policy_library
from tests.shadow.test_tap import QUESTION

HEAD = "package rules.all\n\nimport future.keywords.not\n\ndefault allow := false\n\n"
CLOSED = 'deny contains {"code": "closed", "message": "closed", "public": true} if input.resource.id != ""\n'
ENDLESS = """
monitor contains {"would": "deny", "code": "é", "message": ""} if {
	input.context.amount
	some a in numbers.range(1, 100000)
	some b in numbers.range(1, 100000)
	a * b == 0
}
"""
FAILING = """
# a helper of the rule below, and of nothing else
number := to_number(input.context.amount)

monitor contains {"would": "deny", "code": "large", "message": ""} if number > 1
"""


def policy(*parts: str) -> Bundle:
    library = {file.path: file.text for file in load_bundle([policy_library()]).files}
    return bundle_of({**library, "shop/all.rego": HEAD + "".join(parts)})


def left(bundle: Bundle) -> str:
    program = examine(bundle).program
    assert program is not None
    found = {file.path: file.text for file in without_unread(bundle, program).files}
    return found["shop/all.rego"]


@pytest.mark.parametrize("monitor", [ENDLESS, FAILING])
@pytest.mark.parametrize("last", [False, True])
async def test_a_denial_neither_waits_for_a_monitor_rule_nor_fails_with_it(monitor: str, last: bool) -> None:
    bundle = policy(CLOSED, monitor) if last else policy(monitor, CLOSED)

    engine = await build_engine(EngineSpec("auto", timeout_s=2.0, cache_entries=0), bundle)
    with anyio.fail_after(5):
        answer = await engine.evaluate("decision", {**QUESTION, "context": {"amount": "no number"}})
    engine.close()

    assert answer.value == {
        "decision": False,
        "context": {
            "reasons": [
                {"code": "closed", "message": "closed", "rule": "rules.all", "public": True, "remedy": ""},
            ]
        },
    }
    assert answer.revision == bundle.revision


def test_every_other_rule_stays_on_its_line() -> None:
    before, after = HEAD + ENDLESS + CLOSED, left(policy(ENDLESS, CLOSED))

    assert "monitor" not in after
    assert [line for line in after.splitlines() if line.strip()] == (HEAD + CLOSED).split("\n\n")[0:1] + [
        line for line in (HEAD + CLOSED).splitlines()[1:] if line
    ]
    assert after.splitlines().index(CLOSED.strip()) == before.splitlines().index(CLOSED.strip())


def test_what_a_decision_may_read_stays() -> None:
    rule = 'deny contains {"code": "loud", "message": "loud", "public": true} if count(monitor) > 0\n'

    assert "to_number" in left(policy(FAILING, rule))
    assert left(policy(CLOSED)) == HEAD + CLOSED
