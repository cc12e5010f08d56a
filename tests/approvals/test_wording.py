"""What policy asks for is read strictly: what is not understood holds the call for good."""

from __future__ import annotations

import pytest

from gateway.approvals.wording import (
    MAX_EXPIRES_S,
    Unreadable,
    covers_in,
    expires_s_in,
    shown_of,
    stages_in,
    standing_in,
    title_of,
)
from gateway.tickets import Stage
from tests.approvals.worlds import ANA, a_call, frozen, needs

ONE, TWO = {"approvers": "group:finance"}, {"approvers": "user:bo", "quorum": 2}


@pytest.mark.parametrize(
    ("request_", "stages"),
    [
        (ONE, [Stage("group:finance")]),
        (TWO, [Stage("user:bo", 2)]),
        ({"approvers": "x:y", "stages": [ONE, TWO]}, [Stage("group:finance"), Stage("user:bo", 2)]),
        (
            {"approvers": "all", "all_of": [ONE, {"approvers": "x", "stages": [TWO]}]},
            [Stage("group:finance"), Stage("user:bo", 2)],
        ),
    ],
)
def test_stages_come_in_their_order(request_: dict[str, object], stages: list[Stage]) -> None:
    assert list(stages_in(frozen(request_))) == stages


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"approvers": ""},
        {"approvers": "finance"},
        {"approvers": "group:"},
        {"approvers": "everybody:x"},
        {"approvers": ["group:finance"]},
        {"approvers": "group:finance", "quorum": 0},
        {"approvers": "group:finance", "quorum": True},
        {"approvers": "group:finance", "quorum": 1.5},
        {"approvers": "group:finance", "quorum": 33},
        {"approvers": "group:finance", "stages": []},
        {"approvers": "group:finance", "stages": "group:finance"},
        {"approvers": "group:finance", "stages": ["group:finance"]},
        {"approvers": "group:finance", "stages": [ONE] * 9},
        {"approvers": "group:finance", "all_of": []},
        {"approvers": "group:finance", "stages": None},
        {"approvers": "group:finance", "all_of": None, "stages": [TWO]},
        {"approvers": "group:finance", "all_of": [ONE], "stages": [TWO]},
        {"approvers": "group:finance", "quorum": 2, "stages": [ONE, TWO]},
        {"approvers": "all", "all_of": [ONE, {"approvers": "x", "quorum": 2, "stages": [ONE]}]},
    ],
)
def test_request_that_names_nobody_cannot_be_read(request_: dict[str, object]) -> None:
    with pytest.raises(Unreadable):
        stages_in(frozen(request_))


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (60, 60),
        (86_400, 86_400),
        (0.5, 1),
        (-5, 1),
        (10**400, MAX_EXPIRES_S),
        (31 * 86_400, MAX_EXPIRES_S),
        ("60", 3600),
        (True, 3600),
        (None, 3600),
    ],
)
def test_time_is_what_policy_says_within_bounds_and_else_an_hour(said: object, seconds: float) -> None:
    assert expires_s_in(frozen({**ONE, "expires_s": said})) == seconds


@pytest.mark.parametrize(("first", "second", "seconds"), [(60, 30, 30), (86_400, None, 3600), (None, 60, 60)])
def test_shortest_time_of_several_holds(first: object, second: object, seconds: float) -> None:
    holds = [{**ONE, "expires_s": first}, {**TWO, "expires_s": second}]

    assert expires_s_in(frozen({"all_of": holds})) == seconds


def test_title_is_never_empty_and_never_endless() -> None:
    assert title_of(frozen({"title": ""}), a_call()) == "mcp.tools.call on bank/pay"
    assert len(title_of(frozen({"title": "x" * 999}), a_call())) == 300


def test_what_is_covered_is_each_hold_as_it_was_worded() -> None:
    assert covers_in(frozen(ONE)) == (ONE,)
    assert covers_in(frozen({"all_of": [ONE, TWO]})) == (ONE, TWO)


def test_approver_is_shown_everything_that_reaches_the_tool() -> None:
    call = a_call(params=frozen({**a_call().params, "_meta": {"tenant": "other"}}))

    shown = shown_of(call, ANA, needs())

    assert shown["arguments"] == {"to": "shop", "sum": 1}
    assert shown["meta"] == {"tenant": "other"}
    assert shown["params"] is None
    assert shown["request"] == {"approvers": "group:finance", "title": "pay"}


@pytest.mark.parametrize(
    "params",
    [
        {"name": "pay", "arguments": {"to": "shop"}, "iban": "another"},
        {"messages": [{"role": "user", "content": "send the key"}], "maxTokens": 10},
        {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a", "value": "b"}},
    ],
)
def test_approver_is_shown_what_travels_beside_the_arguments(params: dict[str, object]) -> None:
    shown = shown_of(a_call(params=frozen(params)), ANA, needs())

    beside = {name: value for name, value in frozen(params).items() if name not in ("name", "arguments")}
    assert shown["params"] == beside


OFFER = {"uses": 5, "expires_s": 600, "idle_s": 60, "any_arguments": True}


@pytest.mark.parametrize(
    ("request_", "most"),
    [
        ({"standing": OFFER}, OFFER),
        (
            {"standing": {"uses": 5, "expires_s": 600}},
            {"uses": 5, "expires_s": 600, "idle_s": 600, "any_arguments": False},
        ),
        ({}, {}),
        ({"standing": True}, {}),
        ({"standing": {"uses": 5}}, {}),
        ({"standing": {**OFFER, "uses": 0}}, {}),
        ({"standing": {**OFFER, "uses": True}}, {}),
        ({"standing": {**OFFER, "idle_s": "60"}}, {}),
        ({"all_of": [{"standing": OFFER}, {}]}, {}),
        (
            {"all_of": [{"standing": OFFER}, {"standing": {"uses": 2, "expires_s": 900}}]},
            {"uses": 2, "expires_s": 600, "idle_s": 60, "any_arguments": False},
        ),
    ],
)
def test_standing_grant_is_offered_only_as_far_as_every_hold_says_so(
    request_: dict[str, object], most: dict[str, object]
) -> None:
    assert standing_in(frozen(request_)) == most
