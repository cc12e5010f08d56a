"""What an approval is good for: exactly one call of one principal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.approvals.binding import binding_of, scopes_of
from gateway.types import Call, Entity, FrozenDict, Identity, NeedsApproval, Resource
from tests.approvals.worlds import ANA, PAY, a_call, frozen, needs

Asked = tuple[Call, Identity, NeedsApproval]
HERE: Asked = (a_call(), ANA, needs())

CHANGES: dict[str, Callable[[], Asked]] = {
    "arguments": lambda: (a_call({"to": "me", "sum": 1}), ANA, needs()),
    "type of an argument": lambda: (a_call({"to": "shop", "sum": True}), ANA, needs()),
    "meta": lambda: (a_call(params=frozen({**a_call().params, "_meta": {"x": 1}})), ANA, needs()),
    "tool": lambda: (a_call(resource=replace(PAY, id="bank/refund")), ANA, needs()),
    "definition": lambda: (
        a_call(resource=replace(PAY, catalog=FrozenDict({"definition_digest": "d2"}))),
        ANA,
        needs(),
    ),
    "upstream": lambda: (a_call(resource=replace(PAY, upstream="other")), ANA, needs()),
    "action": lambda: (a_call(action="mcp.prompts.get"), ANA, needs()),
    "subject": lambda: (a_call(), replace(ANA, subject=Entity("user", "user:bo")), needs()),
    "tenant": lambda: (a_call(), replace(ANA, tenant="zeta"), needs()),
    "roles": lambda: (a_call(), replace(ANA, roles=("admin",)), needs()),
    "chain": lambda: (a_call(), replace(ANA, delegation=("user:di", "user:ana")), needs()),
    "hops": lambda: (a_call(), replace(ANA, hops=("planner",)), needs()),
    "what policy asks": lambda: (a_call(), ANA, needs(approvers="group:finance", title="pay", quorum=2)),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_whatever_changes_makes_it_another_call(change: str) -> None:
    changed = CHANGES[change]()

    assert binding_of(*changed) != binding_of(*HERE)
    assert scopes_of(*changed)[0] != scopes_of(*HERE)[0]


def test_another_policy_is_another_call_but_a_grant_outlives_it() -> None:
    changed = (a_call(), ANA, needs("r2"))

    assert binding_of(*changed) != binding_of(*HERE)
    assert scopes_of(*changed) == scopes_of(*HERE)


def test_same_call_made_again_is_the_same() -> None:
    again = (replace(a_call(), id="c2", traceparent="00-x", session_id="s2", started_ns=9), ANA, needs())

    assert binding_of(*again) == binding_of(*HERE)


def test_grant_for_any_arguments_is_for_no_other_tool() -> None:
    other_arguments = scopes_of(a_call({"to": "me"}), ANA, needs())
    other_tool = scopes_of(a_call(resource=replace(PAY, id="bank/refund")), ANA, needs())

    assert other_arguments[1] == scopes_of(*HERE)[1]
    assert other_tool[1] != scopes_of(*HERE)[1]


def message(text: str, message_id: str, protocol: str = "a2a") -> Call:
    params = frozen({"message": {"messageId": message_id, "parts": [{"text": text}]}})
    agent = Resource("agent", "planner", "planner", "planner")
    return Call("c1", "a2a.message.send", "SendMessage", agent, params, protocol=protocol)


def test_message_to_an_agent_is_the_same_under_another_id() -> None:
    first, again = message("go", "m1"), message("go", "m2")

    assert binding_of(first, ANA, needs()) == binding_of(again, ANA, needs())
    assert binding_of(first, ANA, needs()) != binding_of(message("stop", "m1"), ANA, needs())
    assert binding_of(message("go", "m1", "mcp"), ANA, needs()) != binding_of(message("go", "m2", "mcp"), ANA, needs())
