"""Only an exact answer counts, and only an exact yes permits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.authz.answer import MAX_REASONS, judge, judge_visible
from gateway.authz.obligations import Label, Redact
from gateway.errors import PolicyEngineUnavailable
from gateway.types import Decision, Deny, NeedsApproval, Permit, Reason, Ruling
from tests.authz.makers import denial, obligation, permit_with

RULING = Ruling("d1", "r1", "test")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
FIELDS = st.sampled_from(
    [
        "decision",
        "context",
        "obligations",
        "labels",
        "reasons",
        "access_request",
        "approvers",
        "type",
        "properties",
        "code",
        "public",
        "paths",
        "patterns",
        "limit",
        "window_s",
        "path",
        "max",
        "value",
        "remove",
        "allow",
    ]
)
WORDS = st.sampled_from(
    ["redact", "transform", "rate", "audit", "label", "$.a", "$.a[*]", "email", "sandbox", "egress", "a.b"]
)
NEAR = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=24,
)
ANSWERS = st.fixed_dictionaries({"decision": st.booleans(), "context": st.dictionaries(FIELDS, NEAR, max_size=3)})


def judged(value: object) -> Decision:
    return judge(value, call_digest="digest", ruling=RULING)


@pytest.mark.parametrize(
    "answer",
    [
        {"decision": True},
        {"decision": True, "context": {}},
        permit_with(),
        {"decision": True, "context": {"obligations": [], "labels": [], "reasons": [], "cache_ttl_s": 0, "id": "x"}},
    ],
)
def test_a_yes_is_a_permit_for_this_call(answer: object) -> None:
    decision = judged(answer)

    assert decision == Permit("d1", "digest", ruling=RULING)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        False,
        1,
        "yes",
        [],
        {},
        {"decision": None},
        {"decision": 1},
        {"decision": "true"},
        {"decision": 0},
        {"decision": [True]},
        {"allow": True},
        {"decision": True, "obligations": []},
        {"decision": True, "context": None},
        {"decision": True, "context": []},
        {"decision": False, "context": "x"},
        {"decision": True, "context": {"access_request": {"approvers": "x"}}},
        {"decision": True, "context": {"obligation": [{"type": "redact"}]}},
        {"result": {"decision": True}},
    ],
)
def test_anything_else_is_no_answer(answer: object) -> None:
    with pytest.raises(PolicyEngineUnavailable) as caught:
        judged(answer)

    assert caught.value.reason == "policy_output_invalid"


def test_a_denial_keeps_every_reason() -> None:
    full = {"code": "no", "message": "why", "rule": "rules.a", "public": True, "remedy": "how"}

    decision = judged(denial(full, {"code": "bare"}))

    assert decision == Deny("d1", (Reason("no", "why", "rules.a", True, "how"), Reason("bare")), RULING)


def test_a_denial_without_reasons_is_a_denial() -> None:
    assert judged({"decision": False}) == Deny("d1", (), RULING)


def test_endless_reasons_and_texts_are_cut() -> None:
    decision = judged(denial(*[{"code": "no", "message": "x" * 10_000}] * (MAX_REASONS + 1)))

    assert isinstance(decision, Deny)
    assert len(decision.reasons) == MAX_REASONS
    assert len(decision.reasons[0].message) == 2_048


@pytest.mark.parametrize(
    "reasons",
    [
        "text",
        {"code": "x"},
        None,
        1,
        ["text"],
        [None],
        [{}],
        [{"code": ""}],
        [{"code": 1}],
        [{"code": "x", "public": "yes"}],
        [{"code": "x", "public": 1}],
        [{"code": "x", "message": None}],
        [{"code": "x", "why": "y"}],
    ],
)
def test_malformed_reasons_are_no_answer(reasons: object) -> None:
    with pytest.raises(PolicyEngineUnavailable, match="reason"):
        judged({"decision": False, "context": {"reasons": reasons}})


def test_a_hold_is_a_need_for_approval() -> None:
    request = {"approvers": "group:finance", "title": "pay", "all_of": [{"approvers": "group:finance"}]}

    decision = judged({"decision": False, "context": {"access_request": request}})

    assert isinstance(decision, NeedsApproval)
    assert decision.request["approvers"] == "group:finance"


@pytest.mark.parametrize(
    "request_",
    [None, {}, "x", [], {"approvers": ""}, {"approvers": ["x"]}, {"approvers": "x", "more": [[0] * 2_001]}],
)
def test_a_hold_that_names_nobody_is_no_answer(request_: object) -> None:
    with pytest.raises(PolicyEngineUnavailable, match="access_request"):
        judged({"decision": False, "context": {"access_request": request_}})


def test_labels_of_answer_and_obligations_are_one_list() -> None:
    decision = judged(permit_with(obligation("label", labels=["b", "a"]), labels=("a", "c")))

    assert isinstance(decision, Permit)
    assert decision.labels == ("a", "c", "b")
    assert [type(item) for item in decision.obligations] == [Label]


def test_supported_obligations_come_typed_and_with_their_properties() -> None:
    decision = judged(permit_with(obligation("redact", paths=["$.a"]), obligation("redact", patterns=["email"])))

    assert isinstance(decision, Permit)
    (redact,) = decision.obligations
    assert isinstance(redact, Redact)
    assert redact.properties == {"paths": ["$.a"], "patterns": ["email"]}


@pytest.mark.parametrize(
    "answer",
    [
        permit_with({"type": "model", "properties": {"allow": ["small"]}}),
        permit_with({"type": "sandbox", "properties": {"level": "none"}}),
        permit_with({"type": "egress", "properties": {"hosts": ["*"]}}),
        permit_with(obligation("redact", paths=["nonsense"])),
        {"decision": True, "context": {"obligations": None}},
        {"decision": True, "context": {"obligations": "redact"}},
        {"decision": True, "context": {"labels": [1]}},
        {"decision": True, "context": {"labels": ["x" * 65]}},
        {"decision": True, "context": {"labels": [str(number) for number in range(33)]}},
    ],
)
def test_an_obligation_that_cannot_be_carried_out_is_a_denial(answer: object) -> None:
    decision = judged(answer)

    assert isinstance(decision, Deny)
    assert [reason.code for reason in decision.reasons] == ["obligation_unsupported"]
    assert decision.reasons[0].public


@given(JSON | NEAR | ANSWERS)
def test_no_value_is_a_permit_that_does_not_say_so(value: object) -> None:
    try:
        decision = judged(value)
    except PolicyEngineUnavailable:
        return

    assert isinstance(value, dict)
    assert type(value["decision"]) is bool
    assert not isinstance(decision, Permit) or value["decision"] is True


@pytest.mark.parametrize("value", [[0, 2], (2, 0), {0, 2}, frozenset({0, 2}), [2, 0, 0]])
def test_visible_is_a_set_of_indexes(value: object) -> None:
    assert judge_visible(value, 3) == {0, 2}


@pytest.mark.parametrize(
    "value", [None, True, 1, "0", {}, {"0": True}, [True], [3], [-1], ["0"], [0.0], [None], [[0]], [0, 3]]
)
def test_a_doubtful_visible_is_no_answer(value: object) -> None:
    with pytest.raises(PolicyEngineUnavailable, match="visible"):
        judge_visible(value, 3)


@given(JSON | st.lists(st.integers(-2, 5), max_size=5), st.integers(0, 4))
def test_visible_never_reaches_beyond_the_list(value: object, count: int) -> None:
    try:
        visible = judge_visible(value, count)
    except PolicyEngineUnavailable:
        return

    assert visible <= set(range(count))
