"""Who may vote, and what a vote makes of a ticket."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.approvals.voting import agreed_to, may_see, obstacle_to, voted
from gateway.tickets import Stage, Vote
from gateway.types import Entity, Identity
from tests.approvals.worlds import ANA, BO, CY, DI, NOW_MS, a_ticket, frozen, person

FINANCE, SECURITY = Stage("group:finance"), Stage("role:security")


def yes(name: str, stage: int = 0) -> Vote:
    return Vote(f"user:{name}", stage, "approve", at_ms=NOW_MS)


def test_who_is_asked_may_vote() -> None:
    assert obstacle_to(a_ticket(), BO, NOW_MS) == ""
    assert obstacle_to(a_ticket(Stage("user:bo")), BO, NOW_MS) == ""
    assert obstacle_to(a_ticket(Stage("user:cy")), BO, NOW_MS) == "not_asked"


@pytest.mark.parametrize(
    "party",
    [
        ANA,
        replace(ANA, method="jwt", issuer="https://idp"),
        replace(BO, on_behalf_of=Entity("user", "user:ana")),
        replace(person("bot", "finance", kind="agent"), delegation=("user:ana", "agent:bot")),
    ],
)
def test_nobody_approves_what_is_made_by_them_for_them_or_with_another_key_of_theirs(party: Identity) -> None:
    assert obstacle_to(a_ticket(), party, NOW_MS) == "own"


def test_agent_that_the_call_came_through_does_not_approve_it() -> None:
    ticket = a_ticket(Stage("agent:helper"), subjects=("user:ana", "agent:helper"))

    assert obstacle_to(ticket, person("helper", kind="agent"), NOW_MS) == "own"


@pytest.mark.parametrize(
    "nobody",
    [
        Identity(),
        Identity(Entity("anonymous", "anonymous:dev"), tenant="acme", roles=("finance",), method="anonymous"),
        replace(BO, on_behalf_of=Entity("user", "user:di")),
        replace(BO, delegation=("user:di", "user:bo")),
        replace(BO, hops=("planner",)),
        person("bot", "finance", kind="agent"),
        person("bo", "finance", tenant="zeta"),
        person("bo", "finance", tenant=""),
        person("bo"),
    ],
)
def test_groups_are_people_of_the_same_tenant_who_speak_for_themselves(nobody: Identity) -> None:
    assert obstacle_to(a_ticket(), nobody, NOW_MS) == "not_asked"


def test_agent_votes_only_where_it_is_named() -> None:
    bot = person("bot", kind="agent")

    assert obstacle_to(a_ticket(Stage("agent:bot")), bot, NOW_MS) == ""
    assert obstacle_to(a_ticket(Stage("user:bot")), bot, NOW_MS) == "not_asked"


def test_nobody_votes_late_or_on_what_is_decided() -> None:
    ticket = a_ticket()

    assert obstacle_to(ticket, BO, ticket.expires_ms - 1) == ""
    assert obstacle_to(ticket, BO, ticket.expires_ms) == "expired"
    for state in ("approved", "denied", "spent", "withdrawn"):
        assert obstacle_to(replace(ticket, state=state), BO, NOW_MS) == "over"


def test_one_person_votes_once_and_not_at_two_stages() -> None:
    two = a_ticket(Stage("group:finance", 2))
    staged = voted(a_ticket(FINANCE, SECURITY), yes("cy"))

    assert obstacle_to(voted(two, yes("bo")), BO, NOW_MS) == "voted"
    assert obstacle_to(staged, CY, NOW_MS) == "voted"
    assert obstacle_to(staged, DI, NOW_MS) == ""


def test_quorum_and_stages_are_all_needed_in_their_order() -> None:
    ticket = a_ticket(Stage("group:finance", 2), SECURITY)

    assert obstacle_to(ticket, DI, NOW_MS) == "not_asked"
    one = voted(ticket, yes("bo"))
    two = voted(one, yes("cy"))
    all_of_them = voted(two, yes("di", 1))

    assert [(each.state, each.stage) for each in (one, two, all_of_them)] == [
        ("pending", 0),
        ("pending", 1),
        ("approved", 2),
    ]


def test_one_no_is_a_no() -> None:
    ticket = voted(voted(a_ticket(Stage("group:finance", 2)), yes("bo")), Vote("user:cy", 0, "deny", "no"))

    assert ticket.state == "denied"


def test_who_changes_the_arguments_has_everybody_agree_to_them() -> None:
    ticket = voted(a_ticket(Stage("group:finance", 2)), yes("bo"))

    changed = voted(ticket, yes("cy"), edited=frozen({"to": "me"}))
    again = voted(changed, yes("bo"), edited=frozen({"to": "me"}))

    assert changed.state == "pending"
    assert [vote.approver for vote in changed.votes] == ["user:cy"]
    assert again.state == "approved"


def test_vote_of_a_later_stage_never_counts_for_an_earlier_one() -> None:
    ticket = voted(a_ticket(FINANCE, SECURITY), yes("bo"))

    changed = voted(ticket, yes("di", 1), edited=frozen({"to": "me"}))

    assert changed.stage == 0
    assert obstacle_to(changed, BO, NOW_MS) == ""
    assert voted(changed, yes("bo"), edited=frozen({"to": "me"})).state == "approved"


def test_proposal_of_a_grant_voids_what_was_agreed_to_before() -> None:
    ticket = voted(a_ticket(Stage("group:finance", 2)), yes("bo"))

    changed = voted(ticket, yes("cy"), standing=frozen({"uses": 3}))

    assert changed.state == "pending"
    assert len(changed.votes) == 1


@pytest.mark.parametrize("other", [True, 1.0, "1"])
def test_values_that_only_python_takes_for_one_another_are_a_change(other: object) -> None:
    ticket = a_ticket(Stage("group:finance", 2), edited=frozen({"sum": 1}), votes=(yes("bo"),))

    changed = voted(ticket, yes("cy"), edited=frozen({"sum": other}))

    assert changed.state == "pending"
    assert agreed_to(changed) != agreed_to(ticket)


def test_ticket_is_open_to_parties_and_to_all_it_asks_at_any_stage() -> None:
    ticket = a_ticket(FINANCE, SECURITY)

    assert [may_see(ticket, who) for who in (ANA, BO, DI)] == [True, True, True]
    assert not may_see(ticket, person("fay", "sales"))
    assert not may_see(ticket, person("ana", "finance", tenant="zeta"))
    assert not may_see(ticket, Identity())
