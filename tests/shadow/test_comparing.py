"""Two answers differ where anybody could notice it, and nowhere else."""

from __future__ import annotations

import pytest

from gateway.app.shadow_findings import differences, findings_in, is_milestone
from gateway.ports import Answer, Decided
from gateway.shadow import compared, compared_lists, newly_allowed
from gateway.types import Decision, Deny, NeedsApproval, Obligation, Permit, Reason

ALLOW = Permit("d1", "sha256:a")
DENY = Deny("d1", (Reason("closed"),))
HOLD = NeedsApproval("d1", {"approvers": "group:finance"})
LIMITED = Permit("d1", "sha256:a", (Obligation("redact"), Obligation("audit")))
QUESTION = {
    "subject": {"properties": {"tenant": "acme"}},
    "action": {"name": "mcp.tools.list"},
    "resource": {"id": "shop", "properties": {"candidates": [{"id": "shop/see"}, {"id": "shop/buy"}]}},
}


@pytest.mark.parametrize(
    ("active", "candidate", "kinds"),
    [
        (ALLOW, ALLOW, ()),
        (ALLOW, DENY, ("allow->deny",)),
        (ALLOW, HOLD, ("allow->hold",)),
        (ALLOW, None, ("allow->no answer",)),
        (DENY, ALLOW, ("deny->allow",)),
        (HOLD, LIMITED, ("hold->allow",)),
        (None, ALLOW, ("no answer->allow",)),
        (None, None, ()),
        (ALLOW, LIMITED, ("obligations",)),
        (LIMITED, Permit("d2", "sha256:b", LIMITED.obligations[::-1]), ()),
        (LIMITED, Permit("d1", "sha256:a", (), ("pii",)), ("obligations", "labels")),
        (DENY, Deny("d2", (Reason("closed", "in other words"),)), ()),
        (DENY, Deny("d2", (Reason("late"),)), ("reasons",)),
        (HOLD, NeedsApproval("d2", {"approvers": "group:finance"}), ()),
        (HOLD, NeedsApproval("d2", {"approvers": "group:board"}), ("approval",)),
    ],
)
def test_what_differs_has_a_name(active: Decision | None, candidate: Decision | None, kinds: tuple[str, ...]) -> None:
    assert compared(active, candidate) == kinds


def test_lists_differ_in_what_they_show() -> None:
    assert compared_lists(frozenset({0, 1}), frozenset({1, 2})) == {"list: shown": [2], "list: hidden": [0]}
    assert compared_lists(frozenset({0}), frozenset({0})) == {}
    assert compared_lists(frozenset({0}), None) == {"list->no answer": ()}
    assert compared_lists(None, None) == {}


def test_only_a_call_that_was_not_let_through_is_newly_allowed() -> None:
    assert newly_allowed("deny->allow")
    assert newly_allowed("no answer->allow")
    assert not newly_allowed("allow->deny")
    assert not newly_allowed("list: shown")


def test_a_difference_in_a_list_names_the_tool() -> None:
    decided = Decided("d1", "visible", QUESTION, Answer([0, 1]))

    assert list(differences(decided, Answer([0]))) == [("list: hidden", "shop/buy")]
    assert list(differences(decided, Answer("all"))) == [("list->no answer", "shop")]


def test_an_answer_that_the_gateway_would_not_take_is_none() -> None:
    decided = Decided("d1", "decision", QUESTION, Answer({"decision": True}))

    assert list(differences(decided, Answer({"decision": "yes"}))) == [("allow->no answer", "shop")]
    unsupported = {"decision": True, "context": {"obligations": [{"type": "dance"}]}}
    assert list(differences(decided, Answer(unsupported))) == [("allow->deny", "shop")]


def test_findings_are_read_whatever_they_look_like() -> None:
    entries = [
        {"rule": "rules.a", "would": "deny", "code": "loud", "message": "too loud"},
        {"rule": "rules.a", "would": "dney", "code": "typo", "message": ""},
        "odd",
    ]

    assert findings_in(entries) == {("rules.a", "deny", "loud"): "too loud", ("rules.a", "invalid", "typo"): ""}
    assert findings_in({"not": "a list"}) == {}


def test_the_log_says_it_ever_more_rarely() -> None:
    assert [times for times in range(1, 2_000) if is_milestone(times)] == [1, 10, 100, 1_000]
